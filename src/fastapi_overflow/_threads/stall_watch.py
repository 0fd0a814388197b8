"""The stall watch: notices that somebody waits while nothing finishes, and lets the pool grow.

Started by the pool when a hop has to wait, called by the clock while somebody does. It must cost
nothing while nobody waits, and must look again whatever happens: a watch that has stopped is a
freeze.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .clock import Clock
    from .counters import Counters
    from .observer import Observer

MOST = 1024  # threads at one look; the pool has its own bound

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


# How many hops have finished: with a regular token, and with another one.
Progress = tuple[int, int]

if TYPE_CHECKING:  # as in `clock`

    class Watched(Protocol):
        """What the stall watch needs of its pool."""

        counters: Counters

        def progress(self) -> Progress | None:
            """Return how many hops have finished, None when nobody waits."""

        def nobody_waits(self) -> None: ...
        def grow(self, most: int) -> None: ...
        def relieve(self, most: int) -> None: ...
        def stall_is_over(self) -> None: ...


class StallWatch:
    """Looks every `seconds` whether a hop has finished since it last looked.

    Two things can go wrong. Nothing finishes: threads are added, at each look twice as many as at
    the last. Or hops finish, but only with the reserve, because deep requests that have nothing to
    do with it (busy WebSockets) keep out the one that the regular threads wait for: then threads
    are added for those who have waited longest.

    :ivar on: whether there will be another look
    :ivar stalled: whether the last look found that nothing had finished. It is still the same stall
        when hops have finished in between, until they have without a break for CALM_LOOKS
    """

    __slots__ = (
        "_calm",
        "_clock",
        "_in_a_stall",
        "_interval",
        "_observer",
        "_pool",
        "_seen",
        "_starved",
        "_step",
        "on",
        "seconds",
        "stalled",
    )

    def __init__(self, pool: Watched, clock: Clock, seconds: float, observer: Observer) -> None:
        self._pool = pool
        self._clock = clock
        self._observer = observer
        self.seconds = seconds
        self._seen: Progress | None = None  # at the last look
        self._step = 1  # threads to add at the next stalled look: 1, then 2, 4, ...
        self._interval = seconds  # until the next look
        self._calm = 0.0  # seconds without a stalled look
        self._starved = 0.0  # seconds without regular progress
        self._in_a_stall = False
        self.on = False
        self.stalled = False

    def watch(self) -> None:
        """Be on from now until a look finds nobody waiting."""
        if not self.on:
            self.on = True
            self._step = 1
            self._calm = self._starved = 0
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
        try:
            self._take_a_look(self._pool.progress())
        except Exception as exc:  # a fault of ours, and not to be the app's last
            self._observer.watch_failed(exc)
        finally:
            if self.on:
                self._look_later()

    def _take_a_look(self, progress: Progress | None) -> None:
        if progress is None:
            self.on = self.stalled = False
            self._pool.nobody_waits()
            self._observer.moved()
            self._end_stall()
        elif progress == self._seen:
            self._nothing_finished()
        elif self._seen is not None:
            self._something_finished(progress[0] != self._seen[0])

    def _nothing_finished(self) -> None:
        self._calm = 0
        self.stalled = True
        if not self._in_a_stall:
            self._in_a_stall = True
            self._pool.counters.stalls += 1
        self._observer.stalled(self._interval)
        if self._step > 1:
            self._interval = min(2 * self._interval, self.seconds)
        self._pool.grow(self._next_step())
        self._observer.grown()

    def _something_finished(self, regular: bool) -> None:
        """Go on after a look that has seen hops finish, `regular` ones too."""
        self.stalled = False
        self._observer.moved()
        self._calm += self._interval
        self._starved = 0 if regular else self._starved + self._interval
        if self._starved >= STARVED_LOOKS * self.seconds:
            self._pool.relieve(self._next_step())
            return
        if self._step > 1:
            self._step = 1
            self._interval = max(self._interval / 2, self.seconds / HASTE)
        if self._calm >= CALM_LOOKS * self.seconds:
            self._interval = self.seconds
            self._end_stall()

    def _next_step(self) -> int:
        step = self._step
        self._step = min(2 * step, MOST)
        return step

    def _end_stall(self) -> None:
        if self._in_a_stall:
            self._in_a_stall = False
            self._pool.stall_is_over()
            self._observer.over()
