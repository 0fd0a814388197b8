"""What one holder has of one pool, and what it has done with it.

Changed at each checkout and return, by whoever has the book. It must never be in the sums of its
ledger with other numbers than its own: see `Stock`.
"""

from __future__ import annotations

import math
import time
from typing import Any

from .habits import MOST_LATE, UNKNOWN_MOST, UNKNOWN_MOST_IN_THREADS, UNKNOWN_SECONDS, Habit
from .visit import Visit

# Where a connection is taken: on an event loop, in the thread of a hop, in a thread of the app's.
LOOP, HOP, THREAD = range(3)


class Account(Visit):
    """What one holder has of one pool, and has done with it since it reached its route.

    :ivar held: connections that it has
    :ivar claim: connections set aside for it, those that it has included
    :ivar promise: the entry of what is set aside in the ledger's list; None for nothing
    :ivar is_awaited: whether it was let in without any being set aside, and has yet to take one
    :ivar is_simple: whether it has taken one at a time, so that it comes to its end whatever others
        do if its kind does so too
    :ivar is_quick: whether nothing is learned at the return of what it takes
    :ivar waited: seconds for which it has waited for connections, where it waits no longer
    :ivar kept_before: seconds with one at least before it reached its route
    :ivar unused: seconds with one at least while nothing of the holder was at work
    :ivar idled: of these, those that the ledger has counted
    """

    __slots__ = (
        "claim",
        "emptied",
        "filled",
        "habit",
        "held",
        "holder",
        "idled",
        "is_awaited",
        "is_quick",
        "is_simple",
        "kept_before",
        "ledger",
        "promise",
        "unused",
        "waited",
    )

    def __init__(self, holder: Any, ledger: Any, habit: Habit | None) -> None:
        self.start_over(holder.began, 0)
        self.holder = holder
        self.ledger = ledger
        self.habit = habit
        self.held = 0
        self.claim = 0
        self.promise: list[Any] | None = None
        self.is_awaited = False
        self.is_simple = True
        self.is_quick = habit is None or holder.owner is not None
        self.filled = 0.0  # when it got the first of those that it holds
        self.emptied = 0.0  # when it gave the last one back
        self.waited = 0.0
        self.kept_before = 0.0
        self.unused = 0.0
        self.idled = 0.0

    def limit(self) -> int:
        """Return the most that it may hold at once, by all that is known."""
        most = max(self.most, self.held, 1)
        if self.habit is not None:
            most = max(most, self.habit.most)
            if self._is_unknown():
                is_in_thread = self.held and not self.most_elsewhere
                most = max(most, UNKNOWN_MOST_IN_THREADS if is_in_thread else UNKNOWN_MOST)
        capacity: int = self.ledger.stock.capacity
        return min(most, capacity)

    def _is_unknown(self) -> bool:
        """Tell whether it may take more than is known: too little has been seen of its route."""
        habit = self.habit
        if habit is None or habit.requests:
            return False
        return not self.held or time.monotonic() - self.filled < UNKNOWN_SECONDS

    def outright(self) -> int:
        """Return how many must be free for it to take its first one, the others set aside.

        It takes them elsewhere than in a hop's thread, where it may not be able to wait.
        """
        if self.held or self.habit is None:
            return 1
        capacity: int = self.ledger.stock.capacity
        return max(1, min(self.habit.most_elsewhere, capacity))

    def up_to_now(self) -> Visit:
        """Return what it has done so far, where it holds one still."""
        visit = self.copy()
        visit.kept += time.monotonic() - max(self.filled, self.began)
        return visit

    # ---- what is learned while it goes on

    def note_elsewhere(self, where: int, now: float) -> None:
        """Take note of the only one that it gets, elsewhere than in a hop's thread."""
        if where == LOOP:
            self._note_late(now)
        if not self.most_elsewhere:
            self.most_elsewhere = 1

    def note(self, where: int, now: float) -> None:
        """Take note of one that it asks for, whether it gets it or not."""
        if not self.held:
            if self.takes:
                self.again = max(self.again, now - self.emptied)
            else:
                self.idle = now - self.began
            if where == LOOP:
                self._note_late(now)
        self.takes += 1
        self.most = max(self.most, self.held + 1)
        if self.most > 1:
            self.is_simple = False
        if where != HOP:
            self.most_elsewhere = max(self.most_elsewhere, self.held + 1)
        habit = self.habit
        habits = self.holder.habits
        if habits is not None and not habits.requests and self.takes == 1:
            # The first of its kind. Its loop may be busy beginning the others.
            self.idle = min(self.idle, habits.seconds_of_looks())
        if habit is not None and (self.most > 1 or not habit.requests):
            habit.raise_to(self)

    def _note_late(self, now: float) -> None:
        """Take note of one on an event loop, for one that has none."""
        holder = self.holder
        hops = 0 if holder.owner is None else holder.owner.hops - holder.hops_ahead
        if hops > 0 and len(self.late) < MOST_LATE:
            is_within = holder.hops > 0
            since = holder.hop_began if is_within else holder.hop_ended
            seconds = now - since if since else math.inf
            self.late += ((self.takes, hops, is_within, seconds),)

    def goes_on(self, now: float) -> bool:
        """Tell whether it takes another soon, as far as is known, after one that is back."""
        habit, habits = self.habit, self.holder.habits
        if habit is None or self.holder.has_ended:
            return False
        is_known = habit.requests or (habits is not None and habits.is_first_idle)
        return not is_known or habit.goes_on(self, now)
