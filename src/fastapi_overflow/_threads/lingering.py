"""Tokens that linger: kept by their leases after a hop, for a few turns of the loop.

Filled and emptied by the pool for every hop. It must cost nothing while nobody waits: turns are
counted only then, so a token that nobody needs may linger for as long as its request lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .clock import Clock
from .lease import LINGERING, Lease

# Turns of the event loop for which a token lingers while somebody waits. A sync route starts its
# next hop two turns after the last has ended; one more for a middleware in between.
LINGER_TURNS = 3


class Lingering:
    """The leases whose tokens linger, oldest first.

    :param somebody_waits: asked at each turn; turns are counted while it says so
    :param give_back: called after each turn, with those whose time is up
    """

    __slots__ = ("_clock", "_give_back", "_somebody_waits", "_turn", "counting", "leases")

    def __init__(
        self,
        clock: Clock,
        somebody_waits: Callable[[], bool],
        give_back: Callable[[Iterable[Lease]], None],
    ) -> None:
        self._clock = clock
        self._somebody_waits = somebody_waits
        self._give_back = give_back
        self._turn = 0
        self.counting = False
        self.leases: dict[Lease, None] = {}

    def add(self, lease: Lease) -> None:
        lease.token = LINGERING
        lease.turn = self._turn
        self.leases[lease] = None

    def end(self, leases: Iterable[Lease]) -> Iterable[Lease]:
        """Let these linger no longer; their tokens are the caller's to give back."""
        for lease in leases:
            del self.leases[lease]
        return leases

    def end_oldest(self, most: float) -> Iterable[Lease]:
        return self.end([lease for n, lease in enumerate(self.leases) if n < most])

    def count_turns(self) -> None:
        if self.leases and not self.counting:
            self.counting = True
            self._clock.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self.counting = False
        if not self._somebody_waits():
            return
        self._turn += 1
        late = []
        for lease in self.leases:
            if self._turn - lease.turn < LINGER_TURNS:
                break
            late.append(lease)
        self._give_back(self.end(late))
        if self._somebody_waits():
            self.count_turns()
