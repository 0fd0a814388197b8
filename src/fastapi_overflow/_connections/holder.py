"""Who takes connections: a request, a task or a thread outside of any.

Made at the first checkout or the first wait of each. It must never keep a request alive whose
connections are back.
"""

from __future__ import annotations

import time
from typing import Any

from .account import HOP, LOOP, THREAD, Account
from .route_habits import MOST_POOLS, RouteHabits
from .visit import Visit

__all__ = ["HOP", "LOOP", "THREAD", "Account", "Holder"]


class Holder:
    """A request, or a task or a thread outside of any, with its accounts.

    :ivar owner: the request; None for what isn't one
    :ivar habits: of the route that it has reached; None without a route
    :ivar began: time.monotonic() when it reached the route, or was let in
    :ivar thread: a weak reference to the thread of one that is neither a request nor a task
    :ivar waited: seconds that it has waited to be let in while nothing came back
    :ivar waiting: its checkouts that wait
    :ivar is_late: whether requests of its route may take a connection late: see `Visit.late`
    :ivar hops_ahead: hops that its lease says it has made and it hasn't
    :ivar hop_began: time.monotonic() at which its last hop has begun, if it is
    :ivar hop_ended: the same, has ended
    :ivar may_wait: whether it may be held back before it begins
    :ivar is_held_back: whether it is
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
    :ivar has_leaked: whether it had some still a second after that
    """

    __slots__ = (
        "__weakref__",
        "_waited_late",
        "accounts",
        "app_habits",
        "app_visits",
        "began",
        "endpoint",
        "habits",
        "has_leaked",
        "held_watched",
        "hop_began",
        "hop_ended",
        "hops",
        "hops_ahead",
        "idle_since",
        "is_held_back",
        "is_late",
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
        self.may_wait = self.is_held_back = False
        self.endpoint: object = None
        self.app_habits: RouteHabits | None = None
        self.app_visits: dict[object, Visit] | None = None
        self.hops = 0
        self.hops_ahead = 0
        self.hop_began = 0.0
        self.hop_ended = 0.0
        self.is_late = False
        self._waited_late = 0, 0.0  # what it had taken by then
        self.watched = 0
        self.held_watched = self.waited_watched = 0.0
        self.idle_since = 0.0
        self.place: tuple[str | None, str | None] | None = None
        self.has_leaked = False

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
        self.is_held_back = False
        self.is_late = self.habits is not None and self.habits.may_be_late
        self.began = time.monotonic()
        for account in list(self.accounts.values()):
            account.began = self.began

    def began_at(self) -> tuple[float, dict[Account, float]]:
        """Return when it began, for `begin_later`."""
        return self.began, {account: account.began for account in list(self.accounts.values())}

    def begin_later(self, began_at: tuple[float, dict[Account, float]], seconds: float) -> None:
        """Leave out what it has waited for at a hop: that is none of what its kind takes.

        :param began_at: as returned before the wait
        """
        self.began = began_at[0] + seconds
        self.hop_began = self.hop_ended = time.monotonic()
        for account, began in began_at[1].items():
            account.began = began + seconds
            account.emptied += seconds

    def waited_late(self, seconds: float = 0.0) -> float:
        """Return for how many seconds it has waited at hops since it took the last one.

        :param seconds: to add to that
        """
        takes = sum(account.takes for account in list(self.accounts.values()))
        before = self._waited_late[1] if self._waited_late[0] == takes else 0.0
        self._waited_late = takes, before + seconds
        return before + seconds

    def visits(self) -> dict[object, Visit]:
        """Return what it has done with each pool so far, by the kind of pool.

        Good until it goes on.
        """
        visits: dict[object, Visit] = {}
        for account in list(self.accounts.values()):
            if account.takes:
                visits[account.ledger.kind] = account.up_to_now() if account.held else account
        return visits

    def go_on(self, habits: RouteHabits) -> None:
        """Begin anew, at a route that it has reached."""
        self.habits = habits
        self.is_late = habits.may_be_late
        self.began = time.monotonic()
        for account in list(self.accounts.values()):
            account.habit = habits.of(account.ledger.kind)
            account.is_simple = account.held <= 1
            account.kept_before += account.kept
            account.start_over(self.began, account.held)

    # ---- for those who look: whether what it has is in use

    def begin_hop(self, hops: int) -> None:
        """Take note that a hop of it begins, or begins to wait for its thread.

        :param hops: of its own that run or wait by now
        """
        self.hops = hops
        if self.idle_since:
            self.end_idling()

    def end_hop(self, hops: int) -> None:
        self.hops = hops
        if self.accounts and hops <= 0:
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
    def holds_something(self) -> bool:
        if not self.accounts:  # most of the time, before it begins
            return False
        return any(account.held for account in list(self.accounts.values()))
