"""A stall from its beginning to its end: what it is counted as, and what is told of it.

Called by the stall watch. It must never raise, and must cost nothing while the pool isn't stalled.

When a stall counts as a deadlock averted: at a look of the stall watch nothing had finished,
somebody waited, and every single thread that ran a hop was waiting for another thread (see
`waits_for_thread`), none at work. Then the pool lent threads beyond the limit. The next of its hops
to finish were one of those that got such a thread and one of those that had been blocked: in this
order, or both before the watch looked again, as who sets another thread free may well report after
it. So the blocked did not come free by themselves, and who freed them would, with anyio's limiter,
have waited for them. It counts once for a stall, however many requests were in it.

The count is too low rather than too high: what lease and reserve prevent never stalls and leaves
nothing to count; and where some thread is at work meanwhile, or waits for a bare lock or a row lock
of the database, nobody can tell from outside. What it can't tell from a deadlock: threads that all
wait for something outside of the pool (a timer thread that sets an event), where it comes just
after the pool has grown.
"""

from __future__ import annotations

import time
from types import FrameType
from typing import TYPE_CHECKING

from ._stall_log import StallLog

if TYPE_CHECKING:
    from ._pool import TokenPool


class Episodes:
    """The stalls of one pool, one after another."""

    def __init__(self, pool: TokenPool) -> None:
        self._pool = pool
        self._log = StallLog()
        self._began: float | None = None  # time.monotonic(), while stalled
        self._grown_before = 0  # threads beyond the limit, by the pool's counter when it began
        self._grown = 0  # the same at the last look
        # Whose hops were blocked at the last look that found them all blocked, until the verdict.
        self._blocked: frozenset[object] | None = None
        self._running: frozenset[object] = frozenset()  # before the pool grew
        self._lent: set[object] = set()  # whose hops got a thread beyond the limit since
        self._ahead = False  # one of these has finished
        self._freed = False  # one of the blocked has

    @property
    def stalled(self) -> bool:
        return self._began is not None

    def stalled_look(self) -> None:
        """Take note of a look that found nothing finished, before the pool grows."""
        counters = self._pool.counters
        frames: list[FrameType] | None = None
        try:
            from . import _stacks  # late: most processes never stall

            frames = _stacks.hop_frames(self._pool.loop)
            if frames and all(map(_stacks.waits_for_thread, frames)):
                self._watch_finishes()
        except Exception:  # noqa: S110 - the pool must grow whatever an interpreter's frames are
            pass
        self._running = self._pool.running()
        self._grown = counters.threads_grown
        if self._began is None:
            self._began = time.monotonic()
            self._grown_before = counters.threads_grown
            counters.stalls += 1
            self._log.began(self._pool, frames)

    def grown(self) -> None:
        """Go on after the pool has grown."""
        if self._blocked is not None and self._pool.counters.threads_grown > self._grown:
            self._lent |= self._pool.running() - self._running
        self._running = frozenset()
        self._log.tell(self._pool)

    def over(self) -> None:
        """Take note that something has finished, or that nobody waits any longer."""
        if self._freed:
            self._close()  # they came free by themselves
        if self._began is None:
            return
        seconds = time.monotonic() - self._began
        self._began = None
        self._log.ended(self._pool, seconds, self._pool.counters.threads_grown - self._grown_before)

    # ---- the verdict

    def _watch_finishes(self) -> None:
        # In the place of the pool's method, for as long as it takes: no other hop pays for it.
        self._close()
        self._blocked = self._pool.running()
        vars(self._pool)["finish"] = self._finish

    def _finish(self, borrower: object) -> None:
        type(self._pool).finish(self._pool, borrower)
        if self._blocked is None:
            return
        self._freed |= borrower in self._blocked
        self._ahead |= borrower in self._lent
        if self._freed and self._ahead:
            self._pool.counters.deadlocks_averted += 1
            self._close()

    def _close(self) -> None:
        self._blocked = None
        self._lent.clear()
        self._ahead = self._freed = False
        vars(self._pool).pop("finish", None)
