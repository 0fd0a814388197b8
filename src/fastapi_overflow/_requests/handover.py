"""How a hop reaches its thread on asyncio: through a queue written in C.

Called when a limiter is made. anyio's worker threads wait in `queue.Queue`, which is written in
Python: each hop takes its lock three times and wakes its thread by a condition, 11 to 17 % of the
instructions of a hop. They use three methods of it, and `queue.SimpleQueue` has two of those.

It saves work and protects nobody: where anything isn't as expected, anyio's own queue stays, and
nobody is told. anyio's class is private, but the three methods are all that it has used from 3.4 to
4.16.
"""

from __future__ import annotations

import queue
import sys
import time
from types import FunctionType
from typing import Any

import wrapt

try:  # whatever gevent or eventlet have put in its place in `queue`
    from _queue import SimpleQueue
except ImportError:  # an interpreter without the one in C
    from queue import SimpleQueue

USED = frozenset({"get", "put_nowait", "task_done"})


class HopQueue(SimpleQueue[Any]):
    """What one worker thread waits for; one thread puts, another gets.

    Without slots: a method may be replaced on the object, as on anyio's.
    """

    _put = 0  # written by the event loop's thread only
    _done = 0  # by the worker thread only

    def __init__(self) -> None:
        # What the thread is at. The next hop may be put while it is about to say that it has done
        # the last one, but no third.
        self.items: list[Any] = [None, None]

    def put_nowait(self, item: Any) -> None:
        self.items[self._put & 1] = item
        self._put += 1
        super().put_nowait(item)

    def task_done(self) -> None:
        self.items[self._done & 1] = None
        self._done += 1

    def join(self) -> None:
        """Wait until all that was put is done. Nobody in anyio but its tests does, so it polls."""
        while self._done < self._put:
            time.sleep(0.001)


def install() -> None:
    """Have anyio's worker threads of this process, from the next one on, wait in a `HopQueue`."""
    backend = sys.modules.get("anyio._backends._asyncio")
    if backend is None:
        return  # trio, whose threads wait for a lock
    try:
        if _is_as_expected(backend.WorkerThread):
            wrapt.wrap_function_wrapper(backend, "WorkerThread.__init__", _wrap_init)
    except Exception:
        return  # another anyio, or somebody's wrapper in its place


def _is_as_expected(worker_thread: type) -> bool:
    if queue.SimpleQueue is not SimpleQueue or SimpleQueue.__module__ != "_queue":
        return False  # green threads, all of which the one in C would block, or there is none in C
    methods = vars(worker_thread)
    if type(methods["__init__"]) is not FunctionType:
        return False  # wrapped: by us already, or by others
    names = {name for method in ("run", "stop") for name in methods[method].__code__.co_names}
    return names & vars(queue.Queue).keys() == USED


def _wrap_init(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> None:
    wrapped(*args, **kwargs)
    if type(instance.queue) is queue.Queue:
        instance.queue = HopQueue()
