"""What the requests of a route usually do with the connections of one pool.

Learned from every request that ends, asked for every one that begins. It must stay small: a few
numbers for each route and pool.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
