"""A pool as it stands at a moment: made when somebody asks for it.

A module of its own, imported then: most processes never ask.
"""

from typing import NamedTuple


class Snapshot(NamedTuple):
    """How a pool stands, for those who look."""

    limit: float
    regular: float  # tokens of the limit that are not of the reserve
    running: int
    lingering: int
    extra: int  # tokens of the reserve or of the growth that are out
    quiet: int  # tokens beyond those, of routes that had none
    waiting_first: int
    waiting_later: int
    oldest_since: float | None  # time.monotonic() since which the oldest waiter has waited
    stalled: bool

    @property
    def taken(self) -> int:
        return self.running + self.lingering
