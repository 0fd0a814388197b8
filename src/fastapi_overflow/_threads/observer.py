"""Who is told what a pool does.

Given to the pool when it is made. A pool without anybody to tell has a `NoObserver`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # as in `clock`

    class Observer(Protocol):
        """Told in the event loop's thread, in the middle of what the pool does.

        So it may neither raise nor make the pool do anything.
        """

        def stalled(self, seconds: float) -> None:
            """Nothing has finished for `seconds`; the pool is about to grow."""

        def grown(self) -> None:
            """The pool has grown, or could not."""

        def moved(self) -> None:
            """Something has finished, or nobody waits any longer."""

        def over(self) -> None:
            """The stall is over since the pool moved again."""

        def refused(self, seconds: float) -> None:
            """A request has been turned away: it has waited so long for its first thread."""

        def watch_failed(self, exc: Exception) -> None:
            """A look of the stall watch has failed; the next one comes all the same."""

        def hop_began(self, borrower: object, waited: float) -> None:
            """A hop has got its token after `waited` seconds; only after `report_hops(True)`."""

        def hop_ended(self, borrower: object, ran: bool) -> None:
            """It has given the token back, unused unless it `ran`; as above."""


class NoObserver:
    def stalled(self, seconds: float) -> None: ...
    def grown(self) -> None: ...
    def moved(self) -> None: ...
    def over(self) -> None: ...
    def refused(self, seconds: float) -> None: ...
    def watch_failed(self, exc: Exception) -> None: ...
    def hop_began(self, borrower: object, waited: float) -> None: ...
    def hop_ended(self, borrower: object, ran: bool) -> None: ...
