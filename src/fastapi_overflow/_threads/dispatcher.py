"""Who of those that wait gets the next token.

Part of the pool, called for every hop. It must never decide by a time or by what a thread does:
only by what is free and who waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .counters import Counters
from .lease import BUSY, EXTRA, LINGERING, MANY_HOPS, NONE, Lease, Waiter
from .lingering import Lingering
from .tokens import Tokens
from .waiters import WaiterQueue

if TYPE_CHECKING:
    from .clock import Clock
    from .observer import Observer
    from .shares import Share


class Dispatcher:
    """Gives tokens to hops, and takes them back.

    Regular tokens go to requests under way first, the deepest before others, then in turn to those
    at their second hop and by fair share: to new ones, and to the work of background tasks. Those
    of the reserve go to the later hop of the request that has made most hops, quiet ones to new
    requests of routes that have no thread. Who gets one of the growth is decided by `Growth`, when
    the stall watch says so.

    What must hold is among the pool's invariants.

    :ivar finished: hops with a regular token that have ended
    :ivar finished_extra: the same with one of the reserve or of the growth. Quiet ones are in
        neither: a health check must not hide that nothing else moves
    :ivar reports_hops: whether the observer is told of each hop
    """

    __slots__ = (
        "_counters",
        "_observer",
        "_owes_reserve",
        "finished",
        "finished_extra",
        "lingering",
        "reports_hops",
        "shares",
        "tokens",
        "waiters",
    )

    def __init__(
        self,
        clock: Clock,
        limit: float,
        reserve: int,
        *,
        stall_threads: int | None,
        counters: Counters,
        observer: Observer,
    ) -> None:
        self.waiters = WaiterQueue()
        self.shares = self.waiters.shares
        self.lingering = Lingering(clock, self.somebody_waits, self.give_back)
        self.tokens = Tokens(limit, reserve, stall_threads, self.lingering.leases)
        self.finished = 0
        self.finished_extra = 0
        self.reports_hops = False
        self._counters = counters
        self._observer = observer
        self._owes_reserve = False  # the next token of the reserve goes to a first hop

    def somebody_waits(self) -> bool:
        """Tell whether a hop waits for a token."""
        return self.waiters.size > 0

    # ---- a hop begins

    def take(
        self,
        borrower: object,
        lease: Lease | None,
        depth: int,
        func: object = None,
    ) -> bool:
        """Take a token without waiting, if the invariants allow it; tell whether they do.

        :param func: what the hop will call, as far as is known
        """
        tokens = self.tokens
        if (
            lease is not None
            and lease.token == LINGERING
            and (not lease.in_background or self._goes_on(lease, func))
            and (not lease.extra or self._keeps_lent(borrower, lease, func))
        ):
            del tokens.lingering[lease]
            lease.token = BUSY
            lease.hops += 1
            lease.streak += 1
            tokens.borrowers[borrower] = lease
            self._counters.hops += 1
        else:
            extra = not tokens.has_regular()
            quiet = False
            if extra and not (depth and tokens.has_reserved()):
                if depth or not self._may_be_quiet(lease):
                    return False
                quiet = True
            promotes = lease is not None and lease.waiting_first
            counts = self.shares.counting and not (depth and lease is None)
            share = self.shares.of(lease, func) if counts else None
            self._grant(borrower, lease, extra, share, quiet)
            if promotes:
                self._assign()
            taken = len(tokens.borrowers) + len(tokens.lingering)
            if taken > self._counters.peak_threads or extra:
                self._counters.took(taken, extra, quiet=quiet)
        if self.reports_hops:
            self._observer.hop_began(borrower, 0.0)
        return True

    def _keeps_lent(self, borrower: object, lease: Lease, func: object) -> bool:
        """Tell whether a hop keeps the extra token that lingers in a stall; else give that back."""
        kinds, tokens = self.waiters.by_kind, self.tokens
        if kinds is None or lease in tokens.quiet:
            return True
        if kinds.goes_on(borrower, lease, func, tokens.room_to_grow() + 1):
            return True
        self._let_go(lease)
        return False

    def _may_be_quiet(self, lease: Lease | None) -> bool:
        """Tell whether a first hop may have a quiet token.

        Only a request whose route is known: before that all requests look alike. A limiter that is
        used by itself keeps to its limit. And nobody waits for what is done in the background.
        """
        if lease is None or lease.route is None or lease.in_background:
            return False
        if not self.tokens.has_quiet():
            return False
        self.count_shares()
        return not self.shares.has_threads(lease.route)

    def count_shares(self) -> None:
        """Count the tokens of each route: somebody is about to wait."""
        if not self.shares.counting:
            self.shares.begin((*self.tokens.borrowers.values(), *self.tokens.lingering))

    def forget_shares(self) -> None:
        """Count them no longer: nobody waits."""
        borrowers = self.tokens.borrowers
        for borrower, lease in borrowers.items():
            if lease is not None and lease.pool is None:
                borrowers[borrower] = EXTRA if lease.extra else None
        self.shares.end((*borrowers.values(), *self.tokens.lingering))

    def _goes_on(self, lease: Lease, func: object) -> bool:
        """Tell whether a background task keeps the token that lingers; else it is given back.

        It does unless somebody else is next: a hop with right of way, or by fair share. Never a
        quiet token: those are for requests whose clients wait.
        """
        if lease in self.tokens.quiet:
            self._let_go(lease)
            return False
        if not self.shares.counting:
            return True
        share = lease.share
        background = self.shares.of(lease, func)
        waiters = self.waiters
        if waiters.size:
            is_next = not waiters.urgent
            if is_next and not lease.extra:  # nor is a regular one free while somebody waits
                rival = waiters.fairest()
                threads = background.threads - (share is background)
                is_next = rival is None or threads < rival.share.threads
            if not is_next:
                self.shares.forget(background)
                self._let_go(lease)
                return False
        if share is not background:
            background.threads += 1
            lease.share = background
            if share is not None:
                waiters.has_fewer(share)
                self._assign()  # its route may have no thread now, and somebody wait for one
        return True

    def _let_go(self, lease: Lease) -> None:
        """Have a token linger no longer."""
        self.lingering.end((lease,))
        self.give_back((lease,))

    def _grant(
        self,
        borrower: object,
        lease: Lease | None,
        extra: bool,
        share: Share | None,
        quiet: bool = False,
    ) -> None:
        self._counters.hops += 1
        self.tokens.extra += extra
        borrowers = self.tokens.borrowers
        if share is not None:
            share.threads += 1
        if lease is None or lease.closed:
            if share is None:
                borrowers[borrower] = EXTRA if extra else None
            else:
                borrowers[borrower] = share.loan(extra)
            return
        if lease.token == NONE:
            lease.token = BUSY
            lease.streak = 0
            lease.extra = extra
            lease.share = share
            borrowers[borrower] = lease
            if quiet:
                self.tokens.quiet[lease] = None
        elif share is not None:  # a hop beside the lease's own
            borrowers[borrower] = share.loan(extra)
        else:
            borrowers[borrower] = EXTRA if extra else None
        lease.hops += 1
        if lease.waiting_first:
            # Hops that began side by side: what still waits belongs to a request under way now.
            waiting, lease.waiting_first = lease.waiting_first, None
            for waiter in waiting:
                self.waiters.promote(waiter)

    # ---- a hop ends

    def finish(self, borrower: object) -> None:
        """End the hop of `borrower`: its token lingers with its lease or goes to the next waiter.

        :raises KeyError: if it has none
        """
        lease = self.tokens.borrowers.pop(borrower)
        if self.reports_hops:
            self._observer.hop_ended(borrower, True)
        if lease is None:
            self.finished += 1
            if self.waiters.size:
                self._assign()
            return
        if lease.extra:
            self.finished_extra += lease not in self.tokens.quiet
            if self.waiters.by_kind is not None:
                self.waiters.by_kind.ended(borrower)
        else:
            self.finished += 1
        if (
            lease.closed
            or (self._owes_reserve and lease.extra)
            # A token should not stay with a request for ever if others need it.
            or (lease.streak >= MANY_HOPS and self._is_needed_back())
            or (self.tokens.lowered and self.tokens.has_too_many(lease))
        ):
            self.give_back((lease,))
        else:
            self.lingering.add(lease)
            if self.waiters.size:
                self.lingering.count_turns()

    def abandon(self, borrower: object) -> None:
        """Return the token of a hop that never ran to the next waiter."""
        lease = self.tokens.borrowers.pop(borrower)
        if self.reports_hops:
            self._observer.hop_ended(borrower, False)
        if self.waiters.by_kind is not None:
            self.waiters.by_kind.ended(borrower)
        self.give_back(() if lease is None else (lease,))

    def _is_needed_back(self) -> bool:
        return self.waiters.size > 0 or self.tokens.taken >= self.tokens.limit

    def give_back(self, leases: Iterable[Lease]) -> None:
        """Hand the tokens that these leases no longer have to the next waiters."""
        for lease in leases:
            if lease.pool is not None:  # else it stands for one, in many hops
                lease.token = NONE
            if lease.extra:
                self.tokens.extra -= 1
                if lease in self.tokens.quiet:
                    del self.tokens.quiet[lease]
            if lease.share is not None:
                self.waiters.has_fewer(lease.share)
                if lease.pool is not None:
                    lease.share = None
        self._assign()

    # ---- a waiter is served, or gives up

    def _assign(self) -> None:
        """Give what is free to those who wait, until the invariants hold.

        1. A regular token goes to the request under way that has come furthest; without any, in
           turn to the oldest hop of a request at its second one and by fair share. Where only new
           requests and background work would get it, it takes the place of a quiet one first: so
           the limit is exceeded for no longer than it takes a hop to end, and quiet tokens are
           there for the next route.
        2. One of the reserve goes to the deepest later hop.
        3. A quiet one goes to a new request of a route that has no thread.
        4. Or, once, one of the reserve to the oldest hop of all, where the stall watch has found
           that first hops are kept out for too long.

        Computed from what is taken, not from what has changed.
        """
        waiters, tokens = self.waiters, self.tokens
        while waiters.size:
            if tokens.has_regular():
                if tokens.quiet and not waiters.urgent:
                    tokens.make_regular()
                    continue
                self.admit(waiters.under_way() or waiters.in_turn())
            elif waiters.later and tokens.has_reserved():
                self.admit(waiters.deepest(), extra=True)
            elif (
                waiters.routed.size
                and tokens.has_quiet()
                and (waiter := waiters.without_thread()) is not None
            ):
                self.admit(waiter, extra=True, quiet=True)
            elif self._owes_reserve and tokens.has_reserved():
                self.admit(waiters.oldest(), extra=True)
                self._owes_reserve = False
            else:
                return
        self._owes_reserve = False

    def admit(self, waiter: Waiter, extra: bool = False, quiet: bool = False) -> None:
        """Have a waiter leave the queue with a token, be one free or not."""
        lease = waiter.lease
        share = waiter.share
        if share is None and lease is not None:
            share = self.shares.of(lease, waiter.func)  # somebody waits, so they are counted
        if share is not None:
            share.waiting += 1  # it must not be forgotten in between
        self.leave_queue(waiter)
        if share is not None:
            share.waiting -= 1
        borrower = waiter.borrower
        if borrower in self.tokens.borrowers:
            # Two have waited under one name, which can have one token only; see `TokenPool.wait`.
            if share is not None:
                self.shares.forget(share)
            waiter.wake()
            return
        waiter.granted = True
        self._grant(borrower, lease, extra, share, quiet)
        taken = len(self.tokens.borrowers) + len(self.tokens.lingering)
        if taken > self._counters.peak_threads or extra:
            beyond = taken - len(self.tokens.quiet) > self.tokens.limit
            self._counters.took(taken, extra, beyond, quiet)
        waiter.wake()
        if self.reports_hops:
            self._observer.hop_began(borrower, time.monotonic() - waiter.since)

    def leave_queue(self, waiter: Waiter) -> None:
        """Have a waiter wait no longer, with a token or without."""
        self.waiters.remove(waiter)
        seconds = time.monotonic() - waiter.since
        self._counters.seconds_waited += seconds
        lease = waiter.lease
        if lease is not None:
            lease.waiting -= 1
            lease.waited += seconds
            if lease.waiting_first and not waiter.depth:
                lease.waiting_first.remove(waiter)

    # ---- called through the stall watch

    def owe_reserve(self) -> None:
        """Give the next token of the reserve to the oldest hop of all, be it a first one."""
        if self.tokens.spare:
            self._owes_reserve = True
            self.give_back(self.lingering.end_oldest(1, extra=True))

    def reassign(self) -> None:
        """Serve those who may go on now, after a change from outside: by growth."""
        self._assign()

    def check(self) -> None:
        """Assert the pool's invariants 1, 2, 4 and 5, for the tests."""
        self.waiters.check()
        self.tokens.check()
        assert not (self.waiters.size and self.tokens.has_regular())
        assert not (self.waiters.later and self.tokens.has_reserved())
        assert not (self.tokens.has_quiet() and self.waiters.without_thread())
        taken = [*self.tokens.borrowers.values(), *self.tokens.lingering]
        self.shares.check([each for each in taken if each is not None and each.share is not None])
