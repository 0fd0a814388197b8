"""Requests that wait before they begin, and who of them is next.

Called by whoever has the book. It must never let a request in that would keep others from coming
to their end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import islice

from .holder import Account
from .promises import Promises
from .queues import Queues
from .stock import Stock

# Requests that may be on their way to a connection beyond those that get one at once: so one is
# never free without a thread that is about to take it. Or as many as are at the checkout of kinds
# that aren't held back.
AHEAD = 2

# Seconds after which what comes back is set aside for a request that waits to be let in, for as
# many seconds, and not for as many more, in turn. A guess: one that needs several at once must have
# its chance, and others must go on where what it lacks never comes back.
OLD = 0.5

# Requests behind the first one that may be let in before it, where it needs more than they do, at
# each return. At each look all may.
PASSING = 8

# Requests that have begun that go before all others, one after the other; then it's the turn of one
# of these. A guess: they may not wait for long, and the others not for ever.
LATE_IN_A_ROW = 3


class Entry:
    """One request that waits to be let in.

    :ivar claim: connections to set aside for it; 0 for one that can wait in its thread
    :ivar is_usual: whether it waits for what requests of its kind usually need
    :ivar is_late: whether it has begun, and waits at a hop of its own
    :ivar wake: called once, in any thread, when it is let in
    :ivar is_told: whether the operator has been told that it waits
    """

    __slots__ = ("account", "claim", "is_in", "is_late", "is_told", "is_usual", "since", "wake")

    def __init__(
        self,
        account: Account,
        claim: int,
        wake: Callable[[], None],
        *,
        is_usual: bool,
        is_late: bool,
    ) -> None:
        self.account = account
        self.claim = claim
        self.is_usual = is_usual
        self.is_late = is_late
        self.wake = wake
        self.since = time.monotonic()
        self.is_in = False
        self.is_told = False

    def claim_by_now(self) -> int:
        """Return its claim, once that is what is known by now of its kind."""
        habit = self.account.habit
        if self.claim and self.is_usual and habit is not None:
            self.claim = habit.as_known(self.claim)
        return self.claim


class Entries:
    """The requests that wait to be let in to one pool.

    :ivar waiting: those that have begun, then the others, each by age
    """

    __slots__ = ("_late", "_late_in_a_row", "_promises", "_queues", "_stock", "waiting")

    def __init__(self, stock: Stock, promises: Promises, queues: Queues) -> None:
        self._stock = stock
        self._promises = promises
        self._queues = queues
        self.waiting: deque[Entry] = deque()
        self._late = 0  # of these that have begun
        self._late_in_a_row = 0  # such that went on since it was another's turn

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def add(self, entry: Entry) -> None:
        if entry.is_late:
            if self.waiting and not self._late:
                # What was put by for the one that was first would stay so as long as others are.
                self._promises.give_up(self.waiting[0].account)
            self.waiting.insert(self._late, entry)
            self._late += 1
        else:
            self.waiting.append(entry)

    def remove(self, entry: Entry) -> None:
        self.waiting.remove(entry)
        self._late -= entry.is_late

    def note_turn(self, is_late: bool) -> None:
        """Take note of whose turn it was: one that had begun, or another that holds nothing."""
        self._late_in_a_row = self._late_in_a_row + 1 if is_late else 0

    def skips_turn(self) -> bool:
        """Tell whether it was another's turn and none of these can go on; then it no longer is."""
        stock = self._stock
        skips = self._late_in_a_row >= LATE_IN_A_ROW and self._late > 0 and stock.free > stock.aside
        if skips:
            self._late_in_a_row = 0
        return skips

    def oldest(self) -> Entry | None:
        """Return who waits for longest of those that may wait for long."""
        return self.waiting[self._late] if len(self.waiting) > self._late else None

    def has_room(self, account: Account, claim: int) -> bool:
        """Tell whether a request may be let in.

        Threads at the checkout go first. Where it needs connections set aside, these must be free,
        and all who have a stake could still come to their end. Else so few may be on their way to
        one that there is always somebody to take what comes back.
        """
        if not claim:
            return self._has_turn()
        if self._queues:
            return False
        stock = self._stock
        claim = stock.at_most(claim)
        if stock.free - stock.aside < claim - account.claim:
            return False
        limit = account.limit()
        return limit <= claim or stock.is_safe(account, claim, limit)

    def _has_turn(self) -> bool:
        """Tell whether one that can wait in its thread may be let in, whichever that is."""
        stock, queues = self._stock, self._queues
        free = stock.capacity - stock.held - stock.adrift - stock.aside - stock.spare
        # As many as are there of kinds that never wait here: else those would leave no turn.
        unasked = queues.unasked
        ahead = max(AHEAD, unasked)
        return free + ahead > stock.awaited and len(queues.first) - unasked < ahead

    def let_in(self, account: Account, claim: int, now: float) -> None:
        """Let a request in: with connections set aside for it, or on its way to take one."""
        account.began = now
        self._stock.leave_out(account)
        if claim:
            account.claim = max(account.claim, self._stock.at_most(claim))
        else:
            account.is_awaited = True
        self._promises.make(account, now)
        self._stock.count(account)

    def next(self, of_all: bool = False) -> Entry | None:
        """Return the one that may be let in next: by age, but for one that needs more.

        :param of_all: whether to look at all that wait: not at each return
        """
        first = self.waiting[0]
        # Asked at each return. Most of the time nobody may.
        has_turn = self._has_turn()
        if self._is_collected(first) if first.claim_by_now() else has_turn:
            return first
        stock = self._stock
        if not has_turn and (stock.free <= stock.aside or self._queues):
            return None
        for entry in islice(self.waiting, self._late, self._late + PASSING):
            claim = entry.claim_by_now()
            if self.has_room(entry.account, claim) if claim else has_turn:
                return entry
        return self._next_of_all() if of_all else None

    def _next_of_all(self) -> Entry | None:
        """Return the first for which there is room, by one of each kind."""
        tried: set[tuple[int, int]] = set()
        for entry in self.waiting:
            key = id(entry.account.habit), entry.claim_by_now()
            if key not in tried:
                tried.add(key)
                if self.has_room(entry.account, entry.claim):
                    return entry
        return None

    def take_out_needless(self, now: float) -> list[Entry]:
        """Return those that need nothing before they begin after all; they wait no longer.

        By what is known by now of their kind: requests that come now aren't held back either.
        """
        known: dict[tuple[int, int], bool] = {}
        kept: list[Entry] = []
        needless: list[Entry] = []
        for entry in self.waiting:
            habit = entry.account.habit
            is_needless = False
            if entry.is_usual and habit is not None:
                key = id(habit), entry.claim
                if key not in known:
                    known[key] = habit.takes_seldom(entry.claim, now)
                is_needless = known[key]
            (needless if is_needless else kept).append(entry)
        if needless:
            self.waiting.clear()
            self.waiting.extend(kept)
        return needless

    def _is_collected(self, entry: Entry) -> bool:
        return 0 < self._stock.at_most(entry.claim) <= entry.account.claim

    def collect_for_old(self, now: float) -> None:
        """Set aside what is free, one after the other, for the first that waits to be let in.

        At once for one that has begun, which may not wait for long, unless it is another's turn.
        Not while threads wait that hold one already: they come before it.
        """
        entry = self.waiting[0] if self.waiting else None
        if entry is None or not entry.claim_by_now() or self._is_collected(entry):
            return
        stock, account = self._stock, entry.account
        if entry.is_late:
            is_due = self._late_in_a_row < LATE_IN_A_ROW
        else:
            is_due = int((now - entry.since) / OLD) % 2 > 0
        if self._queues.others or not is_due:
            if account.claim:
                self._promises.give_up(account)
            return
        free = stock.free - stock.aside
        claim = stock.at_most(entry.claim)
        most = max(account.limit(), claim)
        collected = int(min(account.claim + free, claim))
        if free > 0 and (most <= collected or stock.is_safe(account, collected, most)):
            stock.leave_out(account)
            account.claim = collected
            stock.count(account)
