"""What awaits what: the frames of a task that is suspended, and the task that awaits a hop.

Asked where a hop takes a connection with nothing of the app's in its thread, and by those who look.
It must never raise, never run the app's code, and keep no frame.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from .worker_queue import HopQueue

MOST_DEEP = 200  # of what awaits what

# Python's own awaitables, which don't say what they stand for.
_WRAPPERS = frozenset(
    {"anext_awaitable", "async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}
)
_WRAPPED = _WRAPPERS | {"async_generator", "coroutine", "generator"}


def frames_of(task: Any) -> Iterator[FrameType]:
    """Return the frames of what a task awaits, from its own coroutine inwards."""
    awaited = task.get_coro()
    for _ in range(MOST_DEEP):
        if type(awaited).__name__ in _WRAPPERS:
            parts = gc.get_referents(awaited)
            awaited = next((part for part in parts if type(part).__name__ in _WRAPPED), None)
            continue
        for frame_name, next_name in (
            ("cr_frame", "cr_await"),
            ("gi_frame", "gi_yieldfrom"),
            ("ag_frame", "ag_await"),
        ):
            frame = getattr(awaited, frame_name, None)
            if frame is not None:
                yield frame
                awaited = getattr(awaited, next_name, None)
                break
        else:
            return


def task_that_awaits_this_hop() -> Any:
    """Return the task that awaits the hop in this thread; None if unknown, as on trio."""
    queue = getattr(threading.current_thread(), "queue", None)
    if type(queue) is not HopQueue:
        return None
    for future in list(queue.running or ()):
        if not issubclass(type(future), asyncio.Future):
            continue  # what the hop calls, and with what: the app's
        for callback, *_ in list(getattr(future, "_callbacks", None) or ()):
            task = getattr(callback, "__self__", None)
            is_task = issubclass(type(task), asyncio.Task)
            if is_task and getattr(task, "_fut_waiter", None) is future:
                return task
    return None
