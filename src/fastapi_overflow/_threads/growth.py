"""Who gets the next thread of a stalled pool: a guess at who holds what all others wait for.

Imported and asked while a pool is stalled. It must never leave a kind of hop without its
chance.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from .code import code_of
from .lease import BUSY, Waiter
from .waiters import LaterHops

# Threads lent to a request, from which on it may have the last one.
MANY_LENT = 30


class _Kind:
    """The waiting hops that run the same code.

    :ivar lent: how many threads their requests have been lent already; see `ByKind.next`
    :ivar let_in: how many of them have got a thread beyond the limit in this stall
    :ivar is_listed: whether the kind is among those that may be next
    """

    __slots__ = ("_by_age", "_by_depth", "_code", "is_listed", "lent", "let_in")

    def __init__(self, code: tuple[object, ...], lent: int, let_in: int) -> None:
        self._code = code  # kept, as it is known by its id
        self.lent = lent
        self.let_in = let_in
        self.is_listed = False
        self._by_depth = LaterHops(lambda waiter: -waiter.depth)
        self._by_age: deque[Waiter] = deque()

    def __len__(self) -> int:
        return len(self._by_age)

    def add(self, waiter: Waiter) -> None:
        self._by_depth.add(waiter)
        self._by_age.append(waiter)

    def deepest(self) -> Waiter | None:
        return self._by_depth.next()

    def next(self) -> Waiter | None:
        """Return the deepest, the oldest and the youngest in turn.

        The deepest is the likeliest to hold something. If it doesn't, the oldest may, or the
        youngest, which others of its depth have kept out.
        """
        turn = self.let_in % 3
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
    """Later hops by the code that they run, each kind getting as many threads as any other.

    By depth alone the extra threads could all go to hops that block as those before them did: a
    thousand requests at the hop in which they take a connection keep out the fifteen that are about
    to give theirs back in another.

    Made when a pool stalls, of those who wait then, and dropped when the stall is over. So no
    choice looks at all waiters: each is O(log n). A kind that comes later starts where the others
    are, and doesn't get all threads until it has had as many.
    """

    __slots__ = ("_entries", "_fewest", "_kinds", "_listed", "nested")

    def __init__(self) -> None:
        self.nested = False  # whether hops within hops were among them
        self._entries = 0
        self._fewest = 0  # that any kind had let in when it was last chosen
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._listed: list[tuple[int, int, int, _Kind]] = []  # fewest let in first, then deepest

    def __len__(self) -> int:
        return self._entries

    def add(self, waiter: Waiter) -> None:
        code = code_of(waiter.func)
        lease = waiter.lease
        lent = 0
        if lease is not None:
            lent = min(lease.lent, MANY_LENT)
            self.nested |= lease.token == BUSY
        key = (*(part if type(part) is str else id(part) for part in code), lent)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(code, lent, self._fewest)
        kind.add(waiter)
        self._entries += 1
        if not kind.is_listed:
            self._list(kind)

    def next(self, room: float, kept: int) -> Waiter | None:
        """Return who gets the next thread; the kind has had its turn then.

        :param room: threads that may still be added
        :param kept: of these, for requests that have been lent one: for those lent two half as
            many, and so on. So one that was lent a thread comes to its end, with hops within hops
            too, and what others wait for comes back
        """
        passed_over = []
        waiter = None
        while waiter is None and self._listed:
            entry = heappop(self._listed)
            kind = entry[-1]
            if room <= kept >> kind.lent:
                passed_over.append(entry)
                continue
            kind.is_listed = False
            waiter = kind.next()
            if waiter is not None:
                self._fewest = kind.let_in
                kind.let_in += 1
                self._list(kind)
        for entry in passed_over:
            heappush(self._listed, entry)
        return waiter

    def start_over(self) -> None:
        """Let no kind have had a turn: hops have finished since, and the deepest are next again.

        With turns that went on where they were, hops within hops got all threads that may be added
        for the outer ones: half of the time 30 requests, three deep on 4 threads, hung for good.
        """
        self._fewest = 0
        self._listed.clear()
        for kind in self._kinds.values():
            kind.let_in = 0
            kind.is_listed = False
            self._list(kind)

    def _list(self, kind: _Kind) -> None:
        deepest = kind.deepest()
        if deepest is not None:
            kind.is_listed = True
            kind.let_in = max(kind.let_in, self._fewest)
            heappush(self._listed, (kind.let_in, -deepest.depth, deepest.arrival, kind))

    def purge(self) -> None:
        """Drop those who have left the queue."""
        for kind in self._kinds.values():
            kind.purge()
        # One without waiters starts where the others are when it comes back.
        self._kinds = {key: kind for key, kind in self._kinds.items() if len(kind)}
        self._entries = sum(map(len, self._kinds.values()))
