"""The queue of those who wait for a token: three orders over the same waiters.

Called by the limiter for hops that find no free token. It must never decide who may run: it only
knows who is next by age and who is next by depth.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Container, Iterable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeVar

from .lease import MANY_HOPS

if TYPE_CHECKING:
    from .clock import WakeUp
    from .lease import Lease

T = TypeVar("T")


def copied(changing: Iterable[T]) -> list[T]:
    """Return what is in a collection that another thread may change meanwhile."""
    while True:
        try:
            return list(changing)
        except RuntimeError:  # changed during iteration
            continue


class Waiter:
    """One hop that waits for a token. `depth` 0 is a first hop, anything above a later one."""

    __slots__ = (
        "arrival",
        "borrower",
        "depth",
        "func",
        "granted",
        "lease",
        "since",
        "waiting",
        "wake_up",
    )

    def __init__(
        self, borrower: object, lease: Lease | None, depth: int, wake_up: WakeUp, func: object
    ) -> None:
        self.borrower = borrower
        self.lease = lease
        self.depth = depth
        self.func = func
        self.waiting = True
        self.granted = False
        self.wake_up = wake_up
        self.arrival = 0
        self.since = time.monotonic()

    def wake(self) -> None:
        if not self.wake_up.done():  # else cancelled in this turn
            self.wake_up.set_result(None)


class _DepthHeap:
    """Later hops by depth. Who has left the queue leaves a stale entry, until that comes up."""

    __slots__ = ("_waiting", "entries")

    def __init__(self, waiting: Container[Waiter]) -> None:
        self.entries: list[tuple[int, int, Waiter]] = []
        self._waiting = waiting

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, waiter: Waiter) -> None:
        heappush(self.entries, (-waiter.depth, waiter.arrival, waiter))

    def deepest(self) -> Waiter | None:
        while self.entries:
            waiter = self.entries[0][2]
            if waiter in self._waiting:
                return waiter
            heappop(self.entries)
        return None

    def purge(self) -> None:
        self.entries = [entry for entry in self.entries if entry[2] in self._waiting]
        heapify(self.entries)


class WaiterQueue:
    """Waiters by age and, for later hops, by depth. Every operation is O(log n) or better.

    Invariants:
        1. A waiter is in exactly one of `first` and `later`, by its depth.
        2. Each waiter of `later` that is beyond its request's second hop has an entry in
           `_by_depth`, and one in `_under_way` if its request isn't one of many hops. Those at
           their second are in `later` by age already.
        3. No heap has more than twice as many entries as `later`, plus 16; none without `later`.
    """

    __slots__ = ("_arrivals", "_by_depth", "_under_way", "_was_later", "first", "later", "size")

    def __init__(self) -> None:
        # OrderedDict, not dict: taking the head of a dict costs O(n) once heads were deleted.
        self.first: OrderedDict[Waiter, None] = OrderedDict()
        self.later: OrderedDict[Waiter, None] = OrderedDict()
        self._by_depth = _DepthHeap(self.later)
        self._under_way = _DepthHeap(self.later)
        self._arrivals = 0
        self._was_later = False
        self.size = 0  # of first and later; looked at for every hop

    def add(self, waiter: Waiter) -> None:
        self.size += 1
        self._arrivals += 1
        waiter.arrival = self._arrivals
        if not waiter.depth:
            self.first[waiter] = None
            return
        self.later[waiter] = None
        if waiter.depth > 1:
            self._by_depth.add(waiter)
            if waiter.depth < MANY_HOPS:
                self._under_way.add(waiter)

    def remove(self, waiter: Waiter) -> None:
        self.size -= 1
        if not waiter.depth:
            del self.first[waiter]
            return
        del self.later[waiter]
        # Without `later` at once: a stale entry leads to a task, that to its loop, and that to the
        # limiter, so that a whole loop would stay when it has ended.
        if self._by_depth.entries or self._under_way.entries:
            most = 2 * len(self.later) + 16 if self.later else 0
            for heap in (self._by_depth, self._under_way):
                if len(heap) > most:
                    heap.purge()

    def promote(self, waiter: Waiter) -> None:
        """Make a waiting first hop a later one: its request has got a thread meanwhile."""
        self.remove(waiter)
        waiter.depth = 1
        self.add(waiter)

    def oldest(self) -> Waiter:
        """Return who has waited longest, first or later hop."""
        if not self.later:
            return next(iter(self.first))
        if not self.first:
            return next(iter(self.later))
        first, later = next(iter(self.first)), next(iter(self.later))
        return first if first.arrival < later.arrival else later

    def in_turn(self, first_too: bool = True) -> Waiter:
        """Return the oldest later hop and the oldest first hop in turn, if `first_too`.

        By age alone, a request that loses its thread before its second hop waits behind all others
        twice: at 500 connections the slowest hundredth of mixed requests took a quarter longer.
        """
        first = self.first and first_too and (self._was_later or not self.later)
        self._was_later = not first
        return next(iter(self.first if first else self.later))

    def oldest_later(self) -> Waiter:
        return next(iter(self.later))

    def deepest(self) -> Waiter:
        """Return the later hop whose request has made most hops."""
        return self._by_depth.deepest() or self.oldest_later()

    def under_way(self) -> Waiter | None:
        """Return the deepest later hop of a request to be brought to its end before others begin.

        By age alone, threads fill up with hops that block on what those behind them in the queue
        hold: 200 requests of 8 hops each on 15 connections took 15.4 s by age and 6.5 s so. Streams
        and WebSockets may have no end, a request at its second hop has hardly begun.
        """
        return self._under_way.deepest()

    def check(self) -> None:
        """Assert the invariants."""
        assert self.size == len(self.first) + len(self.later)
        assert not any(w.depth for w in self.first)
        assert all(w.depth for w in self.later)
        assert not any(w.granted for w in (*self.first, *self.later))
        for heap in (self._by_depth, self._under_way):
            assert len(heap) <= (2 * len(self.later) + 16 if self.later else 0)
