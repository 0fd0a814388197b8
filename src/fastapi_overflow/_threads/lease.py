"""A request's claim to a thread, and a hop that waits for one.

A lease is opened and closed where the app is entered. Both are moved between their states by the
pool.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # as in `clock`
    from .clock import WakeUp

    class Refusal(Protocol):
        """What a request gets that has waited for its first thread for too long."""

        def holds_nothing(self) -> bool:
            """Tell whether the request has nothing that others may wait for."""

        def error(self) -> Exception:
            """Return what its hop raises."""


# What the own token of a lease does: there is none; a hop runs with it; it lingers.
NONE, BUSY, LINGERING = range(3)

# More hops than any request makes but a stream or a WebSocket. Those may go on for ever, so from
# here on they have no right of way: at first by the hops that a token is kept for in a row while
# somebody waits, then by all hops of the request. A guess.
MANY_HOPS = 32


class Lease:
    """One request's claim to a thread.

    :ivar pool: the `TokenPool` that it belongs to
    :ivar hops: made so far, and so the depth of the next one: 0 is a first hop
    :ivar opener: a weak reference to the task that has opened the lease
    :ivar task: the same to the one that has made the last hop; before the first one, the opener.
        Weak, as a task leads to its event loop, and a lease may outlive that
    :ivar token: what the own token does: NONE, BUSY or LINGERING
    :ivar streak: hops in a row that the own token has been kept for
    :ivar extra: whether the own token is one of the reserve or of the growth
    :ivar turn: of the lingering tokens' count, in which the own token began to linger
    :ivar waiting_first: first hops that wait, where a request begins several side by side
    :ivar waiting: hops that wait
    :ivar waited: seconds for which its hops have waited, where they wait no longer
    :ivar route: the endpoint that it has reached, None before; kept by whoever has opened the lease
    :ivar reached: the same, and as what: the route and the scope in which it was reached
    :ivar lent: threads that stalls have added for it
    :ivar share: of its route, in which the own token counts while somebody waits
    :ivar refusal: what its first hop raises in an overload; None where it may wait for ever
    :ivar holder: its accounts of connections, kept by whoever has opened the lease; None for none,
        and until it may need one
    :ivar habits: of its route, or of the app before; None where it has had a holder from the start
    :ivar app_habits: of the app, once it has reached its route without a holder
    :ivar endpoint: of the route that it has reached without a holder; None before
    :ivar began: time.monotonic() at which it did
    :ivar running: hops that run, or wait for a thread
    :ivar answered: whether the response has been sent; kept by whoever has opened the lease
    :ivar in_background: how many of its background tasks run. Not all that comes after the response
        is such work: FastAPI leaves dependencies then, which may give back what others wait for
    """

    __slots__ = (
        "answered",
        "app_habits",
        "began",
        "closed",
        "endpoint",
        "extra",
        "habits",
        "holder",
        "hops",
        "in_background",
        "lent",
        "opener",
        "pool",
        "reached",
        "refusal",
        "route",
        "running",
        "share",
        "streak",
        "task",
        "token",
        "turn",
        "waited",
        "waiting",
        "waiting_first",
    )

    def __init__(self, pool: Any, hops: int, opener: Callable[[], Any]) -> None:
        self.pool: Any = pool
        self.hops = hops
        self.opener = self.task = opener
        self.token = NONE
        self.streak = 0
        self.turn = 0
        self.waiting_first: list[Waiter] | None = None
        self.waiting = 0
        self.waited = 0.0
        self.route: object = None
        self.reached: Any = None
        self.lent = 0
        self.share: Any = None
        self.refusal: Refusal | None = None
        self.holder: Any = None
        self.habits: Any = None
        self.app_habits: Any = None
        self.endpoint: object = None
        self.began = 0.0
        self.running = 0
        self.answered = False
        self.in_background = 0
        self.closed = False
        self.extra = False

    def __deepcopy__(self, memo: object) -> Lease:
        return self  # an app may copy what it finds in its scope

    def __reduce__(self) -> Any:
        return type(None), ()  # or send it elsewhere, where it means nothing


# Stands for the lease of a hop that has a token of the reserve or of the growth and no lease to
# keep it, of nobody's share.
EXTRA = Lease(None, 0, lambda: None)
EXTRA.closed = EXTRA.extra = True


class Waiter:
    """One hop that waits for a token.

    :ivar depth: 0 for a first hop, anything above for a later one
    :ivar func: what it will call, as far as is known
    :ivar waiting: whether it is in the queue
    :ivar granted: whether it has left the queue with a token
    :ivar refusal: what it raises, since it has left the queue after waiting for too long
    :ivar in_background: whether it waits for a background task
    :ivar share: in which it waits, and the queue of it; None for what has right of way
    :ivar arrival: its number in the order of age
    :ivar since: time.monotonic() when it began to wait
    """

    __slots__ = (
        "__weakref__",
        "arrival",
        "borrower",
        "depth",
        "func",
        "granted",
        "in_background",
        "lease",
        "queue",
        "refusal",
        "share",
        "since",
        "waiting",
        "wake_up",
    )

    def __init__(
        self, borrower: object, lease: Lease | None, depth: int, wake_up: WakeUp, func: object
    ) -> None:
        self.borrower = borrower
        self.lease = lease
        self.depth = depth
        self.func = func
        self.waiting = True
        self.granted = False
        self.refusal: Refusal | None = None
        self.in_background = lease is not None and lease.in_background > 0
        self.share: Any = None
        self.queue: Any = None
        self.wake_up = wake_up
        self.arrival = 0
        self.since = time.monotonic()

    def wake(self) -> None:
        if not self.wake_up.done():  # else cancelled in this turn
            self.wake_up.set_result(None)
