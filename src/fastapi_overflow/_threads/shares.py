"""The share of each route: how many threads its requests have, and who of them is next.

Kept by the pool while somebody waits; as long as there is a thread for everybody nothing is
counted. It must never hash or compare what is the app's: routes are told apart by identity. A route
without tokens and waiters leaves nothing here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import heapify, heappop, heappush, heapreplace

from .code import code_of
from .lease import BUSY, Lease, Waiter


class Share:
    """What one route has of the threads: an endpoint, or what a hop calls where none is known.

    The background tasks of a route have a share of their own.

    :ivar key: by which it is found: of the ids of the route's parts
    :ivar threads: tokens that its requests have, in use or lingering
    :ivar waiting: its waiters in the fair queues
    """

    __slots__ = ("_loans", "_route", "key", "threads", "waiting")

    def __init__(self, key: object, route: object) -> None:
        self.key = key
        self._route = route  # kept, as it is known by its id
        self.threads = 0
        self.waiting = 0
        self._loans: list[Lease | None] = [None, None]

    def loan(self, extra: bool) -> Lease:
        """Return what stands for the lease of a hop of this route that has none to keep its token.

        Its request's lease has its own token in another hop, or there is no request.
        """
        loan = self._loans[extra]
        if loan is None:
            self._loans[extra] = loan = Lease(None, 0, lambda: None)
            loan.closed = True
            loan.extra = extra
            loan.share = self
            loan.token = BUSY
        return loan


class Shares:
    """The shares of those routes that have a token or a waiter.

    :ivar counting: whether each token that is given out counts in a share
    """

    __slots__ = ("_shares", "counting")

    def __init__(self) -> None:
        self._shares: dict[object, Share] = {}
        self.counting = False

    def begin(self, taken: Iterable[Lease | None]) -> None:
        """Count from now on, begun with the tokens that are taken.

        What runs for no route, or before it is known, has begun without being looked at: it counts
        in no share.
        """
        self.counting = True
        for lease in taken:
            if lease is not None and lease.pool is not None and lease.route is not None:
                lease.share = share = self.of(lease, None)
                share.threads += 1

    def end(self, taken: Iterable[Lease | None]) -> None:
        """Count no longer: nobody waits."""
        self.counting = False
        self._shares.clear()
        for lease in taken:
            if lease is not None:
                lease.share = None

    def __len__(self) -> int:
        return len(self._shares)

    def of(self, lease: Lease | None, func: object) -> Share:
        """Return the share in which a hop counts, a new one if need be.

        The caller must let it have a thread or a waiter, or `forget` it.

        :param func: what the hop calls; looked at only where no route is known
        """
        route: object = None if lease is None else lease.route
        key: object
        if route is not None:
            key = id(route)
        else:
            route = parts = code_of(func)
            if len(parts) == 1:
                key = id(parts[0])
            else:
                key = tuple([part if type(part) is str else id(part) for part in parts])
        if lease is not None and lease.in_background:
            key = "background", key
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = Share(key, route)
        return share

    def has_threads(self, route: object) -> bool:
        """Tell whether the requests of a route have any thread."""
        share = self._shares.get(id(route))
        return share is not None and share.threads > 0

    def forget(self, share: Share) -> None:
        """Drop a share that nobody uses any longer."""
        if not (share.threads or share.waiting):
            self._shares.pop(share.key, None)

    def check(self, taken: list[Lease]) -> None:
        """Assert that what is counted is what is taken, for the tests."""
        for share in self._shares.values():
            assert share.threads or share.waiting
            assert share.threads == sum(lease.share is share for lease in taken)
        assert self.counting or not (taken or self._shares)
        known = {id(share) for share in self._shares.values()}
        assert all(id(lease.share) in known for lease in taken)


class _Line:
    """Those of one share that wait, by age. Who has left leaves a stale entry but at the head."""

    __slots__ = ("hops", "size")

    def __init__(self) -> None:
        self.hops: deque[Waiter] = deque()
        self.size = 0  # who wait

    def drop_stale(self, queue: FairQueue) -> None:
        hops = self.hops
        while hops and hops[0].queue is not queue:  # another one since, maybe
            hops.popleft()
        if len(hops) > 2 * self.size + 16:
            self.hops = deque(hop for hop in hops if hop.queue is queue)


class FairQueue:
    """Waiters, of whom the route with the fewest threads is next, by age among equals.

    Each operation is O(log n) in routes, and O(1) while those of a single route wait.

    Invariants:
        1. A share has a line if and only if some of its hops wait here; the first of a line is
           never stale.
        2. While there are several lines, each has an entry in the order that is not above what it
           would be now. So the first entry, once it is as it would be now, is who is next. There
           are no more than twice as many as lines, plus 17; without several lines none.
    """

    __slots__ = ("_order", "lines", "size")

    def __init__(self) -> None:
        self.lines: dict[Share, _Line] = {}
        self._order: list[tuple[int, int, Share]] = []  # threads, arrival of the oldest
        self.size = 0

    def add(self, waiter: Waiter) -> None:
        share = waiter.share
        waiter.queue = self
        share.waiting += 1
        self.size += 1
        line = self.lines.get(share)
        if line is None:
            line = self.lines[share] = _Line()
            line.hops.append(waiter)
            self._note(share, line)
        else:
            line.hops.append(waiter)
        line.size += 1

    def remove(self, waiter: Waiter) -> None:
        """Have a waiter leave; its share may have to be forgotten then."""
        share = waiter.share
        waiter.queue = None
        share.waiting -= 1
        self.size -= 1
        line = self.lines[share]
        line.size -= 1
        if line.size:
            line.drop_stale(self)
        else:
            del self.lines[share]
            if len(self.lines) < 2:
                self._order.clear()
            elif len(self._order) > 2 * len(self.lines) + 16:
                self._put_in_order()

    def next(self) -> Waiter:
        """Return who is next; somebody must wait."""
        lines, order = self.lines, self._order
        if len(lines) == 1:
            for line in lines.values():
                return line.hops[0]
        while True:
            entry = order[0]
            share = entry[2]
            found = lines.get(share)
            if found is None:
                heappop(order)
                continue
            now = share.threads, found.hops[0].arrival, share
            if now == entry:
                return found.hops[0]
            heapreplace(order, now)

    def has_fewer(self, share: Share) -> None:
        """Take note that a share has a thread less."""
        line = self.lines.get(share)
        if line is not None:
            self._note(share, line)

    def _note(self, share: Share, line: _Line) -> None:
        lines, order = self.lines, self._order
        if len(lines) < 2:
            return
        if not order or len(order) > 2 * len(lines) + 16:
            self._put_in_order()
        else:
            heappush(order, (share.threads, line.hops[0].arrival, share))

    def _put_in_order(self) -> None:
        order = self._order
        order[:] = [(s.threads, line.hops[0].arrival, s) for s, line in self.lines.items()]
        heapify(order)

    def check(self) -> None:
        """Assert the invariants, for the tests."""
        assert self.size == sum(line.size for line in self.lines.values())
        for share, line in self.lines.items():
            waiting = [hop for hop in line.hops if hop.queue is self]
            assert len(waiting) == line.size > 0
            assert line.hops[0] is waiting[0]
            assert len(line.hops) <= 2 * line.size + 16
            if len(self.lines) > 1:
                now = share.threads, waiting[0].arrival
                assert any(entry[2] is share and entry[:2] <= now for entry in self._order)
        assert len(self._order) <= (2 * len(self.lines) + 17 if len(self.lines) > 1 else 0)
