"""Tokens that linger: kept by their leases after a hop, for a few turns of the loop.

Filled and emptied by the pool for every hop. It must cost nothing while nobody waits: turns are
counted only then, so a token that nobody needs may linger for as long as its request lasts.
"""

from __future__ import annotations

from collections.abc import Callable

from ._clock import Clock
from ._lease import LINGERING, NONE, Lease

# Turns of the event loop for which a token lingers while somebody waits. A sync route starts its
# next hop two turns after the last has ended; one more for a middleware in between.
LINGER_TURNS = 3


class Lingering:
    """The leases whose tokens linger, oldest first.

    :param somebody_waits: asked at each turn; turns are counted while it says so
    :param tokens_are_free: called after each turn
    """

    __slots__ = ("_clock", "_somebody_waits", "_tokens_are_free", "_turn", "counting", "leases")

    def __init__(
        self,
        clock: Clock,
        somebody_waits: Callable[[], bool],
        tokens_are_free: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._somebody_waits = somebody_waits
        self._tokens_are_free = tokens_are_free
        self._turn = 0
        self.counting = False
        self.leases: dict[Lease, None] = {}

    def add(self, lease: Lease) -> None:
        lease.token = LINGERING
        lease.turn = self._turn
        self.leases[lease] = None

    def end(self, lease: Lease) -> None:
        """Take the token back."""
        del self.leases[lease]
        lease.token = NONE

    def end_oldest(self) -> None:
        self.end(next(iter(self.leases)))

    def count_turns(self) -> None:
        if self.leases and not self.counting:
            self.counting = True
            self._clock.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self.counting = False
        if not self._somebody_waits():
            return
        self._turn += 1
        ended = []
        for lease in self.leases:
            if self._turn - lease.turn < LINGER_TURNS:
                break
            ended.append(lease)
        for lease in ended:
            self.end(lease)
        self._tokens_are_free()
        if self._somebody_waits():
            self.count_turns()
