"""A stall from its beginning to its end: what it is counted as, and what is told of it.

Called by the pool's observer, and made with the first stall.

It begins when nothing has finished between two looks of the stall watch, and is over when the watch
calls the pool calm, or nobody waits. In between hops may finish: thousands of requests that block
one another are one stall, with one end.

When a stall counts as a deadlock averted: at a look of the stall watch nothing had finished,
somebody waited, and every single thread that ran a hop was waiting for another thread (see
`waits_for_thread`), none at work. Then the pool lent threads beyond the limit. A hop that got such
a thread finished, and within FREED_AFTER seconds the first of those that had been blocked did; or
the other way round, within one look, as who sets another thread free may well report after it. So
the blocked did not come free by themselves, and who freed them would, with anyio's limiter, have
waited for them. It counts once for a stall, however many requests were in it and however often it
paused: anyio's limiter would have deadlocked once.

The count is too low rather than too high: what lease and reserve prevent never stalls and leaves
nothing to count; and where some thread is at work meanwhile, or waits for a bare lock or a row lock
of the database, nobody can tell from outside. What it can't tell from a deadlock: threads that all
wait for something outside of the pool (a timer thread that sets an event), where it comes just
after the pool has grown.
"""

from __future__ import annotations

import math
import time
from types import FrameType
from typing import TYPE_CHECKING

from .stall_log import StallLog

if TYPE_CHECKING:
    from .._threads.pool import TokenPool

# Seconds that one who was blocked may take from coming free to the end of its hop. A guess: some
# ordinary queries long.
FREED_AFTER = 1.0

# What is told of a stall that isn't a deadlock by all appearances. Guesses: on a busy machine often
# nothing finishes for STALL_SECONDS, and nobody wants to read of each thread lent for that.
TELL_AFTER = 1.0  # seconds in which nothing has finished
TELL_GROWN = 7  # threads beyond the limit, more than come of three looks


class Episodes:
    """The stalls of one pool, one after another."""

    def __init__(self, pool: TokenPool) -> None:
        self._pool = pool
        self._log = StallLog()
        self._began: float | None = None  # time.monotonic() of what finished last before a stall
        self._stuck_since: float | None = None  # the same of what finished last, while nothing does
        self._moved_at = 0.0  # time.monotonic() of the look that found the pool moving again
        self._grown_before = 0  # threads beyond the limit, by the pool's counter when it began
        self._grown = 0  # the same at the last look
        self._stacks_at = -math.inf  # time.monotonic() of the last look at the threads' stacks
        self._averted = False  # this stall has been counted as a deadlock averted
        # Whose hops were blocked at the last look that found them all blocked, until the verdict.
        # By their ids: whoever has a token is alive, and leaves these sets with it.
        self._blocked: set[int] | None = None
        self._running: set[int] = set()  # before the pool grew
        self._lent: set[int] = set()  # whose hops got a thread beyond the limit since
        self._ahead: float | None = None  # time.monotonic() when the last of these finished
        self._freed: float | None = None  # the same of the first of the blocked

    def stalled_look(self, seconds: float) -> None:
        """Take note of a look that found nothing finished, before the pool grows.

        :param seconds: since the last look
        """
        counters = self._pool.counters
        now = time.monotonic()
        if self._stuck_since is None:
            self._stuck_since = now - seconds
        if self._began is None:
            self._began = self._stuck_since
            self._grown_before = counters.threads_grown
            self._averted = False
            self._stacks_at = -math.inf
        # Not at each look: in haste they come hundreds of times a second.
        if now - self._stacks_at >= self._pool.stall_seconds / 2:
            self._stacks_at = now
            self._look_at_stacks(now - self._stuck_since)
        self._running = self._who_runs()
        self._grown = counters.threads_grown

    def _look_at_stacks(self, stuck_for: float) -> None:
        frames: list[FrameType] = []
        blocked = False
        try:
            from . import stacks  # late: most processes never stall

            frames = stacks.hop_frames(self._pool.loop)
            blocked = bool(frames) and all(map(stacks.waits_for_thread, frames))
        except Exception:  # noqa: S110 - the pool must grow whatever an interpreter's frames are
            pass
        if blocked and not self._averted:
            self._forget_blocked()
            self._blocked = self._who_runs()
        if (
            (blocked and self._pool.snapshot().waiting_later)  # nothing can come of waiting
            or stuck_for >= TELL_AFTER
            or self._pool.counters.threads_grown - self._grown_before > TELL_GROWN
        ):
            self._log.note(self._pool, frames, stuck_for)

    def grown(self) -> None:
        """Go on after the pool has grown."""
        if self._blocked is not None and self._pool.counters.threads_grown > self._grown:
            self._lent |= self._who_runs() - self._running
        self._running = set()
        self._log.tell(self._pool)

    def stuck_for(self) -> float:
        """Return for how many seconds nothing has finished, by the last look."""
        return 0.0 if self._stuck_since is None else time.monotonic() - self._stuck_since

    def _who_runs(self) -> set[int]:
        return set(map(id, self._pool.borrowers()))

    def moved(self) -> None:
        """Take note of a look that found something finished, or nobody waiting."""
        if self._stuck_since is not None:
            self._stuck_since = None
            self._moved_at = time.monotonic()

    def over(self) -> None:
        """Take note that the stall is over since the pool moved again."""
        if self._began is None:
            return
        seconds = self._moved_at - self._began
        self._began = None
        grown = self._pool.counters.threads_grown - self._grown_before
        self._log.ended(self._pool, seconds, grown)

    # ---- the verdict

    @property
    def awaits_verdict(self) -> bool:
        """Whether `hop_ended` must be told of each hop, for the verdict on this stall."""
        return self._blocked is not None

    def hop_ended(self, borrower: object, ran: bool) -> None:
        """Take note of who has come free, and decide whether a deadlock has been averted.

        :param ran: False for a hop that was cancelled as it got its thread
        """
        if self._blocked is None:
            return
        now = time.monotonic()
        if id(borrower) in self._lent:
            self._lent.discard(id(borrower))
            if ran:
                self._ahead = now
        elif id(borrower) in self._blocked:
            self._blocked.discard(id(borrower))
            if self._freed is None:
                self._freed = now
        if self._freed is None or (self._ahead is None and self._lent):
            return
        if self._ahead is not None:
            after = self._freed - self._ahead
            if -self._pool.stall_seconds <= after <= FREED_AFTER:
                self._pool.counters.deadlocks_averted += 1
                self._averted = True
        self._forget_blocked()

    def _forget_blocked(self) -> None:
        self._blocked = None
        self._lent.clear()
        self._ahead = self._freed = None
