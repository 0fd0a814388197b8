"""What the requests of a route usually do with the connections of a pool.

Learned from every request that ends, asked for every one that begins. It must stay small: a few
numbers for each route and pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .visit import Visit

# Weight of the latest request is 1 / MEMORY, and more while there are fewer.
MEMORY = 16

# Requests after which the most that any had is forgotten, if none of so many had as much again.
WINDOW = 256

# A connection that is taken "soon": within so many times the seconds that it is kept for, plus a
# little. Compared with each other, as both grow under load. Guesses, as is all below.
SOON = 3
LITTLE = 0.02

# The first requests of a process take longer for everything but what they wait for: so many, and
# what is a little for these.
FIRST_TAKERS = 4
FIRST_LITTLE = 0.5

# After a hop of its own a little is more: a request that has begun can't be held back any more
# when it turns out, at its checkout on the loop, that none is left.
LATE_LITTLE = 0.05

# By how much the least time until a request takes its first one grows with each request.
FORGETTING = 1.02

# Seconds after which a request takes its first one very late: what is set aside for it may be
# given up by then. Where half of about so many do so, a few early ones don't have all others held
# back. Guesses: load makes some late as well.
VERY_LATE = 0.2
LATE_MEMORY = 64

# Shares of requests that take a connection at all, from which on a route's are held back. Where
# they could wait in a thread just as well, holding them back must all but never be for nothing.
OFTEN = 0.5
NEARLY_ALWAYS = 0.9

# Points late in a request, at which it takes one, that are kept of a route and pool.
MOST_LATE = 8

# What a request takes at once of which nothing is known: its route was never seen to its end. Fewer
# for one that has taken its first one in a thread: the others of such can wait. One that has held
# what it has for so many seconds counts as taking no more: others must not wait for what may never
# come, beside a stream that lasts for hours. Guesses.
UNKNOWN_MOST = 3
UNKNOWN_MOST_IN_THREADS = 2
UNKNOWN_SECONDS = 0.5

# Pools whose habits are kept for a route: some apps make an engine for each request.
MOST_POOLS = 16

LOOK_SECONDS = 0.05  # between two looks at what requests wait for before they begin

# Looks for which the others of a route wait for the first one: at most, and while it has no
# connection, be it because it has taken none yet or because it has given back what it had. Guesses.
MOST_TICKS = 20
TICKS_WITHOUT = 5

# Seconds for which requests that have failed for want of a connection are held back although they
# take theirs late.
PRESSED_SECONDS = 60.0


@dataclass(slots=True)
class LatePoint:
    """Where requests of one route take one late: see `Visit.late`.

    :ivar hops: that they had made by then, at least
    :ivar most_hops: at most: one that has made more turns out to take none here
    """

    hops: int
    most_hops: int
    is_within: bool
    seconds: float
    share: float = 1.0  # of the requests

    def learn(self, visits: list[tuple[int, float]]) -> None:
        """Learn from a request that has ended, and has been here if anything is in `visits`."""
        self.share += (len(visits) - self.share) / MEMORY
        for hops, seconds in visits:
            self.hops = min(self.hops, hops)
            self.most_hops = max(self.most_hops, hops)
            self.seconds = min(seconds, self.seconds * FORGETTING)  # load only adds to it


@dataclass(slots=True)
class Habit:
    """What requests of one route do with one pool."""

    requests: int = 0
    share: float = 0.0  # of them that took one
    most: int = 0
    most_elsewhere: int = 0
    takes: int = 0
    idle: float = 0.0
    again: float = 0.0
    kept: float = 0.0
    pressed_until: float = 0.0
    starved_until: float = 0.0
    late: dict[int, LatePoint] = field(default_factory=dict)  # by what they had taken by then
    is_simple: bool = False  # whether they take one at a time; looked at by each checkout
    kept_on: bool = False  # whether some, of an app, had one when they reached their route
    _takers: int = 0
    _very_late: float = 0.0  # share of the latest that took one
    _window: list[int] = field(default_factory=lambda: [0, 0, 0])

    def raise_to(self, visit: Visit) -> None:
        """Learn from a request under way what others must not be let in without knowing."""
        self.most = max(self.most, visit.most)
        self.is_simple = self.is_simple and self.most <= 1
        self.most_elsewhere = max(self.most_elsewhere, visit.most_elsewhere)
        self.takes = max(self.takes, visit.takes)

    def learn(self, visit: Visit | None) -> None:
        """Learn from a request that has ended; None for one that took nothing."""
        self.requests += 1
        took = visit is not None and visit.takes > 0
        self.share += (took - self.share) / min(self.requests, MEMORY)
        if visit is not None and took:
            self._takers += 1
            weight = 1 / min(self._takers, MEMORY)
            # The least of them: under load the others have waited for threads as well.
            self.idle = min(visit.idle, self.idle * FORGETTING) if self._takers > 1 else visit.idle
            self.again += (visit.again - self.again) * weight
            self.kept += (visit.kept - self.kept) * weight
            is_late = visit.idle > max(VERY_LATE, SOON * self.kept + LITTLE)
            self._very_late += (is_late - self._very_late) / LATE_MEMORY
            most, most_elsewhere, takes = self._window
            if visit.most > most or visit.most_elsewhere > most_elsewhere or visit.takes > takes:
                self.raise_to(visit)
                latest = (visit.most, visit.most_elsewhere, visit.takes)
                self._window = [max(pair) for pair in zip(self._window, latest, strict=True)]
            for takes, hops, is_within, seconds in visit.late:
                if takes not in self.late and len(self.late) < MOST_LATE:
                    self.late[takes] = LatePoint(hops, hops, is_within, seconds)
        for takes, point in list(self.late.items()):  # two loops may be here
            been = () if visit is None else visit.late
            point.learn([(each[1], each[3]) for each in been if each[0] == takes])
        if not self.requests % WINDOW and any(self._window):
            self.most, self.most_elsewhere, self.takes = self._window
            self._window = [0, 0, 0]
        self.is_simple = self.most <= 1

    def press(self, now: float, in_vain: bool = False) -> None:
        """Take note that a request has failed for want of a connection.

        :param in_vain: whether it has waited for the pool's timeout in a thread of the app's
        """
        self.pressed_until = now + PRESSED_SECONDS
        if in_vain:
            self.starved_until = self.pressed_until

    @property
    def is_early(self) -> bool:
        """Whether requests take their first one soon."""
        return self.idle <= SOON * self.kept + self._little

    def goes_on(self, visit: Visit, now: float) -> bool:
        """Tell whether a request that has given back what it had takes another soon."""
        is_soon = self.again <= SOON * self.kept + self._little
        return visit.takes < self.takes and (is_soon or now < self.pressed_until)

    @property
    def _little(self) -> float:
        return FIRST_LITTLE if self._takers < FIRST_TAKERS else LITTLE

    def claim(self, now: float) -> int:
        """Return how many connections to set aside for a request that begins."""
        if not self.most_elsewhere:
            return 0
        is_early = self.is_early and self._very_late < OFTEN
        if now < self.pressed_until or (self.share >= OFTEN and is_early):
            return self.most_elsewhere
        return 0

    def needs(self, now: float) -> int | None:
        """Return the same, 0 for one that only waits its turn, and None for one that need not."""
        claim = self.claim(now)
        return claim if claim or self.takes_in_threads() else None

    def as_known(self, claim: int) -> int:
        """Return how many to set aside by what is known now, where it was to be so many."""
        return self.most_elsewhere if self.requests else max(claim, self.most_elsewhere)

    def takes_seldom(self, claim: int, now: float) -> bool:
        """Tell whether so few take one that nobody is held back, with such a claim, for that.

        Not whether they take it late: those that take theirs late where they can't wait for it
        are better held back while little is known of them. Nor by the latest ones alone: those may
        have been turned away by the app, one after the other, and all that wait would be let in.
        """
        least = OFTEN if claim else NEARLY_ALWAYS
        if self.share >= least or now < self.pressed_until:
            return False
        return self._takers < least * self.requests

    @property
    def worth(self) -> float:
        """Return what it is worth keeping for: nothing where an engine was made for one request."""
        return self.share if self._takers > 1 else 0.0

    def late_claim(self, takes: int, hops: int, is_within: bool, now: float) -> int:
        """Return how many connections to set aside for a request before or after a hop of its own.

        Asked where it holds none and nothing is set aside for it.

        :param takes: that it has taken so far
        :param hops: that it has made, the one that is about to begin included
        :param is_within: whether one is
        """
        point = self.late.get(takes)
        if point is None or point.is_within != is_within:
            return 0
        if not point.hops <= hops <= point.most_hops or point.share < OFTEN:
            return 0
        is_soon = point.seconds <= SOON * self.kept + LATE_LITTLE
        return self.most_elsewhere if is_soon or now < self.pressed_until else 0

    def takes_in_threads(self) -> bool:
        """Whether requests nearly always take one soon, where they can wait for it."""
        return self.share >= NEARLY_ALWAYS and not self.most_elsewhere and self.is_early


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
