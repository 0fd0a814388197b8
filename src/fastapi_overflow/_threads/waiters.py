"""The queue of those who wait for a token: first hops by fair share, later hops by age and depth.

Called by the pool for hops that find no free token. It must never decide who may run, only tell who
is next; and never look at what a hop will call, which is the app's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Protocol

from .lease import MANY_HOPS, Lease, Waiter
from .shares import FairQueue, Share, Shares

if TYPE_CHECKING:  # as in `clock`

    class Order(Protocol):
        """Later hops in some order."""

        def add(self, waiter: Waiter) -> None: ...

        def next(self, room: float) -> Waiter | None:
            """Return the first that still waits and may have one of the threads left."""

        def goes_on(self, borrower: object, lease: Lease, func: object, room: float) -> bool:
            """Tell whether a request keeps the thread that it was lent."""

        def keep_less(self) -> None:
            """Return somebody where none of the threads left were for those who wait."""

        def ended(self, borrower: object) -> None:
            """Take note that a hop has ended."""

        def purge(self) -> None:
            """Drop those who don't wait any longer."""

        def __len__(self) -> int:
            """Return how many entries there are, stale ones included."""


class LaterHops:
    """Later hops in one order. Who has left the queue leaves a stale entry until that comes up.

    :param key: by which they are served, the lowest first
    """

    __slots__ = ("_key", "entries")

    def __init__(self, key: Callable[[Waiter], int]) -> None:
        self._key = key
        self.entries: list[tuple[int, int, Waiter]] = []

    def add(self, waiter: Waiter) -> None:
        heappush(self.entries, (self._key(waiter), waiter.arrival, waiter))

    def next(self) -> Waiter | None:
        entries = self.entries
        while entries:
            waiter = entries[0][2]
            if waiter.waiting:
                return waiter
            heappop(entries)
        return None

    def purge(self) -> None:
        """Drop the stale entries."""
        self.entries = [entry for entry in self.entries if entry[2].waiting]
        heapify(self.entries)


class WaiterQueue:
    """Waiters by age, by fair share, by depth. Every operation is O(log n) or better.

    First hops hold nothing: they are served by fair share between routes. So are the later hops of
    background tasks, for which no client waits: without right of way, but they may hold something,
    so that the reserve and the growth are theirs too. All other later hops have right of way.

    Invariants:
        1. Each waiter with `waiting` set is in exactly one of the first hops and the later ones, by
           its depth; `first` and `later` are their numbers.
        2. Each later hop has an entry by age. One with right of way has one by depth if it is
           beyond its request's second hop, and one among those under way if its request isn't one
           of many hops either. The others of a depth of 1 are by depth already where they are by
           age. Each first hop, and each later one without right of way, is in one fair queue.
        3. No order has more than twice as many entries as there are waiters of its kind, plus 16;
           none without such waiters. The first entry by age is never stale.

    :ivar first: how many first hops wait
    :ivar later: how many later ones
    :ivar background: those of them that have no right of way: of background tasks
    :ivar routed: first hops of requests that go on and whose route is known, but for background
        tasks
    :ivar others: the other first hops
    :ivar size: how many of both; looked at for every hop
    :ivar first_since: time.monotonic() since which the oldest first hop has waited, None without
        any. Kept for other threads, which must not look into the queue itself
    :ivar later_since: the same of the later hops
    :ivar by_kind: one more order of the later hops, while the pool is stalled
    """

    __slots__ = (
        "_arrivals",
        "_background_hops",
        "_by_depth",
        "_first_hops",
        "_later_hops",
        "_promoted",
        "_under_way",
        "_was_later",
        "background",
        "by_kind",
        "first",
        "first_since",
        "later",
        "later_since",
        "others",
        "routed",
        "shares",
        "size",
    )

    def __init__(self) -> None:
        self.shares = Shares()
        self.routed = FairQueue()
        self.others = FairQueue()
        self.background = FairQueue()
        # By age. Not dicts: taking the head of a dict costs O(n) once heads were deleted.
        self._first_hops: deque[Waiter] = deque()
        self._later_hops: deque[Waiter] = deque()  # with right of way
        self._background_hops: deque[Waiter] = deque()  # later ones without
        # Of the later hops those that came as first ones: as old as they were, so not at the end.
        self._promoted = LaterHops(lambda waiter: waiter.arrival)
        self._by_depth = LaterHops(lambda waiter: -waiter.depth)
        self._under_way = LaterHops(lambda waiter: -waiter.depth)
        self._arrivals = 0
        self._was_later = False
        self.first = 0
        self.later = 0
        self.size = 0
        self.first_since: float | None = None
        self.later_since: float | None = None
        self.by_kind: Order | None = None

    def add(self, waiter: Waiter) -> None:
        self._arrivals += 1
        waiter.arrival = self._arrivals
        self.size += 1
        if waiter.depth and not waiter.in_background:
            self._later_hops.append(waiter)
            self._add_later(waiter)
            return
        lease = waiter.lease
        waiter.share = self.shares.of(lease, waiter.func)
        if waiter.depth:
            self._background_hops.append(waiter)
            self.background.add(waiter)
            self._add_later(waiter)
            return
        self.first += 1
        self._first_hops.append(waiter)
        if self.first == 1:
            self.first_since = waiter.since
        known = lease is not None and lease.route is not None and not waiter.in_background
        (self.routed if known else self.others).add(waiter)

    def _add_later(self, waiter: Waiter) -> None:
        self.later += 1
        if self.later == 1:
            self.later_since = waiter.since
        if waiter.depth > 1 and not waiter.in_background:
            self._by_depth.add(waiter)
            if waiter.depth < MANY_HOPS:
                self._under_way.add(waiter)
        if self.by_kind is not None:
            self.by_kind.add(waiter)

    def remove(self, waiter: Waiter) -> None:
        waiter.waiting = False
        self.size -= 1
        if waiter.queue is not None:
            self._leave_fair_queue(waiter)
        if not waiter.depth:
            self.first -= 1
            self._drop_stale_first_hops()
            return
        self.later -= 1
        if waiter.in_background:
            self._drop_stale_background()
        hops = self._later_hops
        while hops and not hops[0].waiting:
            hops.popleft()
        # Without later hops at once: a stale entry leads to a task, that to its loop, and that to
        # the limiter, so that a whole loop would stay when it has ended.
        urgent = self.later - self.background.size
        most = 2 * urgent + 16 if urgent else 0
        if len(hops) > most:
            self._later_hops = hops = deque(hop for hop in hops if hop.waiting)
        if (
            self._under_way.entries
            or self._by_depth.entries
            or self._promoted.entries
            or self.by_kind
        ):
            self._purge(most)
        if hops and not self._promoted.entries and not self._background_hops:
            self.later_since = hops[0].since
        else:
            self.later_since = self.oldest_later().since if self.later else None

    @property
    def urgent(self) -> int:
        """The later hops that have right of way."""
        return self.later - self.background.size

    def _leave_fair_queue(self, waiter: Waiter) -> None:
        waiter.queue.remove(waiter)
        share = waiter.share
        if not (share.threads or share.waiting):
            self.shares.forget(share)

    def has_fewer(self, share: Share) -> None:
        """Take note that a share has given a token back."""
        share.threads -= 1
        if share.waiting:
            for queue in (self.routed, self.others, self.background):
                if len(queue.lines) > 1:  # else there is no order
                    queue.has_fewer(share)
        elif not share.threads:
            self.shares.forget(share)

    def _drop_stale_background(self) -> None:
        hops = self._background_hops
        while hops and not hops[0].waiting:
            hops.popleft()
        if len(hops) > 2 * self.background.size + 16:
            self._background_hops = deque(hop for hop in hops if hop.waiting)

    def _purge(self, most: int) -> None:
        for order in (self._promoted, self._by_depth, self._under_way):
            if len(order.entries) > most:
                order.purge()
        if self.by_kind is not None and len(self.by_kind) > most + 2 * self.background.size:
            self.by_kind.purge()

    def _drop_stale_first_hops(self) -> None:
        hops = self._first_hops
        while hops and not (hops[0].waiting and not hops[0].depth):
            hops.popleft()
        if len(hops) > 2 * self.first + 16:
            self._first_hops = hops = deque(hop for hop in hops if hop.waiting and not hop.depth)
        self.first_since = hops[0].since if hops else None

    def promote(self, waiter: Waiter) -> None:
        """Make a waiting first hop a later one: its request has got a thread meanwhile.

        It is as old as it was.
        """
        self.first -= 1
        waiter.depth = 1
        self._leave_fair_queue(waiter)
        waiter.share = None
        waiter.in_background = False  # it is as urgent as what it began beside
        self._drop_stale_first_hops()
        self._promoted.add(waiter)
        self._add_later(waiter)
        self.later_since = self.oldest_later().since

    def outlives(self, waiter: Waiter) -> None:
        """Take note that the request of a waiting first hop has ended: it can't keep a token."""
        if waiter.queue is self.routed:
            self.routed.remove(waiter)
            self.others.add(waiter)

    def oldest(self) -> Waiter:
        """Return who has waited longest, first or later hop."""
        if not self.later:
            return self._first_hops[0]
        later = self.oldest_later()
        if not self.first or later.arrival < self._first_hops[0].arrival:
            return later
        return self._first_hops[0]

    def fairest(self) -> Waiter | None:
        """Return who is next by fair share, of first hops and of background work."""
        best: Waiter | None = None
        for queue in (self.routed, self.others, self.background):
            if queue.size:
                found = queue.next()
                if best is None or (found.share.threads, found.arrival) < (
                    best.share.threads,
                    best.arrival,
                ):
                    best = found
        return best

    def without_thread(self) -> Waiter | None:
        """Return the oldest first hop of a known route that has no thread at all."""
        if not self.routed.size:
            return None
        waiter = self.routed.next()
        return None if waiter.share.threads else waiter

    def in_turn(self) -> Waiter:
        """Return the oldest hop with right of way and the one that is next by fair share in turn.

        By age alone, a request that loses its thread before its second hop waits behind all others
        twice: at 500 connections the slowest hundredth of mixed requests took a quarter longer.
        """
        urgent = self.later - self.background.size
        fair = None
        if self._was_later or not urgent:
            fair = self.fairest()
        self._was_later = fair is None
        return self._oldest_urgent() if fair is None else fair

    def oldest_later(self) -> Waiter:
        hops = self._background_hops
        if not self.urgent:
            return hops[0]
        oldest = self._oldest_urgent()
        return hops[0] if hops and hops[0].arrival < oldest.arrival else oldest

    def _oldest_urgent(self) -> Waiter:
        if self._promoted.entries:
            promoted = self._promoted.next()
            hops = self._later_hops
            if promoted is not None and not (hops and hops[0].arrival < promoted.arrival):
                return promoted
        return self._later_hops[0]

    def deepest(self) -> Waiter:
        """Return the later hop whose request has made most hops; background work is last."""
        if not self.urgent:
            return self.background.next()
        return self._by_depth.next() or self._oldest_urgent()

    def under_way(self) -> Waiter | None:
        """Return the deepest later hop of a request to be brought to its end before others begin.

        By age alone, threads fill up with hops that block on what those behind them in the queue
        hold: 200 requests of 8 hops each on 15 connections took 15.4 s by age and 6.5 s so. Streams
        and WebSockets may have no end, and a request at its second hop has hardly begun.
        """
        return self._under_way.next() if self._under_way.entries else None

    def order_by(self, order: Order | None) -> None:
        """Keep one more order of the later hops, or none any longer."""
        self.by_kind = order
        if order is not None:
            for waiter in self._all_later():
                order.add(waiter)

    def _all_later(self) -> list[Waiter]:
        promoted = sorted(self._promoted.entries)
        later = (*(entry[2] for entry in promoted), *self._later_hops, *self._background_hops)
        return [waiter for waiter in later if waiter.waiting]

    def oldest_since(self) -> float | None:
        """Return the time.monotonic() since which somebody has waited; from any thread."""
        since = (self.first_since, self.later_since)
        return min((each for each in since if each is not None), default=None)

    def check(self) -> None:
        """Assert the invariants, for the tests."""
        for queue in (self.routed, self.others, self.background):
            queue.check()
        assert self.routed.size + self.others.size == self.first
        assert len(self._background_hops) <= 2 * self.background.size + 16
        first = [hop for hop in self._first_hops if hop.waiting and not hop.depth]
        later = self._all_later()
        assert (len(first), len(later)) == (self.first, self.later)
        assert self.size == self.first + self.later
        assert all(waiter.depth for waiter in later)
        assert not any(waiter.granted for waiter in (*first, *later))
        assert not first or self._first_hops[0] is first[0]
        assert self.first_since == min((hop.since for hop in first), default=None)
        assert self.later_since == min((hop.since for hop in later), default=None)
        assert len(self._first_hops) <= (2 * self.first + 16 if self.first else 0)
        most = 2 * self.urgent + 16 if self.urgent else 0
        for order in (self._promoted, self._by_depth, self._under_way):
            assert len(order.entries) <= most
        assert len(self._later_hops) <= most
