"""Where the first requests of an app wait whose middleware keeps a connection around the route.

They reach their route with something, and can't wait there until more is known of it. So they enter
the app one after the other until enough routes are known. It must never keep one waiting for long,
and never keep one alive that has ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context

from .._connections.habits import LOOK_SECONDS, MOST_TICKS, TICKS_WITHOUT, RouteHabits
from .._connections.holder import Holder
from .._threads.lease import Lease
from .held_back import UNKNOWN_CLAIM, UNKNOWN_POOLS, Claims, id_of_ledger
from .holder_here import governor
from .signal_of_loop import Signal

# Requests in a row that reach a known route, after which the others need no turn. A guess: of three
# routes that get as many requests each, it misses one in every 600 apps.
KNOWN_ROUTES = 16

# Looks for which some wait for their turn at most: two seconds, and more where the loop is busy
# with the first requests. Then nobody needs a turn any more.
MOST_LOOKS = 40

# Seconds for the same, where the loop that looks has ended.
TURN_SECONDS = 10.0

# Seconds for which the one whose turn it is waits at most until enough is free to be set aside.
CLAIM_SECONDS = 1.0


class InTurn:
    """Lets requests into one app, one after the other.

    :ivar kept: connections that requests have when they reach their route, by the kind of pool
    :ivar is_over: whether nobody needs a turn any more
    """

    # Whose turn it is goes on until the request has reached a route of which others have ended, or
    # has ended itself: so the first one of each route is alone on it, with what is set aside for
    # it. Or until it has been looked at often enough, as the first one of any route.

    __slots__ = (
        "_entering",
        "_is_looking",
        "_left",
        "_looks",
        "_looks_in_all",
        "_waiting",
        "is_over",
        "kept",
    )

    def __init__(self) -> None:
        self.kept: dict[object, int] = {}
        self.is_over = False
        self._left = KNOWN_ROUTES
        self._entering: Holder | None = None
        self._looks = self._looks_in_all = 0
        self._is_looking = False
        self._waiting: deque[tuple[Holder, Callable[[], None]]] = deque()

    def enters_at_once(self, holder: Holder) -> bool:
        """Let a request enter if nobody else is about to; tell whether it enters."""
        if self._entering is not None or self._waiting:
            return False
        self._let_enter(holder)
        return True

    async def wait(self, lease: Lease, holder: Holder) -> None:
        """Wait until a request may enter."""
        turn = Signal()
        entry = holder, turn.set
        self._waiting.append(entry)
        if not self._is_looking:
            self._is_looking = True
            self._looks_in_all = 0
            self._look_later(asyncio.get_running_loop())
        lease.pool.held_back += 1
        try:
            await turn.wait(TURN_SECONDS)
            if entry in self._waiting:
                self.end()
        finally:
            lease.pool.held_back -= 1
            if entry in self._waiting:  # it is cancelled
                self._waiting.remove(entry)

    def reached(self, holder: Holder, is_known: bool) -> None:
        """Take note that a request has reached its route.

        :param is_known: whether requests of that have ended
        """
        if holder.holds_something:
            for account in list(holder.accounts.values()):
                if account.held:
                    kind = account.ledger.kind
                    self.kept[kind] = max(self.kept.get(kind, 0), account.held)
            self._left = self._left - 1 if is_known else KNOWN_ROUTES
            if self._left <= 0:
                self.end()
            if not is_known:
                if self._entering is None:  # its turn was over, or it came before there were any
                    self._let_enter(holder)
                return
        self.leave(holder)

    def leave(self, holder: Holder) -> None:
        """Let the next one enter, if it was this one's turn."""
        if self._entering is holder:
            self._go_on()

    def end(self) -> None:
        """Let all enter."""
        self.is_over = True
        self._entering = None
        while self._waiting:
            self._waiting.popleft()[1]()

    def _let_enter(self, holder: Holder) -> None:
        if not self.is_over:
            self._entering = holder
            self._looks = 0

    def _go_on(self) -> None:
        self._entering = None
        if self._waiting:
            holder, wake = self._waiting.popleft()
            self._let_enter(holder)
            wake()

    # ---- for event loops

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(LOOK_SECONDS, self._look, loop, context=Context())

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the next one enter where it takes too long, by looks of a loop that may be busy."""
        if not self._waiting:
            self._is_looking = False
            return
        self._looks += 1
        self._looks_in_all += 1
        if self._looks_in_all >= MOST_LOOKS:
            self._is_looking = False
            self.end()
            return
        entering = self._entering
        takes_more = entering is not None and entering.endpoint is not None and _takes(entering)
        if self._looks >= (MOST_TICKS if takes_more else TICKS_WITHOUT):
            self._go_on()
        self._look_later(loop)


def _takes(holder: Holder) -> bool:
    """Tell whether a request has taken something since it has reached its route."""
    return any(account.takes for account in list(holder.accounts.values()))


def note_route(holder: Holder, app_habits: RouteHabits, habits: RouteHabits) -> None:
    """Take note that a request has reached its route: others may enter the app after it.

    From the first one on that holds something there.
    """
    turns: InTurn | None = app_habits.in_turn
    if turns is None:
        if not holder.holds_something:
            return
        turns = app_habits.in_turn = InTurn()
    if turns.is_over:
        return
    turns.reached(holder, habits.requests > 0)
    if habits.requests:
        # What it needs is known now: the rest is for others.
        for account in list(holder.accounts.values()):
            habit = habits.by_kind.get(account.ledger.kind)
            if habit is None or habit.most_elsewhere <= account.held:
                account.ledger.door.release(account)


def claims_in_turn(habits: RouteHabits) -> Claims:
    """Return what to set aside for a request whose turn it is to enter an app.

    As much as its middleware keeps, and as an unknown route may take beside.
    """
    claims = []
    for kind, kept in list(habits.in_turn.kept.items()):
        ledger = governor.ledger_of(kind)
        if ledger is not None:
            claims.append((ledger, max(kept + UNKNOWN_CLAIM, habits.of(kind).most_elsewhere)))
    return sorted(claims[:UNKNOWN_POOLS], key=id_of_ledger)
