"""Which requests, and tasks outside of any, have something running in a thread at this moment.

Asked where a checkout finds no connection and may have to fail: never for a hop or a checkout that
goes on. A hop pays nothing for it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection
from contextvars import Context
from functools import partial
from types import BuiltinMethodType, FrameType
from typing import Any

from .._threads.lease import BUSY, Lease
from .lease_of_request import current_lease
from .outside import current_outside
from .worker_queue import HopQueue

# Modules in which a thread waits for the event loop.
_WAITS_FOR_LOOP = frozenset({"anyio.from_thread", "concurrent.futures._base"})


def some_at_work(owners: Collection[Any], waiting: Collection[int], loop_stands: bool) -> bool:
    """Tell whether one of these requests, or tasks outside of any, may go on by itself.

    It runs in a thread and waits neither for a connection nor for the event loop. As far as can be
    seen: of anyio's threads and of asyncio's executor; a thread that an app has started itself
    isn't known to belong to a request.

    :param owners: the leases of requests, the holders of tasks
    :param waiting: the threads that wait for a connection
    :param loop_stands: whether the loop of this thread stands still: then a request of another loop
        goes on by itself too
    """
    leases = [owner for owner in owners if isinstance(owner, Lease)]
    if loop_stands and not all(lease.closed or lease.pool.is_running_here() for lease in leases):
        return True
    stacks = sys._current_frames() if getattr(sys, "_is_gil_enabled", _yes)() else {}
    stacks.pop(threading.get_ident(), None)  # it leads back to this variable
    threads = [(thread, getattr(thread, "queue", None)) for thread in threading.enumerate()]
    queues = [queue for _, queue in threads if type(queue) is HopQueue]
    unknown = not queues
    # First the hops that no thread has taken yet: meanwhile they are taken, never given back.
    for each in queues:
        context = _context_of_hop(each.waiting)
        if _is_of(context, owners):
            return True
    for thread, queue in threads:
        frame = stacks.get(thread.ident or 0)
        if thread.ident in waiting:
            continue
        if type(queue) is HopQueue:
            context = _context_of_hop(queue.running)
        else:
            context = _context_in_executor(frame)
        if _is_of(context, owners) and not _waits(frame):
            return True
    # Threads that say nothing of what they do: trio's, or those of another anyio.
    return unknown and any(lease.token == BUSY for lease in leases)


def _is_of(context: Context | None, owners: Collection[Any]) -> bool:
    """Tell whether code runs in this context for one of these requests or tasks."""
    if context is None:
        return False
    outside = context.get(current_outside)
    return context.get(current_lease) in owners or (
        outside is not None and outside.holder in owners
    )


def leases_in_executors() -> set[int]:
    """Return the ids of the leases of requests that have work in a thread of asyncio's executor.

    As far as can be seen: of what runs in their contexts, and where stacks can be read.
    """
    if not getattr(sys, "_is_gil_enabled", _yes)():
        return set()
    stacks = sys._current_frames()
    stacks.pop(threading.get_ident(), None)
    contexts = map(_context_in_executor, stacks.values())
    leases = (context.get(current_lease) for context in contexts if context is not None)
    return {id(lease) for lease in leases if lease is not None}


def _context_of_hop(item: Any) -> Context | None:
    return next((part for part in item or () if type(part) is Context), None)


def _yes() -> bool:
    return True


def _waits(frame: FrameType | None) -> bool:
    """Tell whether a thread waits for an event loop, as far as can be seen."""
    while frame is not None:
        if frame.f_globals.get("__name__") in _WAITS_FOR_LOOP:
            return True
        frame = frame.f_back
    return False


def _context_in_executor(frame: FrameType | None) -> Context | None:
    """Return the context of what a thread of an executor runs, where it was given one.

    So does `asyncio.to_thread`.
    """
    while frame is not None:
        if frame.f_code.co_name == "run" and frame.f_globals.get("__name__", "").startswith(
            "concurrent.futures"
        ):
            # The frame goes with the work, so what a look at its variables keeps does too.
            return _context_of(frame.f_locals.get("self"))
        frame = frame.f_back
    return None


def _context_of(item: Any) -> Context | None:
    """Return the context that an executor's work runs in, where it calls one's `run`."""
    try:
        function, args = (item.fn, item.args) if hasattr(item, "fn") else item.task[:2]
        called = [function]
        if type(function) is partial:
            called += [function.func, *function.args]
        # Some hand `run` on, as asgiref does, to something of their own that calls it.
        called += args
        runs = (each for each in called if type(each) is BuiltinMethodType)
        contexts = (each.__self__ for each in runs)
        return next((each for each in contexts if type(each) is Context), None)
    except Exception:
        return None  # another Python
