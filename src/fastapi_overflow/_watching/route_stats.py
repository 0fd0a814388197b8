"""What the requests of each route are doing now, and what they have waited for.

Called by `stats()`, in any thread. It must wait for nothing that a request may hold.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .._requests import route_times
from .._requests.route_times import MOST_ROUTES, OTHERS
from .._threads.lease import BUSY, Lease
from .._threads.pool import TokenPool
from .connections_out import connections_of, pools


@dataclass(frozen=True)
class RouteStats:
    """What the requests of one route are doing now, and what they have waited for.

    :ivar running: requests that run in a thread
    :ivar waiting_for_thread: requests that wait for one
    :ivar waiting_for_connection: requests that wait for a connection of SQLAlchemy's, before they
        begin or at the checkout
    :ivar connections: that its requests have, be they ended
    :ivar connections_idle: of these, kept by requests that do nothing with them, or have ended
    :ivar requests: that have ended; of an app without SQLAlchemy, those that took a thread
    :ivar seconds_waited_for_thread: by requests that have ended, all their hops together
    :ivar seconds_waited_for_connection: by the same
    :ivar seconds_held: for which they had a connection; two at once count once
    :ivar seconds_idle: of these, those in which nothing of the request ran in a thread or waited
        for one, but for the turn of the event loop in which it was taken. Of sync engines, as is
        `seconds_held`
    """

    running: int = 0
    waiting_for_thread: int = 0
    waiting_for_connection: int = 0
    connections: int = 0
    connections_idle: int = 0
    requests: int = 0
    seconds_waited_for_thread: float = 0.0
    seconds_waited_for_connection: float = 0.0
    seconds_held: float = 0.0
    seconds_idle: float = 0.0


def route_stats(token_pools: Iterable[TokenPool]) -> dict[str, RouteStats]:
    """Return those of the routes that have used a thread or a connection, by method and path.

    At most 100 routes and "(others)". What has been is that of the whole process.
    """
    now: dict[str, Counter[str]] = {}
    held_back = {id(holder) for pool in pools() for holder in pool.held_back()}
    for token_pool in token_pools:
        for lease in list(token_pool.leases):
            doing = _doing(lease, held_back)
            name = route_times.name_of(lease.reached)
            if doing is not None and name is not None:
                now.setdefault(name, Counter())[doing] += 1
    for each in connections_of(pools()):
        if each.route is not None:
            counter = now.setdefault(f"{each.method} {each.route}", Counter())
            counter["connections"] += 1
            counter["connections_idle"] += each.doing in ("idle", "ended")
    found = {
        times.name: RouteStats(
            requests=times.requests,
            seconds_waited_for_thread=times.waited_for_thread,
            seconds_waited_for_connection=times.waited_for_connection,
            seconds_held=times.held,
            seconds_idle=times.idle,
        )
        for times in route_times.all_times()
    }
    for name, counter in now.items():
        known = name in found or len(found) < MOST_ROUTES
        key = name if known else OTHERS
        before = found.get(key, RouteStats())
        numbers: dict[str, Any] = {
            what: getattr(before, what) + number for what, number in counter.items()
        }
        found[key] = dataclasses.replace(before, **numbers)
    return found


def _doing(lease: Lease, held_back: set[int]) -> str | None:
    holder = lease.holder
    if holder is not None and (holder.waiting or id(holder) in held_back):
        return "waiting_for_connection"
    if lease.token == BUSY or lease.running > lease.waiting:
        return "running"
    return "waiting_for_thread" if lease.waiting else None
