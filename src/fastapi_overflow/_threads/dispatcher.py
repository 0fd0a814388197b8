"""Who of those that wait gets the next token.

Part of the pool, called for every hop. It must never decide by a time or by what a thread does:
only by what is free, who waits, and how wide the gate is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .counters import Counters
from .gate import Gate
from .lease import BUSY, EXTRA, LINGERING, MANY_HOPS, NONE, Lease, Waiter
from .lingering import Lingering
from .tokens import Tokens
from .waiters import WaiterQueue

if TYPE_CHECKING:
    from .clock import Clock
    from .observer import Observer


class Dispatcher:
    """Gives tokens to hops, and takes them back.

    Regular tokens go to requests under way first, the deepest before others, then to those at their
    second hop and to new ones in turn, to new ones as far as the gate is open. Those of the reserve
    go to the later hop of the request that has made most hops. Who gets one beyond the limit is
    decided by `ByKind`, when the stall watch says so.

    What must hold is among the pool's invariants.

    :ivar finished: hops with a regular token that have ended
    :ivar finished_extra: the same with one of the reserve or of the growth
    :ivar reports_hops: whether the observer is told of each hop
    """

    __slots__ = (
        "_counters",
        "_observer",
        "_owes_reserve",
        "finished",
        "finished_extra",
        "gate",
        "lingering",
        "reports_hops",
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
        gate: Gate,
        counters: Counters,
        observer: Observer,
    ) -> None:
        self.waiters = WaiterQueue()
        self.lingering = Lingering(clock, self.somebody_waits, self.give_back)
        self.tokens = Tokens(limit, reserve, stall_threads, self.lingering.leases)
        self.gate = gate
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

    def take(self, borrower: object, lease: Lease | None, depth: int) -> bool:
        """Take a token without waiting, if the invariants allow it; tell whether they do."""
        tokens = self.tokens
        if lease is not None and lease.token == LINGERING:
            del tokens.lingering[lease]
            lease.token = BUSY
            lease.hops += 1
            lease.streak += 1
            tokens.borrowers[borrower] = lease
            self._counters.hops += 1
        else:
            extra = not tokens.has_regular()
            if extra and not (depth and tokens.has_reserved()):
                return False
            if not (depth or self.gate_is_open()):
                return False
            promotes = lease is not None and lease.waiting_first
            self._grant(borrower, lease, extra)
            if promotes:
                self._assign()
            taken = len(tokens.borrowers) + len(tokens.lingering)
            if taken > self._counters.peak_threads or extra:
                self._counters.took(taken, extra)
        if self.reports_hops:
            self._observer.hop_began(borrower, 0.0)
        return True

    def _grant(self, borrower: object, lease: Lease | None, extra: bool) -> None:
        self._counters.hops += 1
        self.tokens.extra += extra
        borrowers = self.tokens.borrowers
        if lease is None or lease.closed:
            borrowers[borrower] = EXTRA if extra else None
            return
        if lease.token == NONE:
            lease.token = BUSY
            lease.streak = 0
            lease.extra = extra
            borrowers[borrower] = lease
        else:  # a hop beside the lease's own
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
            self.finished_extra += 1
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
        self.give_back(() if lease is None else (lease,))

    def _is_needed_back(self) -> bool:
        return self.waiters.size > 0 or self.tokens.taken >= self.tokens.limit

    def give_back(self, leases: Iterable[Lease]) -> None:
        """Hand the tokens that these leases no longer have to the next waiters."""
        for lease in leases:
            lease.token = NONE
            if lease.extra:
                self.tokens.extra -= 1
        self._assign()

    # ---- a waiter is served, or gives up

    def _assign(self) -> None:
        """Give what is free to those who wait, until the invariants hold.

        1. A regular token goes to the request under way that has come furthest; without any, to the
           oldest hop of a request at its second one and of a new request in turn.
        2. One of the reserve goes to the deepest later hop.
        3. Or, once, to the oldest hop of all, where the stall watch has found that first hops are
           kept out for too long.

        Computed from what is taken, not from what has changed.
        """
        waiters, tokens = self.waiters, self.tokens
        while waiters.size:
            if tokens.has_regular() and (waiters.later or self.gate_is_open()):
                self._admit(waiters.under_way() or waiters.in_turn(self.gate_is_open()))
            elif waiters.later and tokens.has_reserved():
                self._admit(waiters.deepest(), extra=True)
            elif self._owes_reserve and tokens.has_reserved():
                self._admit(waiters.oldest(), extra=True)
                self._owes_reserve = False
            else:
                return
        self._owes_reserve = False

    def _admit(self, waiter: Waiter, extra: bool = False) -> None:
        self.leave_queue(waiter)
        borrower = waiter.borrower
        if borrower in self.tokens.borrowers:
            # Two have waited under one name, which can have one token only; see `TokenPool.wait`.
            waiter.wake()
            return
        waiter.granted = True
        self._grant(borrower, waiter.lease, extra)
        taken = len(self.tokens.borrowers) + len(self.tokens.lingering)
        if taken > self._counters.peak_threads or extra:
            self._counters.took(taken, extra, beyond=taken > self.tokens.limit)
        waiter.wake()
        if self.reports_hops:
            self._observer.hop_began(borrower, time.monotonic() - waiter.since)

    def leave_queue(self, waiter: Waiter) -> None:
        """Have a waiter wait no longer, with a token or without."""
        self.waiters.remove(waiter)
        self._counters.seconds_waited += time.monotonic() - waiter.since
        lease = waiter.lease
        if lease is not None and lease.waiting_first and not waiter.depth:
            lease.waiting_first.remove(waiter)

    def gate_is_open(self) -> bool:
        """Tell whether a first hop may take a regular token that is free."""
        width = self.gate.width
        return width == math.inf or self.tokens.taken - self.tokens.extra < width

    # ---- called through the stall watch

    def grow(self, most: int) -> None:
        """Let up to `most` of those that wait run although no token is free for them."""
        waiters, tokens = self.waiters, self.tokens
        if not waiters.later:
            # All threads wait for something and only new requests are left: the rest of the limit
            # is theirs as in stock (40 threads that meet at a barrier), but nothing beyond it.
            while waiters.size and tokens.has_reserved():
                self._admit(waiters.oldest(), extra=True)
        else:
            if waiters.by_kind is None:
                from .growth import ByKind  # late: most processes never stall

                waiters.order_by(ByKind())
            for _ in range(self._room(most)):
                if waiters.by_kind is None or (waiter := waiters.by_kind.next()) is None:
                    break
                self._admit(waiter, extra=True)
        self._assign()  # what waits beside those who were admitted may have been promoted

    def relieve(self, most: int) -> None:
        """Let those run who have waited longest behind others that go on for ever."""
        if self.waiters.later:
            for _ in range(self._room(most)):
                if not self.waiters.later:
                    break
                self._admit(self.waiters.oldest_later(), extra=True)
            self._assign()
        elif self.tokens.spare:
            self._owes_reserve = True  # only new requests: they get no thread beyond the limit
            self.give_back(self.lingering.end_oldest(1, extra=True))

    def _room(self, most: int) -> int:
        return max(int(min(most, self.tokens.room_to_grow())), 0)

    def reassign(self) -> None:
        """Serve those who may go on now that the gate stands differently."""
        self._assign()

    def check(self) -> None:
        """Assert the pool's invariants 1, 2, 4 and 5, for the tests."""
        self.waiters.check()
        self.tokens.check()
        if self.tokens.has_regular():
            assert not self.waiters.later
            assert not (self.waiters.first and self.gate_is_open())
        assert not (self.waiters.later and self.tokens.has_reserved())
