"""The pool: who of all hops gets a token, and when it is given back.

Called for every hop, from the event loop's thread only. It must never block, and never look at what
a hop calls.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from .callers import Callers
from .counters import Counters
from .dispatcher import Dispatcher
from .lease import LINGERING, Lease, Waiter
from .patience import Patience
from .stall_watch import StallWatch

if TYPE_CHECKING:
    from .clock import Clock
    from .growth import Growth
    from .observer import Observer
    from .snapshot import Snapshot

ALREADY_HOLDING = "this borrower is already holding one of this CapacityLimiter's tokens"  # anyio's


class TokenPool:
    """The tokens of one event loop: who has one, who waits, who is next.

    First hops take the regular tokens (`limit - reserve`), by fair share between routes, later hops
    all of them. A route that has none gets one of a few quiet tokens beyond the limit when none is
    free. A finished hop's token lingers with its lease. When the pool stalls, later hops get extra
    tokens beyond the limit, 1, 2, 4, ... until hops finish again; they are not replaced when they
    are given back.

    :param clock: of the event loop whose pool this is
    :param limit: in threads; math.inf for none
    :param reserve: threads of the limit for later hops; at most all but one in effect
    :param stall_threads: most threads beyond the limit in a stall; None: as many as the limit
    :param stall_seconds: seconds without a finished hop after which the pool is stalled
    :param max_wait: seconds after which a first hop is refused, where its request allows it; None:
        never
    :param observer: told what happens
    """

    # Invariants, between any two calls:
    #   1. A lease lingers if and only if its token is LINGERING; its token is BUSY if and only if
    #      it is the value of one borrower. A closed lease doesn't linger.
    #   2. `tokens.extra` is the number of tokens taken that aren't regular.
    #   3. No more regular tokens are taken than there are, or were when the limit was lowered; no
    #      more others than the reserve, the stall threads and the quiet ones together.
    #   4. While a regular token is free, nobody waits. While a quiet one is free, no first hop
    #      waits of a known route without a token.
    #   5. While one of the reserve is free, no later hop waits.
    #   6. While somebody waits, the stall watch is on; while also a token lingers, the turns of the
    #      loop are counted.
    #   7. Every token given out is given back by exactly one of `finish` and `abandon`.
    #   8. While somebody waits, a share counts the tokens of its route: of all leases and of first
    #      hops outside requests, less those of no known route that had begun before.
    # Therefore no deadlock: a hop that waits for a resource blocks its thread, and whoever holds
    # the resource either runs, and finishes, or waits as a later hop. A later hop is served from
    # the reserve; where that is blocked too, nothing finishes, and the stall watch adds threads
    # until it is served, up to the bound; hops of one kind get no more than half of that until
    # nobody else comes. Where others get the reserve before it for too long, the stall watch adds
    # threads by age. One of a background task, which has no right of way, is a later hop in all of
    # this: it may hold something.
    # Assumes: the event loop's thread only; no await between a check and what it allows; whoever
    # takes a token gives it back; what is held across hops was not got in a hop that still waits.

    def __init__(
        self,
        clock: Clock,
        limit: float,
        reserve: int,
        *,
        stall_threads: int | None = None,
        stall_seconds: float = 0.05,
        max_wait: float | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.clock = clock
        if observer is None:
            from .observer import NoObserver  # late: a patched app always gives one

            observer = NoObserver()
        self.observer = observer
        self.counters = Counters()
        self._callers = Callers(clock.current_task)
        self._dispatcher = dispatcher = Dispatcher(
            clock,
            limit,
            reserve,
            stall_threads=stall_threads,
            counters=self.counters,
            observer=self.observer,
        )
        self._waiters = dispatcher.waiters
        self.held_back = 0  # requests that wait before they begin; kept by who has them wait
        self.looked_at: set[object] = set()  # what its loop looks at; kept by who has it look
        self.leases: set[Lease] = set()  # that are open
        self.patience = None if max_wait is None else Patience(max_wait, clock, self._refuse)
        self._stall_watch = StallWatch(self, clock, stall_seconds, self.observer)
        # Not methods that call these: one Python call less for each hop.
        self.current_task = clock.current_task
        self.is_running_here = clock.is_running_here
        self.somebody_waits = dispatcher.somebody_waits
        self.finish = dispatcher.finish
        self.abandon = dispatcher.abandon

    def resize(self, limit: float, reserve: int) -> None:
        """Set limit and reserve; who may run now is woken, tokens that linger are taken back."""
        tokens, lingering = self._dispatcher.tokens, self._dispatcher.lingering
        tokens.resize(limit, reserve)
        too_many = tokens.taken - tokens.extra - tokens.regular
        ended = list(lingering.end_oldest(too_many, extra=False))
        ended += lingering.end_oldest(tokens.taken - limit)
        self._dispatcher.give_back(ended)

    # ---- leases

    def open_lease(self, *, under_way: bool = False) -> Lease:
        """Return a new lease for a request that begins in the current task.

        :param under_way: whether whoever calls the app may hold something already. So may a task
            that has hopped before. The first hop of such a request counts as a later one
        """
        lease = self._callers.open_lease(self, under_way)
        self.leases.add(lease)
        return lease

    def close_lease(self, lease: Lease) -> None:
        """End a lease with its request; a hop that outlives it gives its token back at once.

        From any thread, and at any moment: the garbage collector ends a request that was abandoned.
        """
        if self.clock.is_in_task(lease.opener()):
            self._close_lease(lease)
        else:  # not in the middle of what the loop does, and not at all if there is none any more
            self.clock.call_soon_threadsafe(lambda: self._close_lease(lease))

    def _close_lease(self, lease: Lease) -> None:
        self.leases.discard(lease)
        lease.closed = True
        if lease.hops:
            self._callers.note_closed(lease)
        if lease.waiting_first:
            for waiter in lease.waiting_first:
                self._waiters.outlives(waiter)
        if lease.token == LINGERING:
            self._dispatcher.give_back(self._dispatcher.lingering.end((lease,)))

    def keep(self, borrower: object, lease: Lease) -> bool:
        """Use the token of `lease` for a hop that has another limiter, if it lingers; tell whether.

        As with any hop, `finish` ends it.
        """
        if lease.token != LINGERING:
            return False
        return self._dispatcher.take(borrower, lease, lease.hops)

    def linger_anew(self, lease: Lease) -> None:
        """Have the token of `lease`, if it lingers, do so as if it had only begun."""
        if lease.token == LINGERING:
            self._dispatcher.lingering.end((lease,))
            self._dispatcher.lingering.add(lease)

    # ---- hops; `finish` or `abandon` ends one

    def start_acquire(
        self, borrower: object, lease: Lease | None, func: object = None
    ) -> Waiter | None:
        """Take a token for `borrower` at once, or return the waiter to `wait` with.

        :param lease: of the request on whose behalf the hop is made; one that is closed or of
            another loop counts as none
        :param func: what the hop will call, as far as is known
        :raises RuntimeError: if the borrower has a token already
        """
        dispatcher = self._dispatcher
        if borrower in dispatcher.tokens.borrowers:
            raise RuntimeError(ALREADY_HOLDING)
        if lease is not None and (lease.closed or lease.pool is not self):
            lease = None
        if lease is not None and borrower is lease.task():
            depth = lease.hops
        else:
            depth = self._callers.depth(borrower, lease)
        if dispatcher.take(borrower, lease, depth, func):
            return None
        dispatcher.count_shares()
        waiter = Waiter(borrower, lease, depth, self.clock.wake_up(), func)
        self._waiters.add(waiter)
        self.counters.wait_began(waiter.since, self._waiters.size)
        if lease is not None:
            lease.waiting += 1
            if not depth:
                if lease.waiting_first is None:
                    lease.waiting_first = []
                lease.waiting_first.append(waiter)
                if self.patience is not None and lease.refusal is not None:
                    self.patience.add(waiter)
        dispatcher.lingering.count_turns()
        self._stall_watch.watch()
        return waiter

    def acquire_nowait(self, borrower: object, lease: Lease | None) -> bool:
        """Take a token for `borrower`, one that lingers if need be; tell whether there was one."""
        dispatcher = self._dispatcher
        if borrower in dispatcher.tokens.borrowers:
            raise RuntimeError(ALREADY_HOLDING)
        if lease is not None and (lease.closed or lease.pool is not self):
            lease = None
        depth = self._callers.depth(borrower, lease)
        if dispatcher.take(borrower, lease, depth):
            return True
        if self._waiters.size:
            return False
        dispatcher.give_back(dispatcher.lingering.end_oldest(math.inf))
        return dispatcher.take(borrower, lease, depth)

    async def wait(self, waiter: Waiter) -> None:
        """Wait until `waiter` is granted its token.

        When cancelled it leaves the queue; granted in that very turn, it hands the token on.
        """
        try:
            await waiter.wake_up
        except BaseException:
            if waiter.granted:
                self.abandon(waiter.borrower)  # its token goes to the next waiter
            elif waiter.waiting:
                self._dispatcher.leave_queue(waiter)  # it has no token
            raise
        if waiter.refusal is not None:
            raise waiter.refusal.error()
        if not waiter.granted:
            raise RuntimeError(ALREADY_HOLDING)

    def count_refused(self, seconds: float) -> None:
        """Count a request that has been turned away after so many seconds."""
        self.counters.refused += 1
        self.observer.refused(seconds)

    def _refuse(self, waiter: Waiter) -> None:
        """Turn a hop away that has waited for too long, if its request holds nothing."""
        lease = waiter.lease
        if waiter.depth or lease is None or lease.closed or lease.answered:
            return
        if lease.refusal is None or not lease.refusal.holds_nothing():
            return
        self._dispatcher.leave_queue(waiter)
        waiter.refusal = lease.refusal
        self.count_refused(time.monotonic() - waiter.since)
        waiter.wake()

    # ---- called by the stall watch

    def progress(self) -> tuple[int, int] | None:
        if not self._waiters.size:
            return None
        return self._dispatcher.finished, self._dispatcher.finished_extra

    def nobody_waits(self) -> None:
        """Forget what each route has: it only matters to those who wait."""
        self._dispatcher.forget_shares()

    def grow(self, most: int) -> None:
        """Let up to `most` of those that wait run although no token is free for them."""
        self._growth().grow(most)

    def relieve(self, most: int) -> None:
        """Let those run who have waited longest behind others that go on for ever."""
        self._growth().relieve(most)

    def _growth(self) -> Growth:
        from .growth import Growth  # late: most processes never stall

        return Growth(self._dispatcher)

    def stall_is_over(self) -> None:
        """Forget which kinds of hops have got threads beyond the limit."""
        self._waiters.order_by(None)

    # ---- for those who look: from any thread, so no collection is iterated here

    @property
    def limit(self) -> float:
        return self._dispatcher.tokens.limit

    @property
    def reserve(self) -> int:
        """Threads of the limit for later hops, as they were set."""
        return self._dispatcher.tokens.reserve

    @property
    def running(self) -> int:
        """How many hops run; a token that lingers is free for whoever asks."""
        return len(self._dispatcher.tokens.borrowers)

    @property
    def waiting(self) -> int:
        return self._waiters.size

    @property
    def stall_seconds(self) -> float:
        return self._stall_watch.seconds

    @property
    def loop(self) -> Any:
        """The asyncio loop whose hops these are, None on trio or when the loop is gone."""
        return self.clock.loop()

    def borrowers(self) -> tuple[object, ...]:
        """Return whose hops run. A copy made in one step, so in any thread."""
        # Without the GIL `tuple` of the dict may see it change, `list` holds its lock meanwhile.
        return tuple(list(self._dispatcher.tokens.borrowers))  # noqa: C414

    def snapshot(self) -> Snapshot:
        from .snapshot import Snapshot

        tokens, waiters = self._dispatcher.tokens, self._waiters
        return Snapshot(
            tokens.limit,
            tokens.regular,
            len(tokens.borrowers),
            len(tokens.lingering),
            tokens.extra - len(tokens.quiet),
            len(tokens.quiet),
            waiters.first,
            waiters.later,
            waiters.oldest_since(),
            self._stall_watch.stalled,
        )

    # ---- who looks

    def report_hops(self, report: bool) -> None:
        """Tell the observer of each hop from now on, or no longer."""
        self._dispatcher.reports_hops = report

    def _check(self) -> None:
        """Assert the invariants, for the tests."""
        self._dispatcher.check()
        assert self._stall_watch.on or not self.waiting
        lingering = self._dispatcher.lingering
        assert lingering.counts_turns or not (self.waiting and lingering.leases)
