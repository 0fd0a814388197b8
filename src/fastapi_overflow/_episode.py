"""A stall from its beginning to its end: what it is counted as, and what is told of it.

Called by the stall watch. It must never raise, and must cost nothing while the pool isn't stalled.

When a stall counts as a deadlock averted. Three things must have been seen, in this order:
    1. Nothing had finished for a while, somebody waited, and every single thread that ran a hop was
       waiting for another thread (see `waits_for_thread`): none did any work of its own.
    2. Hops that got their thread only in the stall (the rest of the reserve, or beyond the limit)
       finished, before any of those that were blocked.
    3. Then one of the blocked hops finished.
So the blocked ones did not come free by themselves, and those that went ahead would, with anyio's
limiter, have waited for them: neither had moved. That is a deadlock, and it didn't last. It counts
once for a stall, however many requests were in it. The count is too low rather than too high: the
deadlocks that lease and reserve prevent never stall and leave nothing to count, and where a thread
does some slow work meanwhile, or waits for a bare lock or a row lock of the database, nobody can
tell from outside. What it can't tell from a deadlock: threads that all wait for something outside
the pool (a condition that a timer thread sets) while other hops went ahead.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from . import _stacks
from ._stall_log import StallLog

if TYPE_CHECKING:
    from ._pool import TokenPool


class Episodes:
    """The stalls of one pool, one after another."""

    def __init__(self, pool: TokenPool) -> None:
        self._pool = pool
        self._log = StallLog()
        self._began: float | None = None  # time.monotonic(), while stalled
        self._grown = 0  # threads beyond the limit, by the pool's counter when it began
        # The hops that were blocked, until one of them finishes; None: not a deadlock so far.
        self._blocked: frozenset[object] | None = None
        self._went_ahead = False

    @property
    def stalled(self) -> bool:
        return self._began is not None

    def stalled_look(self) -> None:
        """Take note of a look that found nothing finished, before the pool grows."""
        counters = self._pool.counters
        frames: list[Any] | None = None
        try:
            if self._blocked is None:
                frames = _stacks.hop_frames(self._pool.loop)
                if frames and all(map(_stacks.waits_for_thread, frames)):
                    self._watch_finishes()
        except Exception:  # noqa: S110 - the pool must grow whatever an interpreter's frames are
            pass
        if self._began is None:
            self._began = time.monotonic()
            self._grown = counters.threads_grown
            counters.stalls += 1
            self._log.began(self._pool, frames)

    def grown(self) -> None:
        """Go on after the pool has grown."""
        self._log.tell(self._pool)

    def over(self) -> None:
        """Take note that something has finished, or that nobody waits any longer."""
        if self._began is None:
            return
        seconds = time.monotonic() - self._began
        self._began = None
        self._log.ended(self._pool, seconds, self._pool.counters.threads_grown - self._grown)

    # ---- the verdict

    def _watch_finishes(self) -> None:
        # In the place of the pool's method, for as long as it takes: no other hop pays for it.
        self._blocked = self._pool.running()
        self._went_ahead = False
        vars(self._pool)["finish"] = self._finish

    def _finish(self, borrower: object) -> None:
        type(self._pool).finish(self._pool, borrower)
        if self._blocked is not None and borrower not in self._blocked:
            self._went_ahead = True
            return
        self._blocked = None
        vars(self._pool).pop("finish", None)
        if self._went_ahead:
            self._pool.counters.deadlocks_averted += 1
