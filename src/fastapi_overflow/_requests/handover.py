"""Where the worker threads of anyio's asyncio backend get the queue of `worker_queue`.

Called when a limiter is made. anyio's own threads wait in `queue.Queue`, one each, which is written
in Python, and wake the event loop for each result. They use three methods of the queue.

It saves work and protects nobody: where anything isn't as expected, anyio's own queue stays, and
nobody is told. anyio's class is private, but the three methods are all that it has used from 3.4 to
4.16.
"""

from __future__ import annotations

import functools
import queue
import sys
from types import FunctionType
from typing import Any

import wrapt

from .worker_queue import HopQueue

# What the threads use of their queue, and how they tell the event loop their results.
USED = frozenset({"get", "put_nowait", "task_done"})
REPORTS = frozenset({"_report_result", "call_soon_threadsafe", "loop"})


def install() -> None:
    """Have anyio's worker threads of this process, from the next one on, wait in a `HopQueue`."""
    backend = sys.modules.get("anyio._backends._asyncio")
    if backend is None:
        return  # trio, whose threads wait for a lock
    try:
        if _is_as_expected(backend.WorkerThread):
            run = backend.WorkerThread.run
            wrapt.wrap_function_wrapper(
                backend, "WorkerThread.__init__", functools.partial(_wrap_init, run)
            )
    except Exception:
        return  # another anyio, or somebody's wrapper in its place


def _is_as_expected(worker_thread: type) -> bool:
    simple_queue = HopQueue.__base__
    if queue.SimpleQueue is not simple_queue or simple_queue.__module__ != "_queue":
        return False  # green threads, all of which the one in C would block, or there is none in C
    methods = vars(worker_thread)
    if type(methods["__init__"]) is not FunctionType:
        return False  # wrapped: by us already, or by others
    run = set(methods["run"].__code__.co_names)
    if type(methods["_report_result"]) is not FunctionType or not run >= REPORTS:
        return False
    used = run.union(methods["stop"].__code__.co_names)
    return used & vars(queue.Queue).keys() == USED


def _wrap_init(run: Any, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> None:
    wrapped(*args, **kwargs)
    # A subclass with a `run` of its own may use more of its queue.
    if type(instance).run is run and type(instance.queue) is queue.Queue:
        # The loop's other threads are found by what anyio keeps of them; a table would keep loops.
        others = (worker.queue for worker in getattr(instance, "workers", ()))
        crew = next((other.crew for other in others if type(other) is HopQueue), None)
        instance.queue = HopQueue(instance, crew)
