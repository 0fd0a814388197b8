"""The books of one event loop's tokens: how many there are, and who has one of which kind.

Kept by the pool, for every hop. It must never decide who gets a token, only whether one is free.
"""

from __future__ import annotations

from .lease import BUSY, EXTRA, LINGERING, Lease
from .lingering import Lingering


class Tokens:
    """Tokens of a limit: regular ones, those of the reserve, and what a stall has added.

    A token is *taken* while a hop runs with it and while it lingers. Those of the reserve and those
    that a stall has added are *extra*. A token stays of its kind until it is given back.
    """

    # Invariants, between any two calls of the pool:
    #   1. A lease is in _lingering if and only if its token lingers; its token is BUSY if and only
    #      if it is the value of one borrower. A closed lease doesn't linger.
    #   2. _extra is the number of tokens taken that aren't regular: those of borrowers whose value
    #      is EXTRA or a lease that is `extra`, and of leases in _lingering that are.
    #   3. No more regular tokens are taken than there are, or were when the limit was lowered; no
    #      more others than the reserve and the stall threads together.

    _total: float  # the limit
    _reserve: int  # as it was set
    _spare: int  # as it is in effect
    _regular: float  # tokens of the limit that are not of the reserve
    _lowered: bool  # whether more may be taken than now is allowed

    def __init__(self, linger: Lingering) -> None:
        # Whose hops run: the lease whose own token they use, None where it goes back at once.
        self._borrowers: dict[object, Lease | None] = {}
        self._lingering = linger.leases
        self._extra = 0

    def _set_size(self, total: float, reserve: int) -> None:
        self._total = total
        self._reserve = reserve
        # The reserve never takes the last token.
        self._spare = int(min(reserve, max(total - 1, 0)))
        self._regular = total - self._spare
        self._lowered = True

    def _taken(self) -> int:
        return len(self._borrowers) + len(self._lingering)

    def _regular_is_free(self) -> bool:
        if self._lowered:
            # While more is out than now may be, reserve and growth count as regular too.
            self._lowered = not (self._taken() < self._total and self._extra <= self._spare)
            if self._lowered and self._taken() >= self._total:
                return False
        return len(self._borrowers) + len(self._lingering) - self._extra < self._regular

    def _reserve_is_free(self) -> bool:
        # Both: more may be taken than there is, after a stall or when the limit has been lowered.
        return (
            self._extra < self._spare and len(self._borrowers) + len(self._lingering) < self._total
        )

    def _is_too_many(self, lease: Lease) -> bool:
        """Tell whether the limit has been lowered below what is taken, this token included."""
        return not self._regular_is_free() and (not lease.extra or not self._total)

    def _room_to_grow(self, stall_threads: int | None) -> float:
        """Return how many tokens a stall may add now; None: as many as the limit, in all."""
        if not self._total:
            return 0  # the app has closed the pool
        return self._spare + (self._total if stall_threads is None else stall_threads) - self._extra

    def _check_tokens(self) -> None:
        """Assert the invariants, for the tests."""
        taken = [*self._borrowers.values(), *self._lingering]
        assert self._extra == sum(lease is not None and lease.extra for lease in taken)
        own = [lease for lease in self._borrowers.values() if lease not in (None, EXTRA)]
        assert len(own) == len(set(own))
        assert all(lease is not None and lease.token == BUSY for lease in own)
        assert all(lease.token == LINGERING and not lease.closed for lease in self._lingering)
