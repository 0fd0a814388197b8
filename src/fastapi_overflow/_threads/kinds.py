"""Who gets the next thread of a stalled pool: a guess at who holds what all others wait for.

Imported and asked while a pool is stalled. It must never leave a kind of hop without its
chance.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush, heapreplace

from .code import code_of
from .lease import BUSY, Lease, Waiter
from .waiters import LaterHops

# Threads lent to a request from which on its hops within hops are one kind. A guess.
MANY_LENT = 30


class _Kind:
    """Hops that run the same code: those that wait, and how many have got a thread.

    :ivar running: with a thread that this stall has added
    :ivar is_listed: whether it has an entry in the order of the kinds
    """

    __slots__ = ("_by_age", "_by_depth", "_code", "_turn", "is_listed", "running")

    def __init__(self, code: tuple[object, ...]) -> None:
        self._code = code  # kept, as it is known by its id
        self._turn = 0
        self.running = 0
        self.is_listed = False
        self._by_depth = LaterHops(lambda waiter: -waiter.depth)
        self._by_age: deque[Waiter] = deque()

    def __len__(self) -> int:
        return len(self._by_age)

    def add(self, waiter: Waiter) -> None:
        self._by_depth.add(waiter)
        self._by_age.append(waiter)

    def rank(self) -> tuple[int, int, int] | None:
        """Return what is lowest for the kind that is next; None where none of its hops waits."""
        deepest = self._by_depth.next()
        return None if deepest is None else (self.running, -deepest.depth, deepest.arrival)

    def next(self) -> Waiter | None:
        """Return the deepest, the oldest and the youngest in turn.

        The deepest is the likeliest to hold something. If it doesn't, the oldest may, or the
        youngest, which others of its depth have kept out.
        """
        turn = self._turn
        self._turn = (turn + 1) % 3
        if turn == 0:
            return self._by_depth.next()
        end, drop = (0, self._by_age.popleft) if turn == 1 else (-1, self._by_age.pop)
        while self._by_age:
            waiter = self._by_age[end]
            if waiter.waiting:
                return waiter
            drop()
        return None

    def purge(self) -> None:
        self._by_depth.purge()
        self._by_age = deque(waiter for waiter in self._by_age if waiter.waiting)


class ByKind:
    """Later hops by the code that they run: next is the kind of which fewest run already.

    By depth alone the extra threads could all go to hops that block as those before them did: a
    thousand requests at the hop in which they take a connection keep out the fifteen that are about
    to give theirs back in another. Hops that block go on running and others end, so those that may
    be what all wait for come to be before those that aren't.

    Made when a pool stalls, of those who wait then, and dropped when the stall is over. So no
    choice looks at all waiters: each is O(log n).

    Invariant: each kind of which hops wait has an entry in the order that is not above its rank,
    but for hops that have come since and are deeper. So the first entry, once it is not below the
    rank of its kind, is of the kind that is next.
    """

    __slots__ = ("_entries", "_kinds", "_order", "_running", "_shift")

    def __init__(self) -> None:
        self._entries = 0
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._order: list[tuple[int, int, int, _Kind]] = []
        self._running: dict[object, _Kind] = {}  # by borrower
        self._shift = 0  # looks in a row at which `next` kept all threads that were left

    def __len__(self) -> int:
        return self._entries

    def add(self, waiter: Waiter) -> None:
        kind = self._kind_of(waiter.lease, waiter.func)
        kind.add(waiter)
        self._entries += 1
        if not kind.is_listed:
            self._list(kind)

    def _kind_of(self, lease: Lease | None, func: object) -> _Kind:
        code = code_of(func)
        key: tuple[object, ...] = tuple([part if type(part) is str else id(part) for part in code])
        if lease is not None and lease.token == BUSY:
            # A hop within a hop, maybe of the same code. One whose outer hop was lent a thread is
            # another kind than one whose outer hop was not, so that it finds threads kept for it.
            key = (*key, min(lease.lent, MANY_LENT))
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(code)
        return kind

    def goes_on(self, borrower: object, lease: Lease, func: object, room: float) -> bool:
        """Tell whether a request may make its next hop with the thread that it was lent.

        It may where that would get one as a waiter too. Else all threads come to block in the end,
        as requests that were let in for a hop that ends take them along to one that doesn't.

        :param room: threads that may still be added, with this one
        """
        kind = self._kind_of(lease, func)
        if kind.running >> self._shift >= room:
            return False
        kind.running += 1
        self._running[borrower] = kind
        return True

    def next(self, room: float) -> Waiter | None:
        """Return who gets the next thread; None where what is left is kept for other kinds.

        No kind may have more threads than are left for those to come: at the moment of a stall,
        whoever holds what all wait for may be doing something async.

        :param room: threads that may still be added
        """
        order = self._order
        while order:
            entry = order[0]
            kind = entry[-1]
            rank = kind.rank()
            if rank is None:
                heappop(order)
                kind.is_listed = False
            elif entry[:3] < rank:
                heapreplace(order, (*rank, kind))
            elif kind.running >> self._shift >= room:
                return None
            elif (waiter := kind.next()) is not None:
                kind.running += 1
                self._running[waiter.borrower] = kind
                return waiter
        return None

    def ended(self, borrower: object) -> None:
        """Take note that a hop has ended, with whatever token."""
        self._shift = 0
        kind = self._running.pop(borrower, None)
        if kind is not None:
            kind.running -= 1
            self._list(kind)

    def keep_less(self) -> None:
        """Keep half of what was kept, until a hop ends: nobody has come that it was kept for."""
        self._shift += 1

    def _list(self, kind: _Kind) -> None:
        rank = kind.rank()
        if rank is None:
            return
        kind.is_listed = True
        if len(self._order) > 2 * len(self._kinds) + 16:
            self._list_anew()
        else:
            heappush(self._order, (*rank, kind))

    def _list_anew(self) -> None:
        self._order.clear()
        for kind in self._kinds.values():
            rank = kind.rank()
            kind.is_listed = rank is not None
            if rank is not None:
                self._order.append((*rank, kind))
        heapify(self._order)

    def purge(self) -> None:
        """Drop those who have left the queue."""
        for kind in self._kinds.values():
            kind.purge()
        self._kinds = {key: kind for key, kind in self._kinds.items() if len(kind) or kind.running}
        self._list_anew()
        self._entries = sum(map(len, self._kinds.values()))
