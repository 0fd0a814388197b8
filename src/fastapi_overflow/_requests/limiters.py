"""The limiter of each event loop: made at the first hop in it, found again at every hop.

Called for every hop, and by those who look at all loops of the process. It must keep no loop alive.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from threading import RLock
from typing import TYPE_CHECKING, Protocol
from weakref import ref

from anyio import to_thread
from anyio.lowlevel import RunVar

from .. import _settings
from .._threads.clock import current_clock
from .._threads.counters import Counters
from .._threads.pool import TokenPool
from .limiter import OverflowLimiter

STOCK_LIMIT = 40  # threads: anyio's default, and trio's

# anyio's own, whatever stands in its place later; None in a version without it, as which the app
# runs unpatched, but must still be able to ask `patched()`.
_anyio_current_limiter = getattr(to_thread, "current_default_thread_limiter", None)


if TYPE_CHECKING:  # as in `_threads.clock`
    from .._threads.observer import Observer

    class AttachedObserver(Observer, Protocol):
        """Who is told what one pool does."""

        def attach(self, pool: TokenPool) -> None:
            """Take note of the pool, in which nothing has happened yet."""


# Makes who is told of a new loop's pool; set by `_watching`, which knows this room.
make_observer: Callable[[], AttachedObserver] | None = None

_limiters: RunVar[OverflowLimiter] = RunVar("fastapi_overflow_limiter")

# The pool last looked up, by any loop: mostly there is only one. Weak, not to outlive its loop.
_latest: Callable[[], TokenPool | None] = lambda: None  # noqa: E731


def current_limiter() -> OverflowLimiter:
    """Return the limiter of the running event loop, made at the first call in it.

    :raises Exception: where no event loop runs; which one depends on the version of anyio
    """
    try:
        return _limiters.get()
    except LookupError:
        observer = None if make_observer is None else make_observer()
        limiter = _new_limiter(observer)
        _limiters.set(limiter)
        all_loops().add(limiter)
        if observer is not None:
            observer.attach(limiter.pool)  # once it can be found by who begins to listen just now
        return limiter


def current_pool() -> TokenPool:
    """Return the pool of the running event loop: faster on asyncio than `current_limiter`."""
    global _latest
    pool = _latest()  # one look, other threads' loops write it too
    if pool is None or not pool.is_running_here():
        pool = current_limiter().pool
        _latest = ref(pool)
    return pool


def _new_limiter(observer: Observer | None) -> OverflowLimiter:
    settings = _settings.current()
    _settings.warn_of_late_changes()
    limit: float = settings.limit
    # What the app has set on anyio's own limiter before a late patch() stays in force.
    if _anyio_current_limiter is not None:
        stock = _anyio_current_limiter().total_tokens
        if stock != STOCK_LIMIT:
            limit = stock
    if not settings.disabled:
        from . import handover  # late: not at the cost of importing Starlette

        handover.install()
    return OverflowLimiter(
        limit,
        reserve=settings.reserve,
        stall_threads=settings.stall_threads,
        stall_seconds=settings.stall_seconds,
        max_wait=settings.max_wait,
        clock=current_clock(),
        observer=observer,
    )


class _Loops:
    """The pools of a process's event loops, and what those counted that have ended."""

    def __init__(self) -> None:
        # Held for a few lines, none of which waits for anything; a finalizer may come in between.
        self._lock = RLock()
        # The limiter goes with its loop, and the pool with it; what they counted is kept.
        self._known: list[tuple[ref[OverflowLimiter], Counters]] = []
        self._ended = Counters()

    def add(self, limiter: OverflowLimiter) -> None:
        with self._lock:
            self._sort_out()
            self._known.append((ref(limiter), limiter.pool.counters))

    def look(self) -> tuple[list[TokenPool], Counters]:
        """Return the pools of the loops that are open, and the totals of the others."""
        with self._lock:
            pools = list(self._sort_out())
            ended = Counters()
            ended.add_totals(self._ended)
            return pools, ended

    def _sort_out(self) -> list[TokenPool]:
        known, self._known = self._known, []
        pools = []
        for entry in known:
            limiter = entry[0]()
            if limiter is None or limiter.pool.clock.is_over():
                self._ended.add_totals(entry[1])
            else:
                self._known.append(entry)
                pools.append(limiter.pool)
        return pools


_loops: dict[int, _Loops] = {}  # by process id: one entry, and after a fork the parent's


def all_loops() -> _Loops:
    """Return the event loops of this process; after a fork none, as all were the parent's."""
    # Not by os.register_at_fork(): that keeps its function alive, with all that this module has
    # imported, for each garbage collection at the end of Python. They took 0.5 % of an import of
    # FastAPI.
    process = os.getpid()
    loops = _loops.get(process)
    if loops is None:
        loops = _loops.setdefault(process, _Loops())  # in one step: other threads may be here too
        for other in list(_loops):
            if other != process:
                _loops.pop(other, None)
    return loops


def live_pools() -> Iterator[TokenPool]:
    """Return the pools of all event loops of this process that are open."""
    return iter(all_loops().look()[0])
