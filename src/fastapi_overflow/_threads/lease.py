"""A request's claim to a thread.

Opened and closed where the app is entered, moved between its states by the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .pool import TokenPool
    from .waiters import Waiter

# What the own token of a lease does: there is none; a hop runs with it; it lingers.
NONE, BUSY, LINGERING = range(3)

# More hops than any request makes but a stream or a WebSocket. Those may go on for ever, so from
# here on they have no right of way: at first by the hops that a token is kept for in a row while
# somebody waits, then by all hops of the request. A guess.
MANY_HOPS = 32


class Lease:
    """One request's claim to a thread.

    :ivar hops: made so far, and so the depth of the next one: 0 is a first hop
    :ivar task: the task that made the last of them; before the first, the one that opened the
        lease. None once it is closed, as the task leads back to the lease
    :ivar token: what the own token does: NONE, BUSY or LINGERING
    :ivar streak: hops in a row that the own token has been kept for
    :ivar extra: whether the own token is one of the reserve or of the growth
    :ivar turn: of the lingering tokens' count, in which the own token began to linger
    :ivar waiting_first: first hops that wait, where a request begins several side by side
    :ivar answered: whether the response has been sent; kept by whoever has opened the lease
    """

    __slots__ = (
        "answered",
        "closed",
        "extra",
        "hops",
        "pool",
        "streak",
        "task",
        "token",
        "turn",
        "waiting_first",
    )

    def __init__(self, pool: TokenPool, hops: int, task: Any) -> None:
        self.pool = pool
        self.hops = hops
        self.task = task
        self.token = NONE
        self.streak = 0
        self.turn = 0
        self.waiting_first: list[Waiter] | None = None
        self.answered = False
        self.closed = False
        self.extra = False


# Stands for the lease of a hop that has a token of the reserve or of the growth and no lease to
# keep it.
EXTRA = Lease(cast("TokenPool", None), 0, None)
EXTRA.closed = EXTRA.extra = True
