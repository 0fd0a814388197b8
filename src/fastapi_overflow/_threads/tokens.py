"""The books of one event loop's tokens: how many there are, and who has one of which kind.

Kept by the pool, for every hop. It never decides who gets a token, only whether one is free.
"""

from __future__ import annotations

from .lease import BUSY, LINGERING, Lease

# Most tokens beyond the limit for routes that have none, and the part of the limit that they may be
# at most. An app that has set the limit to 1 has only one sync function run at a time, and must go
# on doing so; one that has set it to a handful may have a reason, memory say. Guesses.
QUIET_TOKENS = 2
QUIET_PART = 4


class Tokens:
    """Tokens of a limit: regular ones, those of the reserve, and those beyond the limit.

    A token is *taken* while a hop runs with it and while it lingers. Those of the reserve, those
    that a stall has added and the *quiet* ones, of routes that had none, are *extra*. A token stays
    of its kind until it is given back, but for a quiet one, which is a regular one as soon as such
    a one is free. What must hold is among the pool's invariants.

    :param stall_threads: how many a stall may add; None: as many as the limit
    :param lingering: the leases whose tokens linger
    :ivar borrowers: whose hops run: the lease whose own token they use, what stands for one, or
        None where a regular token goes back at once and counts in no share
    :ivar extra: how many of the tokens taken are extra
    :ivar quiet: the leases whose own tokens are quiet ones
    :ivar most_quiet: how many of these there may be
    :ivar limit: how many there are
    :ivar reserve: of these, as it was set
    :ivar spare: of these, the reserve as it is in effect: it never takes the last token
    :ivar regular: of these, the others
    :ivar lowered: whether more may be taken than now is allowed
    """

    __slots__ = (
        "_stall_threads",
        "borrowers",
        "extra",
        "limit",
        "lingering",
        "lowered",
        "most_quiet",
        "quiet",
        "regular",
        "reserve",
        "spare",
    )

    def __init__(
        self,
        limit: float,
        reserve: int,
        stall_threads: int | None,
        lingering: dict[Lease, None],
    ) -> None:
        self.borrowers: dict[object, Lease | None] = {}
        self.lingering = lingering
        self.extra = 0
        self.quiet: dict[Lease, None] = {}
        self._stall_threads = stall_threads
        self.resize(limit, reserve)

    def resize(self, limit: float, reserve: int) -> None:
        self.limit = limit
        self.reserve = reserve
        self.spare = int(min(reserve, max(limit - 1, 0)))
        self.regular = limit - self.spare
        self.most_quiet = int(min(QUIET_TOKENS, limit / QUIET_PART))
        self.lowered = True

    @property
    def taken(self) -> int:
        return len(self.borrowers) + len(self.lingering)

    def has_regular(self) -> bool:
        """Tell whether a regular token is free."""
        taken = len(self.borrowers) + len(self.lingering)
        if self.lowered:
            self.lowered = self._exceeds(taken, self.extra)
            if self.lowered and taken - len(self.quiet) >= self.limit:
                return False  # reserve and growth count as regular too
        return taken - self.extra < self.regular

    def _exceeds(self, taken: int, extra: int) -> bool:
        """Tell whether more is out than now may be."""
        return taken - extra > self.regular or extra - len(self.quiet) > self.spare

    def has_reserved(self) -> bool:
        """Tell whether a token of the reserve is free."""
        # Both: more may be taken than there is, after a stall or when the limit has been lowered.
        quiet = len(self.quiet)
        return (
            self.extra - quiet < self.spare
            and len(self.borrowers) + len(self.lingering) - quiet < self.limit
        )

    def has_quiet(self) -> bool:
        """Tell whether a route that has no token may get one beyond the limit."""
        return len(self.quiet) < self.most_quiet

    def make_regular(self) -> None:
        """Have a quiet token be a regular one, which must be free."""
        lease, _ = self.quiet.popitem()
        lease.extra = False
        self.extra -= 1

    def has_too_many(self, lease: Lease) -> bool:
        """Tell, once `lowered`, whether the token of a hop that has just ended is one too many."""
        if lease in self.quiet:
            return len(self.quiet) > self.most_quiet
        taken = self.taken
        extra = self.extra - lease.extra  # it is still counted there, but not among those taken
        full = self._exceeds(taken, extra) and taken - len(self.quiet) >= self.limit
        if taken - extra < self.regular and not full:
            return False
        return not lease.extra or not self.limit or self.room_to_grow() < 0

    @property
    def stall_threads(self) -> float:
        """How many tokens a stall may add in all."""
        return self.limit if self._stall_threads is None else self._stall_threads

    def room_to_grow(self) -> float:
        """Return how many tokens a stall may add now; below 0 where the limit has been lowered."""
        if not self.limit:
            return 0  # the app has closed the pool
        return self.spare + self.stall_threads - (self.extra - len(self.quiet))

    def check(self) -> None:
        """Assert the pool's invariants 1 and 2, for the tests."""
        taken = [*self.borrowers.values(), *self.lingering]
        assert self.extra == sum(lease is not None and lease.extra for lease in taken)
        own = [lease for lease in self.borrowers.values() if lease is not None and lease.pool]
        assert len(own) == len(set(own))
        assert all(lease.token == BUSY for lease in own)
        assert all(lease in taken and lease.extra for lease in self.quiet)
        assert all(lease.token == LINGERING and not lease.closed for lease in self.lingering)
