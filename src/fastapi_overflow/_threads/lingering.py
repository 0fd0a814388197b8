"""Tokens that linger: kept by their leases after a hop, for a few turns of the loop.

Filled and emptied by the pool for every hop. It must cost nothing while nobody waits: turns are
counted only then, so a token that nobody needs may linger for as long as its request lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .lease import LINGERING, Lease

if TYPE_CHECKING:
    from .clock import Clock

# Turns of the event loop for which a token lingers while somebody waits. A sync route starts its
# next hop two turns after the last has ended; one more for a middleware in between.
LINGER_TURNS = 3


class Lingering:
    """The leases whose tokens linger, oldest first.

    :param somebody_waits: asked at each turn; turns are counted while it says so
    :param give_back: called after each turn, with the leases whose time is up
    """

    __slots__ = ("_clock", "_give_back", "_somebody_waits", "_turn", "counts_turns", "leases")

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
        self.counts_turns = False
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

    def end_oldest(self, most: float, *, extra: bool | None = None) -> Iterable[Lease]:
        """Let up to `most` linger no longer; their tokens are the caller's to give back.

        :param extra: True for those of the reserve and of the growth only, False for the others
        """
        leases = [lease for lease in self.leases if extra is None or lease.extra is extra]
        return self.end([lease for n, lease in enumerate(leases) if n < most])

    def count_turns(self) -> None:
        """Count the loop's turns for as long as somebody waits and a token lingers."""
        if self.leases and not self.counts_turns:
            self.counts_turns = True
            self._clock.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self.counts_turns = False
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
