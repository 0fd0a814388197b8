"""The metrics of connections: a table.

Read by the exporters when somebody collects. They are called as OpenTelemetry's semantic
conventions say, version 1.44: `db.client.connection.*`, which are still in development there. There
"used" means out of the pool; what is out and not in use is a metric of our own, "unused".

Some are left out. SQLAlchemy has no least number of idle connections (`idle.min`). `wait_time`,
`use_time` and `create_time` are histograms, which would have to be told of each checkout and each
return; and a connection may come back from the garbage collector in the middle of an exporter's own
lock, which would then wait for itself for ever. The sums are there under names of our own. They
include what has not ended yet, so that a freeze shows while it lasts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .metric import Metric, Reading, Value

_POOL = ("pool",), ("db.client.connection.pool.name",)
_POOL_STATE = (
    ("pool", "state"),
    ("db.client.connection.pool.name", "db.client.connection.state"),
)


def _of_pools(name: str) -> Callable[[Reading], list[Value]]:
    """Return what reads a field; what has no bound isn't there."""

    def read(reading: Reading) -> list[Value]:
        values = [((pool,), getattr(stats, name)) for pool, stats in reading.pools.items()]
        return [(labels, value) for labels, value in values if value != math.inf]

    return read


def _connections(reading: Reading) -> list[Value]:
    found: list[Value] = []
    for pool, stats in reading.pools.items():
        found += [((pool, "used"), stats.out), ((pool, "idle"), stats.ready)]
    return found


def _unused(reading: Reading) -> list[Value]:
    return [((pool,), reading.idle.get(pool, 0)) for pool in reading.pools]


def _unused_seconds(reading: Reading) -> list[Value]:
    return [
        ((pool,), stats.seconds_idle)
        for pool, stats in reading.pools.items()
        if not stats.is_async or stats.seconds_idle
    ]


CONNECTIONS = (
    Metric(
        "db.client.connection.count",
        "connections",
        "{connection}",
        False,
        "Connections that are out of their pool (used), and those that are ready in it (idle)",
        _connections,
        *_POOL_STATE,
    ),
    Metric(
        "db.client.connection.max",
        "connection_limit",
        "{connection}",
        False,
        "Connections that may be out of their pool at once",
        _of_pools("capacity"),
        *_POOL,
    ),
    Metric(
        "db.client.connection.idle.max",
        "connections_kept_open",
        "{connection}",
        False,
        "Connections that a pool keeps open while nobody needs them, at most",
        _of_pools("size"),
        *_POOL,
    ),
    Metric(
        "db.client.connection.pending_requests",
        "connection_pending_requests",
        "{request}",
        False,
        "Requests that wait for a connection, at the checkout or before they begin",
        _of_pools("waiting"),
        *_POOL,
    ),
    Metric(
        "db.client.connection.timeouts",
        "connection_timeouts",
        "{timeout}",
        True,
        "Checkouts that have failed for want of a connection",
        _of_pools("timeouts"),
        *_POOL,
    ),
    Metric(
        "fastapi_overflow.connection.unused",
        "connections_unused",
        "{connection}",
        False,
        "Connections that are out, kept by requests that do nothing with them or have ended",
        _unused,
        *_POOL,
    ),
    Metric(
        "fastapi_overflow.connection.checkouts",
        "connection_checkouts",
        "{checkout}",
        True,
        "Connections handed out",
        _of_pools("checkouts"),
        *_POOL,
    ),
    Metric(
        "fastapi_overflow.connection.time.waited",
        "connection_waited_seconds",
        "s",
        True,
        "Time for which requests have waited for a connection, those that still wait included",
        _of_pools("seconds_waited"),
        *_POOL,
    ),
    Metric(
        "fastapi_overflow.connection.time.held",
        "connection_held_seconds",
        "s",
        True,
        "Time for which connections were out, those that still are included",
        _of_pools("seconds_held"),
        *_POOL,
    ),
    Metric(
        "fastapi_overflow.connection.time.unused",
        "connection_unused_seconds",
        "s",
        True,
        "Of this, time in which the request did nothing with it; of sync engines",
        _unused_seconds,
        *_POOL,
    ),
)
