"""`connections()`: who has the connections that are out, since when, and what for.

Called by apps, by the log and by the status page, in any thread. It must wait for nothing, and
never show more of a request than its route.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from .._connections.taken import Taken
from .._requests import lease_of_request
from .._requests.at_work import leases_in_executors
from .._requests.lease_of_request import current_lease
from .._requests.origin import line_of
from .._requests.place import place_of

Doing = Literal[
    "running in a thread",
    "on the event loop",
    "waiting for a thread",
    "waiting for a connection",
    "idle",
    "ended",
    "none",
]


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
    now = time.monotonic()
    in_executors = leases_in_executors()
    names = {id(pool): pool.pool.name() for pool in some_pools}
    out = [
        _described(taken, names[id(pool)], now, in_executors, pool.pool.is_async())
        for pool, taken in found
    ]
    return sorted(out, key=lambda each: -each.seconds)


def _described(
    taken: Taken, pool: str, now: float, in_executors: set[int], is_async: bool
) -> Connection:
    holder = taken.account.holder
    lease = holder.owner
    method, route = holder.place or place_of(None if lease is None else lease.reached)
    return Connection(
        pool,
        method,
        route,
        line_of(taken.code, taken.instruction),
        now - taken.since,
        _doing(taken, holder, lease, in_executors, is_async),
        is_async,
    )


def _doing(taken: Taken, holder: Any, lease: Any, in_executors: set[int], is_async: bool) -> Doing:  # noqa: PLR0911
    if lease is None:
        return "none"
    if lease.closed:
        return "ended"
    if list(holder.waiting):
        return "waiting for a connection"
    if holder.hops > lease.waiting or id(lease) in in_executors:
        return "running in a thread"
    if lease.waiting:
        return "waiting for a thread"
    if _is_on_loop(lease) or (is_async and _asks_database(taken)):
        return "on the event loop"
    return "idle"


def _is_on_loop(lease: Any) -> bool:
    """Tell whether the task that runs on the request's event loop right now is the request's."""
    loop = lease.pool.loop
    if loop is None:
        return False
    try:
        task = asyncio.current_task(loop)
    except Exception:
        return False  # another kind of loop
    if task is None:
        return False
    if task is lease.opener() or task is lease.task():
        return True
    find_context = getattr(task, "get_context", None)  # from Python 3.12 on
    return find_context is not None and find_context().get(current_lease) is lease


def _asks_database(taken: Taken) -> bool:
    """Tell whether the task that has taken it waits in SQLAlchemy, so for the database."""
    task = None if taken.task is None else taken.task()
    awaited = None if task is None else task.get_coro()
    while awaited is not None:
        code = getattr(awaited, "cr_code", None) or getattr(awaited, "gi_code", None)
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if code is not None and frame is not None:
            module = frame.f_globals.get("__name__", "")
            if type(module) is str and module.startswith("sqlalchemy."):
                return True
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return False
