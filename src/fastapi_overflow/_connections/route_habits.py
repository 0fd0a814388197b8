"""What the requests of a route usually do with whatever pools, and what is known of its first one.

Learned from every request that ends, asked for every one that begins. It must stay bounded, and
never keep the others waiting for a first one that has nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .habits import Habit
from .visit import Visit

# Pools whose habits are kept for a route: some apps make an engine for each request.
MOST_POOLS = 16

LOOK_SECONDS = 0.05  # between two looks at what requests wait for before they begin

# Looks for which the others of a route wait for the first one: at most, and while it has no
# connection, be it because it has taken none yet or because it has given back what it had. Guesses.
MOST_TICKS = 20
TICKS_WITHOUT = 5


class RouteHabits:
    """The habits of one route, by the kind of pool.

    :ivar requests: of the route that have ended
    :ivar first: the first one, until it has ended
    :ivar is_open: whether the others need not wait for the first one
    :ivar ticks: looks at the first one, while the others wait for it
    :ivar looker: the event loop that looks; None for none
    :ivar is_first_idle: whether they need not because that had no connection for a while: what it
        has done until then counts as what it does
    :ivar waiting: called, once each, when they need not wait any longer
    :ivar are_late: whether some take a connection late: see `Visit.late`
    :ivar have_taken: whether some have taken a connection, or failed to
    :ivar is_more_in_vain: whether one has waited in vain for more than is usual
    """

    __slots__ = (
        "_ticks_without",
        "_uncounted",
        "are_late",
        "by_kind",
        "first",
        "have_taken",
        "is_first_idle",
        "is_more_in_vain",
        "is_open",
        "looker",
        "requests",
        "ticks",
        "waiting",
    )

    def __init__(self) -> None:
        self.by_kind: dict[object, Habit] = {}
        self.requests = 0
        self.first: Any = None
        self.is_open = False
        self.ticks = 0
        self.looker: Any = None
        self._ticks_without = 0  # the latest of these in a row
        self.is_first_idle = False
        self.waiting: list[Callable[[], None]] = []
        self.are_late = False
        self.have_taken = False
        self.is_more_in_vain = False
        self._uncounted = 0  # requests that took nothing, as all before, and no habit knows of

    @property
    def may_be_late(self) -> bool:
        """Whether requests may take a connection late: while none has ended, any may."""
        return self.are_late or not self.requests

    def open(self) -> None:
        """Let the others wait for the first one no longer."""
        self.is_open = True
        self._wake()

    def forget_first(self) -> None:
        """Have another one be the first: it has ended before it began."""
        self.first = None
        self.ticks = self._ticks_without = 0
        self._wake()

    def _wake(self) -> None:
        waiting, self.waiting = self.waiting, []
        for wake in waiting:
            wake()

    def look_at_first(self) -> None:
        """Open if enough is known: called from time to time by an event loop while others wait.

        It is at the end of the first one, or once that has had nothing for a while. By looks of
        the loop, which may have been at something else for longer.
        """
        self.ticks += 1
        first = self.first
        is_idle = first is not None and not (
            first.is_held_back or first.waiting or first.holds_something
        )
        self._ticks_without = self._ticks_without + 1 if is_idle else 0
        self.is_first_idle = self._ticks_without >= TICKS_WITHOUT
        if first is None or self.is_first_idle or self.ticks >= MOST_TICKS:
            self.open()

    def seconds_of_looks(self) -> float:
        """Return for how long the loop has looked at the first one; math.inf if nobody waits."""
        return (self.ticks + 1) * LOOK_SECONDS if self.waiting else math.inf

    def of(self, kind: object) -> Habit:
        if self._uncounted:
            self._count()
        habit = self.by_kind.get(kind)
        if habit is None:
            # In one step: a thread may take a connection meanwhile.
            if len(self.by_kind) >= MOST_POOLS:
                kinds = sorted(self.by_kind.items(), key=lambda item: item[1].worth)
                self.by_kind = dict(kinds[MOST_POOLS // 2 :])
            habit = self.by_kind.setdefault(kind, Habit())
        return habit

    def took_nothing(self) -> None:
        """Learn from one that has ended and isn't the first, as by `learn({})`."""
        if self.have_taken:
            self.learn({})
        else:
            self.requests += 1
            self._uncounted += 1

    def _count(self) -> None:
        """Have each habit learn what it would have by `learn(None)`, while nobody had any."""
        number, self._uncounted = self._uncounted, 0
        for habit in list(self.by_kind.values()):
            habit.requests += number
            habit.is_simple = habit.most <= 1

    def learn(self, visits: dict[object, Visit]) -> None:
        """Learn from a request that has ended, by the kinds of pools that it took from.

        While none has come to its end one that has failed for want of a connection doesn't count:
        it may have been about to take more.
        """
        if self._uncounted:
            self._count()
        if not self.requests and any(visit.has_failed for visit in visits.values()):
            for kind, visit in visits.items():
                self.of(kind).raise_to(visit)
            self._end_first()
            return
        self.requests += 1
        self.have_taken = self.have_taken or bool(visits)
        for kind, visit in visits.items():
            self.of(kind).learn(visit)
            self.are_late = self.are_late or bool(visit.late)
        if len(visits) < len(self.by_kind):
            for kind, habit in list(self.by_kind.items()):
                if kind not in visits:
                    habit.learn(None)
        self._end_first()

    def _end_first(self) -> None:
        self.first = None
        if not self.is_open:
            self.open()
