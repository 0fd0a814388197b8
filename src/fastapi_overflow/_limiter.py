"""Who gets a thread, and in which order: the limiter that stands in for anyio's default one.

Called for every hop, from the event loop's thread only. It must never block, never start a thread
of its own, and knows nothing of wrapt, FastAPI or the environment.

Vocabulary, used everywhere in this project:
    limit    how many threads the hops of one event loop may have (anyio: total_tokens)
    token    the right to one thread
    hop      one trip of an async function into a thread and back
    lease    one request's claim: it keeps the token of a finished hop for a few turns of the loop
    linger   what a token does between the hops of its lease
    reserve  tokens of the limit that only later hops (not a request's first) may take
    waiter   a hop that waits for a token
    stall    somebody waits and nothing has finished for a while
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import anyio
from anyio import CapacityLimiterStatistics, WouldBlock
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from ._clock import current_clock
from ._queue import Waiter, WaiterQueue

# Turns of the event loop for which a token lingers while somebody waits. A sync route starts its
# next hop two turns after the last has ended; one more for a middleware in between.
LINGER_TURNS = 3

# Hops in a row for which a lease may keep its token while somebody waits: more than any request but
# a stream or a WebSocket makes, so that those can't keep a new request waiting for ever. A guess.
LINGER_HOPS = 32

# What the own token of a lease does.
NONE, BUSY, LINGERING = range(3)


class Lease:
    """One request's claim to a thread; opened and closed by the limiter."""

    __slots__ = ("closed", "hops", "limiter", "streak", "token", "turn", "waiting_first")

    def __init__(self, limiter: OverflowLimiter, hops: int) -> None:
        self.limiter = limiter
        self.hops = hops  # made so far: the depth of the next one
        self.token = NONE
        self.streak = 0  # hops in a row with the same token
        self.turn = 0  # in which the token began to linger
        self.waiting_first: list[Waiter] | None = None
        self.closed = False


current_lease: ContextVar[Lease | None] = ContextVar("fastapi_overflow_lease", default=None)


class OverflowLimiter(anyio.CapacityLimiter):
    """An `anyio.CapacityLimiter` whose borrowers are the hops of requests.

    A token is *taken* while a hop runs with it and while it lingers. First hops take the regular
    tokens (`limit - reserve`), later hops all of them. Regular tokens go to whoever has waited
    longest; the reserve goes in turn to the later hop of the request that has made most hops, the
    likeliest to hold what others wait for, and to the later hop that has waited longest, so that
    none waits for ever. When the pool stalls, later hops get extra tokens beyond the limit: 1, 2,
    4, ... until something finishes. Those are not replaced when they are given back.

    :param total_tokens: the limit, in threads; math.inf for none
    :param reserve: threads of the limit for later hops; at most all but one in effect
    :param stall_threads: most threads beyond the limit in a stall; None: as many as the limit
    :param stall_seconds: seconds without a finished hop after which the pool is stalled
    """

    # Invariants, between any two calls:
    #   1. While a regular token is free (taken < _regular), nobody waits.
    #   2. While any token is free (taken < _total), no later hop waits.
    #   3. A lease is in _lingering if and only if its token lingers; its token is BUSY if and only
    #      if one borrower's value is the lease. A closed lease doesn't linger.
    #   4. While somebody waits, the watch for stalls is on; while also a token lingers, the turns
    #      of the loop are counted.
    #   5. taken <= max(_total, what was taken when it was lowered) + the stall threads.
    # Therefore no deadlock: a hop that waits for a resource blocks its thread, and whoever holds
    # the resource either runs, and finishes, or waits as a later hop. A later hop is served from
    # the reserve; where that is blocked too, nothing finishes, and the watch adds threads until it
    # is served, up to the bound. By age as well as by depth: so each is served in the end.
    # Assumes: the event loop's thread only; no await between a check and what it allows; whoever
    # takes a token gives it back; a resource is held across hops of requests, not by a first hop.

    __slots__ = (
        "_borrowers",
        "_clock",
        "_counting_turns",
        "_finished",
        "_growth",
        "_hopped",
        "_lingering",
        "_next_is_deepest",
        "_regular",
        "_reserve",
        "_seen_finished",
        "_stall_seconds",
        "_stall_threads",
        "_total",
        "_turn",
        "_waiters",
        "_watching",
        "current_task",
        "is_running_here",
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> OverflowLimiter:
        return object.__new__(cls)  # anyio's own would make one of the backend's

    def __init__(
        self,
        total_tokens: float,
        *,
        reserve: int = 1,
        stall_threads: int | None = None,
        stall_seconds: float = 0.05,
    ) -> None:
        self._clock = current_clock()
        self.current_task = self._clock.current_task
        self.is_running_here = self._clock.is_running_here
        # Whose hops run: the lease whose own token they use, None where the token is given back
        # at once.
        self._borrowers: dict[object, Lease | None] = {}
        self._lingering: dict[Lease, None] = {}  # oldest first
        self._waiters = WaiterQueue()
        self._hopped: WeakSet[Any] = WeakSet()  # tasks that have hopped outside any request
        self._reserve = reserve
        self._stall_threads = stall_threads
        self._stall_seconds = stall_seconds
        self._finished = 0
        self._seen_finished = 0
        self._growth = 1
        self._turn = 0
        self._next_is_deepest = True
        self._counting_turns = False
        self._watching = False
        self.total_tokens = total_tokens

    # ---- the contract of anyio.CapacityLimiter

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *exc_info: object) -> None:
        self.release()

    @property
    def total_tokens(self) -> float:
        return self._total

    @total_tokens.setter
    def total_tokens(self, value: float) -> None:
        if not isinstance(value, int) and not (isinstance(value, float) and math.isinf(value)):
            raise TypeError("total_tokens must be an int or math.inf")
        if value < 0:
            raise ValueError("total_tokens must be >= 0")
        self.resize(value, self._reserve)

    @property
    def borrowed_tokens(self) -> int:
        """The number of hops that run; a token that lingers is free for whoever asks."""
        return len(self._borrowers)

    @property
    def available_tokens(self) -> float:
        """The number of tokens that no hop runs with, those of the reserve included."""
        return self._total - len(self._borrowers)

    def acquire_nowait(self) -> None:
        self.acquire_on_behalf_of_nowait(self.current_task())

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        lease, depth = self._who(borrower)
        if self._take(borrower, lease, depth):
            return
        if self._waiters or not self._lingering:
            raise WouldBlock
        self._end_lingering(next(iter(self._lingering)))
        if not self._take(borrower, lease, depth):
            raise WouldBlock

    async def acquire(self) -> None:
        await self.acquire_on_behalf_of(self.current_task())

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await checkpoint_if_cancelled()
        waiter = self.start_acquire(borrower)
        if waiter is not None:
            await self.wait(waiter)
            return
        try:
            await cancel_shielded_checkpoint()
        except BaseException:
            self._give_back(borrower)  # the caller never got it: to the next waiter
            raise

    def release(self) -> None:
        self.release_on_behalf_of(self.current_task())

    def release_on_behalf_of(self, borrower: object) -> None:
        try:
            lease = self._borrowers.pop(borrower)
        except KeyError:
            raise RuntimeError(
                "this borrower isn't holding any of this CapacityLimiter's tokens"
            ) from None
        self._finished += 1
        if lease is None:
            if self._waiters:
                self._dispatch()
        elif (
            lease.closed
            or not self._total
            or (lease.streak >= LINGER_HOPS and self._waiters)
        ):
            lease.token = NONE
            self._dispatch()
        else:
            lease.token = LINGERING
            lease.turn = self._turn
            self._lingering[lease] = None
            if self._waiters:
                self._count_turns()

    def statistics(self) -> CapacityLimiterStatistics:
        return CapacityLimiterStatistics(
            borrowed_tokens=len(self._borrowers),
            total_tokens=self._total,
            borrowers=tuple(self._borrowers),
            tasks_waiting=len(self._waiters),
        )

    def resize(self, total: float, reserve: int) -> None:
        """Set limit and reserve; who can run now is woken."""
        self._total = total
        self._reserve = reserve
        # The reserve never takes the last token.
        self._regular = total - min(reserve, max(total - 1, 0)) if total < math.inf else total
        while self._lingering and len(self._borrowers) + len(self._lingering) > total:
            self._end_lingering(next(iter(self._lingering)))
        self._dispatch()

    # ---- what hops use

    def start_acquire(self, borrower: object) -> Waiter | None:
        """Take a token for `borrower` at once, or return the waiter to `wait` with."""
        lease, depth = self._who(borrower)
        if self._take(borrower, lease, depth):
            return None
        waiter = Waiter(borrower, lease, depth)
        self._waiters.add(waiter)
        if lease is not None and not depth:
            if lease.waiting_first is None:
                lease.waiting_first = []
            lease.waiting_first.append(waiter)
        if self._lingering:
            self._count_turns()
        if not self._watching:
            self._watch()
        return waiter

    async def wait(self, waiter: Waiter) -> None:
        """Wait until `waiter` is granted its token.

        When cancelled it leaves the queue; granted in that very turn, it hands the token on.
        """
        try:
            await waiter.event.wait()
        except BaseException:
            if waiter.granted:
                self._give_back(waiter.borrower)  # to the next waiter
            else:
                self._forget(waiter)
            raise

    def open_lease(self) -> Lease:
        """Return a new lease for a request that begins in the current task."""
        # A task that has hopped before may hold something: what it calls isn't a first hop.
        return Lease(self, 1 if self.current_task() in self._hopped else 0)

    def close_lease(self, lease: Lease) -> None:
        """End a lease with its request; the token of a hop that outlives it is given back later."""
        lease.closed = True
        try:
            task = self.current_task()
        except RuntimeError:
            return  # an abandoned coroutine: the loop is gone, and all who could wait with it
        if lease.hops and task is not None:
            self._hopped.add(task)
        if lease.token == LINGERING:
            self._end_lingering(lease)
            self._dispatch()

    # ---- tokens

    def _who(self, borrower: object) -> tuple[Lease | None, int]:
        """Return the lease of the caller, if any, and the depth of its hop."""
        if borrower in self._borrowers:
            raise RuntimeError(
                "this borrower is already holding one of this CapacityLimiter's tokens"
            )
        lease = current_lease.get()
        if lease is not None and lease.limiter is self and not lease.closed:
            return lease, lease.hops
        task = self.current_task()
        if task in self._hopped:
            return None, 1
        if task is not None:  # None: a callback of the loop, not a task
            self._hopped.add(task)
        return None, 0

    def _take(self, borrower: object, lease: Lease | None, depth: int) -> bool:
        """Take a token without waiting, if the invariants allow it."""
        if lease is not None and lease.token == LINGERING:
            del self._lingering[lease]
            lease.token = BUSY
            lease.hops += 1
            lease.streak += 1
            self._borrowers[borrower] = lease
            return True
        taken = len(self._borrowers) + len(self._lingering)
        if taken >= (self._total if depth else self._regular):
            return False
        self._grant(borrower, lease)
        return True

    def _grant(self, borrower: object, lease: Lease | None) -> None:
        if lease is None or lease.closed:
            self._borrowers[borrower] = None
            return
        if lease.token == NONE:
            lease.token = BUSY
            lease.streak = 0
            self._borrowers[borrower] = lease
        else:  # a hop beside the lease's own
            self._borrowers[borrower] = None
        lease.hops += 1
        if lease.waiting_first:
            # Hops that began side by side: what still waits belongs to a request under way now.
            waiting, lease.waiting_first = lease.waiting_first, None
            for waiter in waiting:
                self._waiters.promote(waiter)

    def _give_back(self, borrower: object) -> None:
        """Return the token of a hop that never ran."""
        lease = self._borrowers.pop(borrower)
        if lease is not None:
            lease.token = NONE
        self._dispatch()

    def _end_lingering(self, lease: Lease) -> None:
        del self._lingering[lease]
        lease.token = NONE

    def _forget(self, waiter: Waiter) -> None:
        self._waiters.remove(waiter)
        if waiter.lease is not None and waiter.lease.waiting_first and not waiter.depth:
            waiter.lease.waiting_first.remove(waiter)

    def _admit(self, waiter: Waiter) -> None:
        self._forget(waiter)
        waiter.granted = True
        self._grant(waiter.borrower, waiter.lease)
        waiter.event.set()

    def _dispatch(self) -> None:
        """Restore invariants 1 and 2. Computed from what is taken, not from what has changed."""
        waiters = self._waiters
        while waiters:
            taken = len(self._borrowers) + len(self._lingering)
            if taken < self._regular:
                self._admit(waiters.oldest())
            elif taken < self._total and waiters.later:
                self._admit(self._next_later())
            else:
                return

    def _next_later(self) -> Waiter:
        """Choose who gets a token of the reserve or of the growth."""
        # Deepest only would let busy WebSockets, thousands of hops deep, keep out the request that
        # holds what everybody waits for; oldest only took 24 times as long in one measured shape.
        by_depth, self._next_is_deepest = self._next_is_deepest, not self._next_is_deepest
        return self._waiters.deepest() if by_depth else next(iter(self._waiters.later))

    # ---- turns: the end of lingering

    def _count_turns(self) -> None:
        if not self._counting_turns:
            self._counting_turns = True
            self._clock.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._counting_turns = False
        if not self._waiters:
            return
        self._turn += 1
        late = []
        for lease in self._lingering:
            if self._turn - lease.turn < LINGER_TURNS:
                break
            late.append(lease)
        for lease in late:
            self._end_lingering(lease)
        self._dispatch()
        if self._waiters and self._lingering:
            self._count_turns()

    # ---- the watch: stalls

    def _watch(self) -> None:
        self._watching = True
        self._seen_finished = self._finished
        self._clock.call_later(self._stall_seconds, self._on_watch)

    def _on_watch(self) -> None:
        if not self._waiters:
            self._watching = False
            self._growth = 1
        elif self._finished != self._seen_finished:
            self._growth = 1
            self._watch()
        else:
            # The loop itself may have been held up: let what has finished meanwhile report first.
            self._confirm_stall(LINGER_TURNS)

    def _confirm_stall(self, turns: int) -> None:
        if turns:
            self._clock.call_soon(lambda: self._confirm_stall(turns - 1))
            return
        if self._waiters and self._finished == self._seen_finished:
            self._grow()
        self._watch()

    def _grow(self) -> None:
        """Let somebody run although no token is free for it."""
        taken = len(self._borrowers) + len(self._lingering)
        if not self._total:
            return  # the app has closed the pool
        if not self._waiters.later:
            # All threads wait for something and only new requests are left: the rest of the limit
            # is theirs as in stock (40 threads that meet at a barrier), but nothing beyond it.
            while self._waiters and taken < self._total:
                self._admit(self._waiters.oldest())
                taken += 1
            return
        extra = self._total if self._stall_threads is None else self._stall_threads
        for _ in range(int(min(self._growth, self._total + extra - taken))):
            if not self._waiters.later:
                break
            self._admit(self._next_later())
        self._growth *= 2

    # ---- for the tests

    def _check(self) -> None:
        """Assert the invariants."""
        taken = len(self._borrowers) + len(self._lingering)
        self._waiters.check()
        assert taken >= self._regular or not self._waiters
        assert taken >= self._total or not self._waiters.later
        own = [lease for lease in self._borrowers.values() if lease is not None]
        assert len(own) == len(set(own))
        assert all(lease.token == BUSY for lease in own)
        assert all(lease.token == LINGERING and not lease.closed for lease in self._lingering)
        assert self._watching or not self._waiters
        assert self._counting_turns or not (self._waiters and self._lingering)
