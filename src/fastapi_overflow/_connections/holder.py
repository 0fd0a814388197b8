"""Who takes connections: a request, a task or a thread outside of any.

Made at the first checkout or the first wait of each. It must never keep a request alive whose
connections are back.
"""

from __future__ import annotations

import time
from typing import Any

from .habits import MOST_POOLS, Habit, RouteHabits, Visit

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

    def __init__(self, holder: Holder, ledger: Any, habit: Habit | None) -> None:
        super().__init__(holder.began)
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
            if not self.habit.requests:  # never seen to its end
                most = max(most, 2)
        capacity: int = self.ledger.stock.capacity
        return min(most, capacity)

    def outright(self) -> int:
        """Return how many must be free for it to take its first one, the others set aside.

        It takes them elsewhere than in a hop's thread, where it may not be able to wait.
        """
        if self.held or self.habit is None:
            return 1
        capacity: int = self.ledger.stock.capacity
        return max(1, min(self.habit.most_elsewhere, capacity))

    # ---- what is learned while it goes on

    def note_simple(self, where: int, now: float) -> None:
        """Take note of the only one that it has, when it gets it."""
        if self.takes:
            self.again = max(self.again, now - self.emptied)
        else:
            self.idle = now - self.began
            if not self.most:
                self.most = 1
        self.takes += 1
        if where != HOP and not self.most_elsewhere:
            self.most_elsewhere = 1

    def note(self, where: int, now: float) -> None:
        """Take note of one that it asks for, whether it gets it or not."""
        if not self.held:
            if self.takes:
                self.again = max(self.again, now - self.emptied)
            else:
                self.idle = now - self.began
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

    def goes_on(self, now: float) -> bool:
        """Tell whether it takes another soon, as far as is known, after one that is back."""
        habit = self.habit
        return (
            habit is not None
            and not self.holder.has_ended
            and (not habit.requests or habit.goes_on(self, now))
        )


class Holder:
    """A request, or a task or a thread outside of any, with its accounts.

    :ivar owner: the request; None for what isn't one
    :ivar habits: of the route that it has reached; None without a route
    :ivar began: time.monotonic() when it reached the route, or was let in
    :ivar thread: a weak reference to the thread of one that isn't a request
    :ivar waited: seconds that it has waited to be let in while nothing came back
    :ivar waiting: its checkouts that wait
    :ivar may_wait: whether it may be held back before it begins
    :ivar endpoint: of the route; None before it is reached
    :ivar app_habits: the habits of the app, once it has reached its route
    :ivar app_visits: what it had done by then, where it holds some of it still; else None
    :ivar hops: of its own that run, or wait for a thread
    :ivar watched: connections that it has of pools that are only watched
    :ivar held_watched: seconds for which it has had such as are back
    :ivar waited_watched: seconds for which it has waited for such
    :ivar idle_since: time.monotonic() since which nothing of it is at work, as far as is known; 0
        for not now, and for one that has taken nothing yet
    :ivar place: method and path of the route, once it has ended and has some still
    :ivar ended_at: time.monotonic() at which it has, then
    """

    __slots__ = (
        "__weakref__",
        "accounts",
        "app_habits",
        "app_visits",
        "began",
        "ended_at",
        "endpoint",
        "habits",
        "held_watched",
        "hops",
        "idle_since",
        "may_wait",
        "owner",
        "place",
        "thread",
        "waited",
        "waited_watched",
        "waiting",
        "watched",
    )

    def __init__(self, owner: Any, habits: RouteHabits | None, thread: Any = None) -> None:
        self.owner = owner
        self.habits = habits
        self.began = time.monotonic()
        self.thread = thread
        self.waited = 0.0
        self.accounts: dict[Any, Account] = {}
        self.waiting: list[Any] = []
        self.may_wait = False
        self.endpoint: object = None
        self.app_habits: RouteHabits | None = None
        self.app_visits: dict[object, Visit] | None = None
        self.hops = 0
        self.watched = 0
        self.held_watched = self.waited_watched = 0.0
        self.idle_since = 0.0
        self.place: tuple[str | None, str | None] | None = None
        self.ended_at = 0.0

    def account(self, ledger: Any) -> Account:
        account = self.accounts.get(ledger)
        if account is None:
            if len(self.accounts) >= MOST_POOLS:  # a thread may see any number of them
                self._forget_empty()
            habit = None if self.habits is None else self.habits.of(ledger.kind)
            # In one step: two hops of a request may come here at once.
            account = self.accounts.setdefault(ledger, Account(self, ledger, habit))
        return account

    def _forget_empty(self) -> None:
        for ledger, account in list(self.accounts.items()):
            if not (account.held or account.claim or account.is_awaited or self.waiting):
                self.accounts.pop(ledger, None)

    def has_waited(self) -> None:
        """Begin only now: it was held back until then."""
        self.began = time.monotonic()
        for account in list(self.accounts.values()):
            account.began = self.began

    def visits(self) -> dict[object, Visit]:
        """Return what it has done with each pool so far, by the kind of pool."""
        now = time.monotonic()
        visits: dict[object, Visit] = {}
        for account in list(self.accounts.values()):
            if account.takes:
                visit = visits[account.ledger.kind] = account.copy()
                if account.held:
                    visit.kept += now - max(account.filled, account.began)
        return visits

    def go_on(self, habits: RouteHabits) -> None:
        """Begin anew, at a route that it has reached."""
        self.habits = habits
        self.began = time.monotonic()
        for account in list(self.accounts.values()):
            account.habit = habits.of(account.ledger.kind)
            account.is_simple = account.held <= 1
            account.kept_before += account.kept
            account.start_over(self.began, account.held)

    # ---- for those who look: whether what it has is in use

    def begin_hop(self) -> None:
        """Take note that a hop of it begins, or begins to wait for its thread."""
        self.hops += 1
        if self.idle_since:
            self.end_idling()

    def end_hop(self) -> None:
        self.hops -= 1
        if self.accounts and self.hops <= 0:
            self.idle_since = time.monotonic()

    def idle(self) -> None:
        """Take note that nothing of it is at work now, if that is so."""
        if self.hops <= 0:
            self.end_idling()
            self.idle_since = time.monotonic()

    def end_idling(self) -> None:
        """Take note that it goes on with what it has, or gives that back."""
        since, self.idle_since = self.idle_since, 0.0
        if since:
            now = time.monotonic()
            for account in list(self.accounts.values()):
                if account.held:  # it may have been taken just now
                    account.unused += max(now - max(since, account.filled), 0.0)

    @property
    def has_ended(self) -> bool:
        """Whether it is a request that has ended."""
        return self.owner is not None and bool(self.owner.closed)

    @property
    def has_taken_something(self) -> bool:
        return any(account.takes or account.held for account in list(self.accounts.values()))

    @property
    def holds_something(self) -> bool:
        return any(account.held for account in list(self.accounts.values()))
