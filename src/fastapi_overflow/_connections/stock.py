"""What one pool has, and who has a stake in it.

Asked and changed at each checkout and each return, by whoever has the book. It must never hand
anything out by itself, and never wait.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .habits import PRESSED_SECONDS
from .holder import Account

if TYPE_CHECKING:
    from typing import Protocol

    class Pool(Protocol):
        """What a ledger asks its pool."""

        def capacity(self) -> int:
            """Return how many connections may be out."""

        def out(self) -> int:
            """Return how many are."""

        def timeout(self) -> float:
            """Return for how many seconds a checkout may wait."""

        def forget_ledger(self) -> None:
            """Have a new ledger at the next checkout."""


IN_USE = 16  # a pool is, where at least one connection in so many is out; a guess
SHORT_SECONDS = 10.0  # for which a pool of which all were out counts as in use; a guess
ASK_SECONDS = 0.05  # between two questions to the pool


class Stock:
    """What one pool has: how many connections may be out, how many are, and for whom.

    :param note_fault: told what the pool raises; with the book
    :ivar capacity: connections that may be out; math.inf where the pool is left alone
    :ivar held: that accounts have
    :ivar adrift: that are out and that nobody here knows of; below 0, that are said to be out and
        aren't. Asked for when somebody has to wait: in doubt the pool is right.
    :ivar aside: that are set aside
    :ivar awaited: accounts that were let in and have yet to take one
    :ivar stakes: the accounts that hold something or have something set aside
    :ivar moved: time.monotonic() when one last came back
    :ivar out: what is out for whom, by the pool's own record of it; written without the book. Less
        than `held` while the pool is about to hand out what was granted, or to take it back.
    :ivar spare: connections that threads without any leave to event loops, for a while after a
        checkout on one has failed
    :ivar somebody_waits: for one, or to be let in; it may still say so for a while after the last
    """

    # Invariants, whenever the book is free and nothing is in its `returned`:
    #   1. `held` is the sum of what all accounts hold, `aside` of what is set aside for them and
    #      not taken, `awaited` the number of those let in that have yet to take one.
    #   2. `held + adrift` is never above the capacity by what is granted here.
    #   3. An account is in `stakes` if and only if it holds something or has something set aside.
    #   4. While anybody is in the queues or the entries, `somebody_waits`: a return looks there.

    __slots__ = (
        "_adrift_before",
        "_asked",
        "_note_fault",
        "_pressed_until",
        "_was_short",
        "adrift",
        "aside",
        "awaited",
        "capacity",
        "held",
        "moved",
        "out",
        "pool",
        "somebody_waits",
        "spare",
        "stakes",
    )

    def __init__(self, pool: Pool, note_fault: Callable[[Exception], None]) -> None:
        self.pool = pool
        self._note_fault = note_fault
        self.capacity: float = pool.capacity()
        self.adrift = pool.out()
        self._adrift_before = self.adrift  # by the last answer
        self.held = 0
        self.aside = 0
        self.awaited = 0
        self.stakes: dict[Account, None] = {}
        self.moved = time.monotonic()
        self.out: dict[object, tuple[Any, ...]] = {}  # each a `Taken`
        self.spare = 0
        self.somebody_waits = False
        self._pressed_until = 0.0
        self._was_short = -math.inf
        self._asked = 0.0

    # ---- the sums

    def leave_out(self, account: Account) -> None:
        """Take an account out of the sums, before it changes."""
        self.aside -= max(account.claim - account.held, 0)
        self.awaited -= account.is_awaited

    def count(self, account: Account) -> None:
        """Take an account into the sums again."""
        self.aside += max(account.claim - account.held, 0)
        self.awaited += account.is_awaited
        if account.held or account.claim:
            self.stakes[account] = None
        else:
            self.stakes.pop(account, None)

    @property
    def free(self) -> float:
        """How many may be handed out, set aside or not."""
        return self.capacity - self.held - self.adrift

    def at_most(self, number: int) -> int:
        """Return this number, or how many there are, if they are fewer."""
        return int(min(number, self.capacity))

    def is_in_use(self, now: float) -> bool:
        """Tell whether some have connections for longer than a turn of their event loop, or had.

        Asked between two turns. What is only set aside doesn't count: else those that have
        something set aside for a while would be why others need that, too.
        """
        has_some = self.held > 0 and self.held * IN_USE >= self.capacity
        return has_some or now - self._was_short < SHORT_SECONDS

    def note_waiting(self, now: float) -> None:
        """Take note that somebody has to wait."""
        if self.free <= 0:
            self._was_short = now

    # ---- who may take one

    def has_for(self, account: Account) -> bool:
        """Tell whether an account may take a connection in a thread whose turn it is."""
        free = self.free
        if free <= 0:
            return False
        if account.claim > account.held:
            return True
        outright = account.outright()
        if free - self.aside < outright + (0 if account.held else self.spare):
            return False
        limit = account.limit()
        # One that takes a single connection comes to its end whatever the others do.
        return limit <= 1 or self.is_safe(account, max(account.held + 1, outright), limit)

    def is_safe(self, account: Account, has: int, limit: int) -> bool:
        """Tell whether all who have a stake could come to their end, if this account `has` so many.

        The banker's algorithm, over what each has and may take at most. What nobody here knows of
        comes back by itself.
        """
        left = self.capacity - min(self.adrift, 0) - has
        wants = [(max(limit - has, 0), has)]
        for each in self.stakes:
            if each is not account:
                stake = max(each.held, each.claim)
                left -= stake
                wants.append((max(each.limit() - stake, 0), stake))
        wants.sort()
        for want, stake in wants:
            if want > left:
                return False
            left += stake
        return True

    def spare_one(self) -> None:
        """Leave one to event loops for a while, where there are enough."""
        if self.capacity > 2:
            self._pressed_until = time.monotonic() + PRESSED_SECONDS
            self.spare = 1

    # ---- what the pool says

    def ask_pool(self, now: float) -> None:
        """Ask the pool what is out. What is on its way makes it differ for a moment."""
        if now - self._asked < ASK_SECONDS:
            return
        self._asked = now
        if self.spare and now >= self._pressed_until:
            self.spare = 0
        try:
            self.capacity, out = self.pool.capacity(), self.pool.out()
        except Exception as exc:
            self.leave_pool_alone(exc)
            return
        # What is granted may be out already, or not yet.
        least = out - self.held
        adrift = min(max(self.adrift, least), least + max(self.held - len(self.out), 0))
        if adrift == self._adrift_before:
            self.adrift = adrift
        self._adrift_before = adrift

    def believe_pool(self) -> bool:
        """Take the pool's word for what is out, if some are free by that; tell whether they are."""
        missing = self.held - len(self.out)  # about to be handed out
        try:
            capacity, out = self.pool.capacity(), self.pool.out() + missing
        except Exception as exc:
            self.leave_pool_alone(exc)
            return True
        if out >= capacity:
            return False
        self.adrift = self._adrift_before = out - self.held
        return True

    def leave_pool_alone(self, exc: Exception) -> None:
        """Have enough for everybody from now on: it is for the pool to say who waits.

        It has raised something, of a class of the app's, so nothing is known of it any longer.
        """
        self._note_fault(exc)
        self.capacity = self._asked = math.inf
        self.adrift = self.spare = 0
