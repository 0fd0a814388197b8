"""The stall watch: notices that somebody waits while nothing finishes, and lets the pool grow.

Started by the pool when a hop has to wait, called by the clock while somebody does. It must cost
nothing while nobody waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._watching.episodes import Episodes
from .clock import Clock
from .gate import Gate
from .growth import Growth

if TYPE_CHECKING:
    from .counters import Progress
    from .pool import TokenPool

# Turns of the loop between the end of a hop in its thread and its end in the pool.
REPORTING_TURNS = 3

# Looks in a row at which no hop with a regular token has finished, though others have, until those
# that the others overtake get threads of their own. A guess: a second, where ordinary queries end.
STARVED_LOOKS = 20

# While stalls follow each other closely, looks are up to so many times as frequent. Each look adds
# the thread that ends a stall: at one frequency 3,000 requests of mixed shapes crawled at 17 a
# second. Adding more at each was no remedy: hops within hops then block all that may be added.
HASTE = 32

# Looks' time, at the usual frequency, in which hops must have finished without a break until there
# is no more haste. A guess, as long as the above.
CALM_LOOKS = 20


class StallWatch:
    """Looks every `seconds` whether a hop has finished since it last looked.

    Two things can go wrong. Nothing finishes: threads are added, at each look twice as many as at
    the last. Or hops finish, but only with the reserve, because deep requests that have nothing to
    do with it (busy WebSockets) keep out the one that the regular threads wait for: then threads
    are added for those who have waited longest.
    """

    __slots__ = (
        "_calm",
        "_clock",
        "_gate",
        "_growth",
        "_interval",
        "_pool",
        "_seen",
        "_since_gate",
        "_starved",
        "_stuck",
        "episodes",
        "on",
        "seconds",
    )

    def __init__(self, pool: TokenPool, clock: Clock, seconds: float, gate: Gate) -> None:
        self._pool = pool
        self._gate = gate
        self._clock = clock
        self.seconds = seconds
        self._seen: Progress | None = None  # at the last look
        self._growth = Growth()
        self._interval = seconds  # until the next look
        self._calm = 0.0  # seconds without a stalled look
        self._starved = 0.0  # seconds without regular progress
        self._stuck = 0.0  # seconds without any
        self._since_gate = 0.0  # seconds since the gate last looked
        self.on = False
        self.episodes = Episodes(pool)

    def watch(self) -> None:
        """Be on from now until a look finds nobody waiting."""
        if not self.on:
            self.on = True
            self._growth = Growth()
            self._calm = self._starved = self._stuck = self._since_gate = 0
            self._interval = self.seconds
            self._look_later()

    def _look_later(self) -> None:
        self._seen = self._pool.progress()
        self._clock.call_later(self._interval, self._look)

    def _look(self) -> None:
        # The loop itself may have been held up: let what has finished meanwhile report first.
        self._look_in(0 if self._has_moved() else REPORTING_TURNS)

    def _has_moved(self) -> bool:
        return self._pool.progress() != self._seen

    def _look_in(self, turns: int) -> None:
        if turns:
            self._clock.call_soon(lambda: self._look_in(turns - 1))
            return
        progress = self._pool.progress()
        if progress is None or progress != self._seen:
            self.episodes.moved()
        if progress is None:
            self.episodes.over()
        if progress is None or self._seen is None:
            self.on = progress is not None
            if self.on:
                self._look_later()
            else:
                self._gate.open()
            return
        if progress == self._seen:
            self._calm = 0
            self._stuck += self._interval
            if self._stuck >= self.seconds:
                self._pool.open_gate()
            self.episodes.stalled_look(self._interval)
            if self._growth.begun:
                self._interval = min(2 * self._interval, self.seconds)
            self._pool.grow(self._growth.more(), self._growth.choose)
            self.episodes.grown()
        else:
            self._moved(progress.regular != self._seen.regular)
        self._look_later()

    def _moved(self, regular: bool) -> None:
        """Go on after a look that has seen hops finish, `regular` ones too."""
        self._stuck = 0
        self._since_gate += self._interval
        if self._since_gate >= self.seconds:
            self._since_gate = 0
            self._pool.look_at_gate()
        self._calm += self._interval
        self._starved = 0 if regular else self._starved + self._interval
        if self._starved >= STARVED_LOOKS * self.seconds:
            self._pool.open_gate()
            self._pool.relieve(self._growth.more())
            return
        if self._growth.begun:
            self._growth = Growth()
            self._interval = max(self._interval / 2, self.seconds / HASTE)
        if self._calm >= CALM_LOOKS * self.seconds:
            self._interval = self.seconds
            self.episodes.over()
