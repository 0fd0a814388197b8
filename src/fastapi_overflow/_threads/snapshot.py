"""A pool as it stands at a moment: made by the pool when somebody asks for it.

A module of its own, imported then: most processes never ask.
"""

from typing import NamedTuple


class View(NamedTuple):
    """How a pool stands, for those who look."""

    limit: float
    regular: float  # tokens of the limit that are not of the reserve
    running: int
    lingering: int
    extra: int  # tokens of the reserve or of the growth that are out
    waiting_first: int
    waiting_later: int
    finished: int
    held_back: float  # regular tokens that first hops are kept from

    @property
    def taken(self) -> int:
        return self.running + self.lingering
