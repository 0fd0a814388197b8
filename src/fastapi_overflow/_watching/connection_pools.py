"""The connection pools of this process that threads take from.

Called by `advise()` and `doctor --app`, and once at the first stall. It must never import the
packages that it looks for: what isn't loaded can't be in use.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .._connections.pool_view import LEDGER
from .._requests import lease_of_request
from .live_objects import instances_of

POOL_SIZE = "pool_size and max_overflow"

UNKNOWN = object()


@dataclass(frozen=True)
class ConnectionPool:
    """A pool of connections in this process that threads take from.

    :ivar name: the engine's URL without passwords, or the pool's name
    :ivar kind: the class of the pool
    :ivar size: connections that it keeps
    :ivar overflow: connections that it adds under load; math.inf for no bound
    :ivar capacity: threads that can hold a connection at once; math.inf if no thread ever waits
    :ivar settings: names of the parameters that set its size
    :ivar is_governed: whether requests are held back before they begin while it is empty
    :ivar is_async: whether it is for async code, which takes no thread to wait for it
    :ivar key: of SQLAlchemy's, what tells it from others: the id of the pool
    """

    name: str
    kind: str
    size: float
    overflow: float
    capacity: float
    settings: str
    is_governed: bool = False
    is_async: bool = False
    key: int = 0

    @property
    def has_size(self) -> bool:
        """Whether it keeps connections for the next who asks, be their number bounded or not."""
        return self.size > 0 or self.overflow > 0

    @property
    def has_bound(self) -> bool:
        return self.capacity < math.inf

    def __str__(self) -> str:
        size = f"{self.size:g}+{self.overflow:g}" if self.overflow else f"{self.size:g}"
        return (
            f"{self.name}: {self.kind} {size}"
            if self.capacity < math.inf
            else (f"{self.name}: {self.kind}, no limit")
        )


def connection_pools(*, also_async: bool = False) -> list[ConnectionPool]:
    """Return the connection pools of this process that threads take from.

    :param also_async: those of async engines too
    """
    found = [*_sqlalchemy_pools(), *_psycopg_pools()]
    return [pool for pool in found if also_async or not pool.is_async]


def most_connections(pools: list[ConnectionPool]) -> list[str]:
    """Return how many connections each pool may open, in all worker processes together."""
    workers, told = _workers()
    return [
        f"{pool.name}: up to {pool.capacity * workers:g} connections, {told} x {_sizes(pool)}"
        if pool.has_bound
        else f"{pool.name}: no bound on connections"
        for pool in pools
        if pool.has_size
    ]


def _sizes(pool: ConnectionPool) -> str:
    if pool.settings == POOL_SIZE:
        return f"(pool_size {pool.size:g} + max_overflow {pool.overflow:g})"
    return f"{pool.settings} {pool.capacity:g}"


def _workers() -> tuple[int, str]:
    """Return how many processes serve the app, and how that is known."""
    value = os.environ.get("WEB_CONCURRENCY", "").strip()
    if value.isascii() and value.isdigit() and int(value):
        return int(value), f"{int(value)} workers (WEB_CONCURRENCY)"
    return 1, "1 worker (WEB_CONCURRENCY isn't set)"


def _sqlalchemy_pools() -> Iterator[ConnectionPool]:
    base = sys.modules.get("sqlalchemy.engine.base")
    module = sys.modules.get("sqlalchemy.pool")
    if base is None or module is None:
        return
    seen = set()
    for engine in instances_of(getattr(base, "Engine", None)):
        try:
            pool = engine.pool
            if id(pool) in seen:
                continue  # another engine shares it
            seen.add(id(pool))
            yield _of_engine(engine, pool, module)
        except Exception:  # noqa: S112 - not initialised yet, or of a class of the app's
            continue


def _of_engine(engine: Any, pool: Any, module: ModuleType) -> ConnectionPool:
    size = overflow = 0.0
    capacity = math.inf
    is_async = isinstance(pool, module.AsyncAdaptedQueuePool)
    if isinstance(pool, module.QueuePool):
        size, overflow = pool.size(), pool._max_overflow
        if not size:
            size = math.inf  # pool_size=0: no bound
        elif overflow < 0:
            overflow = math.inf
        capacity = size + overflow
    # Without the query: some drivers take a password there.
    url = engine.url.set(query={}).render_as_string(hide_password=True)
    kind = type(pool).__name__
    return ConnectionPool(
        f"SQLAlchemy engine {url}",
        kind,
        size,
        overflow,
        capacity,
        POOL_SIZE,
        is_governed=capacity < math.inf and not is_async and _is_governed(pool),
        is_async=is_async,
        key=id(pool),
    )


def _is_governed(pool: Any) -> bool:
    """Tell whether checkouts from a bounded pool ask its ledger."""
    if lease_of_request.connections is None:
        return False
    # One of a class of the app's gets its ledger with the first checkout.
    return pool.__dict__.get(LEDGER, UNKNOWN) is not None


def _psycopg_pools() -> Iterator[ConnectionPool]:
    module = sys.modules.get("psycopg_pool")
    classes = [getattr(module, name, None) for name in ("ConnectionPool", "NullConnectionPool")]
    for pool in instances_of(*classes) if module else ():
        try:
            most = pool.max_size or math.inf
            size = min(pool.min_size, most)
            name, kind = f"psycopg pool {pool.name}", type(pool).__name__
            yield ConnectionPool(name, kind, size, most - size, most, "max_size")
        except Exception:  # noqa: S112 - as above
            continue
