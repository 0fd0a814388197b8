"""Who of those that wait gets the next token.

Part of the pool, called for every hop. It must never decide by a time or by what a thread does:
only by what is free, who waits, and how wide the gate is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from .clock import Clock
from .counters import Counters
from .gate import Gate
from .lease import BUSY, EXTRA, LINGERING, NONE, Lease
from .lingering import Lingering
from .queue import Waiter, WaiterQueue
from .tokens import Tokens


class Dispatch(Tokens):
    """The tokens of one event loop with their queue.

    Regular tokens go to requests under way first, the deepest before others, then to those at their
    second hop and to new ones in turn, to new ones as far as the gate is open. Those of the reserve
    go to the later hop of the request that has made most hops. Who gets one beyond the
    limit is for the stall watch to choose.
    """

    # Invariants, between any two calls of the pool:
    #   1. While a regular token is free, no later hop waits, and no first hop but at the gate.
    #   2. While one of the reserve is free, no later hop waits.

    def __init__(self, clock: Clock, gate: Gate, stall_threads: int | None) -> None:
        self._waiters = WaiterQueue()
        self._gate = gate
        self._linger = Lingering(clock, self.somebody_waits, self._give_back)
        super().__init__(self._linger)
        self._stall_threads = stall_threads
        self._owed = False  # the next token of the reserve goes to a first hop
        self.counters = Counters()

    def _take(self, borrower: object, lease: Lease | None, depth: int) -> bool:
        """Take a token without waiting, if the invariants allow it."""
        if lease is not None and lease.token == LINGERING:
            del self._lingering[lease]
            lease.token = BUSY
            lease.hops += 1
            lease.streak += 1
            self._borrowers[borrower] = lease
            return True
        extra = not self._regular_is_free()
        if extra and not (depth and self._reserve_is_free()):
            return False
        if not (depth or self._gate_is_open()):
            return False
        self._grant(borrower, lease, extra)
        taken = len(self._borrowers) + len(self._lingering)
        if taken > self.counters.peak_threads or extra:
            self.counters.took(taken, extra)
        return True

    def _grant(self, borrower: object, lease: Lease | None, extra: bool) -> None:
        self._extra += extra
        if lease is None or lease.closed:
            self._borrowers[borrower] = EXTRA if extra else None
            return
        if lease.token == NONE:
            lease.token = BUSY
            lease.streak = 0
            lease.extra = extra
            self._borrowers[borrower] = lease
        else:  # a hop beside the lease's own
            self._borrowers[borrower] = EXTRA if extra else None
        lease.hops += 1
        if lease.waiting_first:
            # Hops that began side by side: what still waits belongs to a request under way now.
            waiting, lease.waiting_first = lease.waiting_first, None
            for waiter in waiting:
                self._waiters.promote(waiter)

    def _give_back(self, leases: Iterable[Lease]) -> None:
        """Hand the tokens that these leases no longer have to the next waiters."""
        for lease in leases:
            lease.token = NONE
            if lease.extra:
                self._extra -= 1
        self._dispatch()

    def _admit(self, waiter: Waiter, extra: bool = False) -> None:
        self._forget(waiter)
        if waiter.borrower in self._borrowers:
            # Two have waited under one name, which can have one token only; see `wait`.
            waiter.wake()
            return
        waiter.granted = True
        self._grant(waiter.borrower, waiter.lease, extra)
        taken = len(self._borrowers) + len(self._lingering)
        if taken > self.counters.peak_threads or extra:
            self.counters.took(taken, extra, beyond=taken > self._total)
        waiter.wake()

    def _forget(self, waiter: Waiter) -> None:
        self._waiters.remove(waiter)
        waiter.waiting = False
        self.counters.seconds_waited += time.monotonic() - waiter.since
        if waiter.lease is not None and waiter.lease.waiting_first and not waiter.depth:
            waiter.lease.waiting_first.remove(waiter)

    def _dispatch(self) -> None:
        """Restore invariants 1 and 2. Computed from what is taken, not from what has changed."""
        waiters = self._waiters
        while waiters.size:
            if self._regular_is_free() and (waiters.later or self._gate_is_open()):
                self._admit(waiters.under_way() or waiters.in_turn(self._gate_is_open()))
            elif waiters.later and self._reserve_is_free():
                self._admit(waiters.deepest(), extra=True)
            elif self._owed and self._reserve_is_free():
                self._admit(waiters.oldest(), extra=True)
                self._owed = False
            else:
                return
        self._owed = False

    def _gate_is_open(self) -> bool:
        """Tell whether a first hop may take a regular token that is free."""
        return len(self._borrowers) + len(self._lingering) - self._extra < self._gate.width

    def _held_back(self) -> float:
        """Return how many regular tokens first hops are kept from."""
        return max(self._regular - self._gate.width, 0)

    def _is_needed_back(self) -> bool:
        """Tell whether a token should not stay with its lease for ever."""
        return self._waiters.size > 0 or self._taken() >= self._total

    def somebody_waits(self) -> bool:
        """Tell whether a hop waits for a token."""
        return self._waiters.size > 0

    # ---- called by the stall watch

    def grow(self, most: int, choose: Callable[[WaiterQueue], Waiter]) -> None:
        """Let up to `most` of those that wait run although no token is free for them.

        :param choose: returns one of the later hops
        """
        if not self._waiters.later:
            # All threads wait for something and only new requests are left: the rest of the limit
            # is theirs as in stock (40 threads that meet at a barrier), but nothing beyond it.
            while self._waiters.size and self._reserve_is_free():
                self._admit(self._waiters.oldest(), extra=True)
            return
        room = self._room_to_grow(self._stall_threads)
        while most > 0 and room > 0 and self._waiters.later:
            self._admit(choose(self._waiters), extra=True)
            most -= 1
            room -= 1

    def relieve(self, most: int) -> None:
        """Let those run who have waited longest behind others that go on for ever."""
        if self._waiters.later:
            self.grow(most, WaiterQueue.oldest_later)
        elif self._spare:
            self._owed = True  # only new requests: they get no thread beyond the limit
            self._give_back(self._linger.end([x for x in self._lingering if x.extra][:1]))

    # ---- for the tests

    def _check_dispatch(self) -> None:
        """Assert the invariants."""
        self._waiters.check()
        self._check_tokens()
        if self._regular_is_free():
            assert not self._waiters.later
            assert not (self._waiters.first and self._gate_is_open())
        assert not (self._waiters.later and self._reserve_is_free())
