"""`connections()`: who has the connections that are out, since when, and what for.

Called by apps, by the log and by the status page, in any thread. It must wait for nothing, and
never show more of a request than its route.
"""

from __future__ import annotations

import time
from asyncio import _get_running_loop as get_running_loop
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from .._connections.taken import Taken
from .._requests import lease_of_request
from .._requests.at_work import leases_in_executors
from .._requests.lease_of_request import current_lease
from .._requests.origin import line_of
from .._requests.place import place_of
from .._threads.lease import BUSY
from .tasks import Tasks

Doing = Literal[
    "running in a thread",
    "on the event loop",
    "waiting for a thread",
    "waiting for a connection",
    "idle",
    "ended",
    "none",
]


# Seconds after a hop in which a request isn't idle yet: its loop may be busy. A guess.
GRACE = 0.05


@dataclass(frozen=True)
class Connection:
    """A connection that is out of its pool.

    :ivar pool: the engine's URL, without password and query
    :ivar method: of the request that has it, "WEBSOCKET" for one of these; None outside of any
    :ivar route: the path of the route that the request has reached, as the app has declared it
    :ivar line: file and line of the app's code that took it; None if unknown
    :ivar seconds: for which it has been out
    :ivar doing: what its request is doing: "running in a thread"; "on the event loop"; "waiting for
        a thread"; "waiting for a connection", another one; "idle", none of these, so that it is
        kept for nothing (what the app runs in threads of its own isn't known); "ended", the request
        is over; "none", it belongs to no request. Of an async engine "on the event loop" includes
        waiting for the database's answer
    :ivar is_async: whether it is of an async engine
    """

    pool: str
    method: str | None
    route: str | None
    line: str | None
    seconds: float
    doing: Doing
    is_async: bool


def connections() -> list[Connection]:
    """Return the connections of SQLAlchemy's pools that are out, those held longest first.

    Of each QueuePool of this process, with and without a bound, of sync and async engines. Waits
    for nothing, in any thread. Empty with FASTAPI_OVERFLOW_DISABLE or
    FASTAPI_OVERFLOW_CONNECTIONS=0, and where SQLAlchemy isn't loaded.
    """
    return connections_of(pools())


def pools() -> list[Any]:
    """Return the ledger, or what stands for one, of each pool of this process that is known."""
    requests = lease_of_request.connections
    return [] if requests is None else requests.governor.pools()


def connections_of(some_pools: Collection[Any]) -> list[Connection]:
    """Return the connections of these pools that are out, those held longest first."""
    found = [
        (pool, Taken(*taken))
        for pool in some_pools
        # A copy made in one step: other threads take and return connections.
        for taken in list(pool.out.values())
    ]
    if not found:
        return []
    look = _Look()
    names = {id(pool): (pool.pool.name(), pool.pool.is_async()) for pool in some_pools}
    out = [_described(taken, *names[id(pool)], look) for pool, taken in found]
    return sorted(out, key=lambda each: -each.seconds)


def _described(taken: Taken, pool: str, is_async: bool, look: _Look) -> Connection:
    holder = taken.account.holder
    lease = holder.owner
    method, route = holder.place or place_of(None if lease is None else lease.reached)
    return Connection(
        pool,
        method,
        route,
        line_of(taken.code, taken.instruction),
        max(look.now - taken.since, 0.0),
        look.doing(holder, is_async),
        is_async,
    )


class _Look:
    """What all requests are doing at one moment."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._in_executors = leases_in_executors()
        self._tasks = Tasks()
        self._waiting = {id(holder) for pool in pools() for holder in pool.waiting_holders()}

    def doing(self, holder: Any, is_async: bool) -> Doing:  # noqa: PLR0911
        lease = holder.owner
        if lease is None:
            return "none"
        if lease.closed:
            return "ended"
        if id(holder) in self._waiting:
            return "waiting for a connection"
        # On trio hops aren't counted, but their token is.
        runs = holder.hops > lease.waiting or lease.token == BUSY
        if runs or id(lease) in self._in_executors:
            return "running in a thread"
        if current_lease.get() is lease:  # it asks itself
            return "running in a thread" if _is_thread() else "on the event loop"
        if lease.waiting:
            return "waiting for a thread"
        if self._tasks.run_on_loop(lease):
            return "on the event loop"
        if is_async and self._tasks.wait_in(lease, "sqlalchemy"):
            return "on the event loop"
        if self._tasks.wait_in(lease, "asyncio.threads"):
            return "waiting for a thread"  # of asyncio's executor
        return "on the event loop" if self.now - holder.idle_since < GRACE else "idle"


def _is_thread() -> bool:
    """Tell whether no event loop runs in this thread."""
    from .._requests.holder_here import trio_runs_here  # late: it is loaded with SQLAlchemy

    return get_running_loop() is None and not trio_runs_here()
