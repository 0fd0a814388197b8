"""Pools that are only watched: those of async engines, and those without a bound.

Called at each of their checkouts and returns. It must never make anybody wait.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .holder import Holder


class WatchedPool:
    """Who has the connections of a pool that hands them out as it likes.

    :ivar pool: what it is asked
    :ivar out: what is out for whom, by the pool's own record of it
    :ivar waiting: who waits for one, and since when
    :ivar checkouts: connections handed out
    :ivar timeouts: waits that have failed
    :ivar seconds_waited: by those who wait no longer
    :ivar seconds_held: by those who have given theirs back
    """

    seconds_idle = 0.0  # not known
    adrift = 0  # nor this

    __slots__ = (
        "__weakref__",
        "checkouts",
        "out",
        "pool",
        "seconds_held",
        "seconds_waited",
        "timeouts",
        "waiting",
    )

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.out: dict[object, Any] = {}
        self.waiting: dict[WatchedAccount, float] = {}
        self.checkouts = 0
        self.timeouts = 0
        self.seconds_waited = 0.0
        self.seconds_held = 0.0

    @property
    def capacity(self) -> float:
        capacity: float = self.pool.bound()
        return capacity

    def held_back(self) -> list[Holder]:
        """Return the requests that wait to be let in: none."""
        return []

    def waiting_holders(self) -> list[Holder]:
        """Return who waits for one, as often as it does; from any thread."""
        return [account.holder for account in list(self.waiting)]

    def waiting_since(self) -> list[float]:
        """Return since when somebody waits, for each; from any thread."""
        return list(self.waiting.values())

    def begin_wait(self, account: WatchedAccount) -> None:
        self.waiting[account] = time.monotonic()

    def end_wait(self, account: WatchedAccount) -> None:
        seconds = time.monotonic() - self.waiting.pop(account)
        self.seconds_waited += seconds
        account.holder.waited_watched += seconds

    def give_back(self, account: WatchedAccount) -> None:
        seconds = time.monotonic() - account.filled
        account.holder.watched -= 1
        account.holder.held_watched += seconds
        self.seconds_held += seconds


class WatchedAccount:
    """One connection of a watched pool, for who has it or waits for it.

    :ivar filled: time.monotonic() at which it was there
    """

    __slots__ = ("__weakref__", "filled", "holder", "ledger")

    def __init__(self, holder: Holder, ledger: WatchedPool) -> None:
        self.holder = holder
        self.ledger = ledger
        self.filled = 0.0
