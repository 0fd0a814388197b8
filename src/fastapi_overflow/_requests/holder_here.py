"""Who takes a connection here: the request, task or thread that this code runs for.

Asked at each checkout; and where a process forks, all begins anew in the child. This module is
loaded with SQLAlchemy only. It must never keep a task or a thread alive.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from asyncio import _get_running_loop as get_running_loop
from threading import RLock
from weakref import ref

from .._connections.book import Book
from .._connections.holder import HOP, LOOP, THREAD, Holder
from .._connections.sqlalchemy import Governor
from .._threads.lease import Lease
from . import checkouts
from .at_work import some_at_work
from .checkouts import Checkouts
from .lease_of_request import current_lease
from .outside import current_outside


class _Here(threading.local):
    """What is known of a thread: its holder outside of requests, and whether it runs hops."""

    def __init__(self) -> None:
        thread = threading.current_thread()
        self.place = HOP if type(thread).__name__ == "WorkerThread" else THREAD
        self.found = Holder(None, None, ref(thread)), self.place


_here = _Here()


def find_holder() -> tuple[Holder, int]:
    """Return who takes a connection in this thread, and where."""
    holder, place = _here.found
    if get_running_loop() is not None:
        place = LOOP
    lease = current_lease.get()
    if lease is None or lease.closed:
        if place != THREAD:
            holder = _find_outside(place)
    else:
        holder = lease.holder
        if holder is None:
            holder = make_holder(lease)
    if place == THREAD and "trio" in sys.modules and trio_runs_here():
        place = LOOP
    return holder, place


def make_holder(lease: Lease) -> Holder:
    """Return the holder of a request that turns out to need one: what it would be by now."""
    with _making:  # two hops of a request may come here at once
        if lease.holder is not None:
            found: Holder = lease.holder
            return found
        habits = lease.habits
        holder = Holder(lease, habits)
        if habits is not None:
            holder.endpoint, holder.app_habits = lease.endpoint, lease.app_habits
            holder.began = lease.began
            holder.is_late = habits.are_late
            holder.may_wait = lease.pool.clock.loop() is not None
        if not lease.closed:  # else it has just ended: nobody takes that apart
            lease.holder = holder
            holder.hops = lease.running
        return holder


# Not a Lock: the handler of a signal may take a connection in the middle of these lines.
_making = RLock()


def _find_outside(place: int) -> Holder:
    outside = current_outside.get()
    if outside is not None and (place == HOP or outside.is_of(asyncio.current_task())):
        return outside.holder
    return _here.found[0]


def trio_runs_here() -> bool:
    """Tell whether trio's event loop runs in this thread."""
    try:
        sys.modules["trio"].lowlevel.current_task()
    except (KeyError, RuntimeError):
        return False
    return True


# Asked by each checkout of a QueuePool.
_checkouts = Checkouts(find_holder)
governor = Governor(Book(some_at_work, checkouts.somebody_waited, _checkouts.failed), _checkouts)


def _start_over() -> None:
    """Begin anew in the child of a fork: nothing is this process's that the parent has taken."""
    global _making
    governor.start_over()
    _making = RLock()
    _here.found = Holder(None, None, ref(threading.current_thread())), _here.found[1]


if hasattr(os, "register_at_fork"):
    # A child begins with a book that nobody is in the middle of.
    os.register_at_fork(
        before=governor.book.lock.acquire,
        after_in_parent=governor.book.lock.release,
        after_in_child=governor.book.lock.release,
    )
    os.register_at_fork(after_in_child=_start_over)
