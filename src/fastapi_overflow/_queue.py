"""The queue of those who wait for a token: three orders over the same waiters.

Called by the limiter for hops that find no free token. It must never decide who may run: it only
knows who is next by age and who is next by depth.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ._clock import WakeUp
    from ._lease import Lease

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

    __slots__ = ("arrival", "borrower", "depth", "granted", "lease", "since", "wake_up")

    def __init__(self, borrower: object, lease: Lease | None, depth: int, wake_up: WakeUp) -> None:
        self.borrower = borrower
        self.lease = lease
        self.depth = depth
        self.granted = False
        self.wake_up = wake_up
        self.arrival = 0
        self.since = time.monotonic()


class WaiterQueue:
    """Waiters by age and, for later hops, by depth. Every operation is O(log n) or better.

    Invariants:
        1. A waiter is in exactly one of `first` and `later`, by its depth.
        2. Each waiter of `later` has its entry in `_heap`; an entry whose waiter has left
           `later` is stale, and at most as many entries are stale as are not, plus 16.
    """

    __slots__ = ("_arrivals", "_heap", "first", "later", "size")

    def __init__(self) -> None:
        # OrderedDict, not dict: taking the head of a dict costs O(n) once heads were deleted.
        self.first: OrderedDict[Waiter, None] = OrderedDict()
        self.later: OrderedDict[Waiter, None] = OrderedDict()
        self._heap: list[tuple[int, int, Waiter]] = []
        self._arrivals = 0
        self.size = 0  # of first and later; looked at for every hop

    def add(self, waiter: Waiter) -> None:
        self.size += 1
        self._arrivals += 1
        waiter.arrival = self._arrivals
        if waiter.depth:
            self.later[waiter] = None
            heappush(self._heap, (-waiter.depth, waiter.arrival, waiter))
        else:
            self.first[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        self.size -= 1
        if waiter.depth:
            del self.later[waiter]
            if not self.later:
                # A stale entry leads to a task, that to its loop, and that to the limiter: a whole
                # loop would stay when it has ended.
                self._heap.clear()
            elif len(self._heap) > 2 * len(self.later) + 16:
                self._heap = [entry for entry in self._heap if entry[2] in self.later]
                heapify(self._heap)
        else:
            del self.first[waiter]

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

    def oldest_later(self) -> Waiter:
        return next(iter(self.later))

    def deepest(self) -> Waiter:
        """Return the later hop whose request has made most hops."""
        while self._heap[0][2] not in self.later:
            heappop(self._heap)
        return self._heap[0][2]

    def check(self) -> None:
        """Assert the invariants."""
        assert self.size == len(self.first) + len(self.later)
        assert not any(w.depth for w in self.first)
        assert all(w.depth for w in self.later)
        assert not any(w.granted for w in (*self.first, *self.later))
        entries = {w for _, _, w in self._heap}
        assert entries.issuperset(self.later)
        assert len(self._heap) <= 2 * len(self.later) + 17
