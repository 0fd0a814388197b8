"""The stall watch: notices that somebody waits while nothing finishes, and lets the pool grow.

Started by the pool when a hop has to wait, called by the clock while somebody does. It must cost
nothing while nobody waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._clock import Clock

if TYPE_CHECKING:
    from ._pool import TokenPool

# Turns of the loop between the end of a hop in its thread and its end in the pool.
REPORTING_TURNS = 3


class StallWatch:
    """Looks every `seconds` whether a hop has finished since it last looked."""

    __slots__ = ("_clock", "_growth", "_pool", "_seconds", "_seen", "on")

    def __init__(self, pool: TokenPool, clock: Clock, seconds: float) -> None:
        self._pool = pool
        self._clock = clock
        self._seconds = seconds
        self._seen: int | None = None  # hops that had finished at the last look
        self._growth = 1  # threads to add at the next stalled look
        self.on = False

    def watch(self, progress: int | None) -> None:
        """Be on from now, with so many hops finished, until a look finds nobody waiting."""
        if not self.on:
            self.on = True
            self._look_later(progress)

    def _look_later(self, progress: int | None) -> None:
        self._seen = progress
        self._clock.call_later(self._seconds, self._look)

    def _look(self) -> None:
        progress = self._pool.progress()
        if progress is not None and progress == self._seen:
            # The loop itself may have been held up: let what has finished meanwhile report first.
            self._confirm(REPORTING_TURNS)
            return
        self._growth = 1
        self.on = progress is not None
        if self.on:
            self._look_later(progress)

    def _confirm(self, turns: int) -> None:
        if turns:
            self._clock.call_soon(lambda: self._confirm(turns - 1))
            return
        if self._pool.progress() == self._seen:
            self._pool.grow(self._growth)
            self._growth *= 2
        self._look_later(self._pool.progress())
