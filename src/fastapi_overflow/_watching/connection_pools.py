"""The connection pools of this process that threads take from.

Called by `advise()` and `doctor --app`, and once at the first stall. It must never import the
packages that it looks for: what isn't loaded can't be in use.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .live_objects import instances_of


@dataclass(frozen=True)
class ConnectionPool:
    """A pool of connections in this process that threads take from.

    :ivar name: the engine's URL without passwords, or the pool's name
    :ivar kind: the class of the pool
    :ivar size: connections that it keeps
    :ivar overflow: connections that it adds under load; math.inf for no bound
    :ivar capacity: threads that can hold a connection at once; math.inf if no thread ever waits
    :ivar settings: names of the parameters that set its size
    """

    name: str
    kind: str
    size: float
    overflow: float
    capacity: float
    settings: str

    def __str__(self) -> str:
        size = f"{self.size:g}+{self.overflow:g}" if self.overflow else f"{self.size:g}"
        return (
            f"{self.name}: {self.kind} {size}"
            if self.capacity < math.inf
            else (f"{self.name}: {self.kind}, no limit")
        )


def connection_pools() -> list[ConnectionPool]:
    """Return the connection pools of this process that threads take from."""
    return [*_sqlalchemy_pools(), *_psycopg_pools()]


def _sqlalchemy_pools() -> Iterator[ConnectionPool]:
    base = sys.modules.get("sqlalchemy.engine.base")
    module = sys.modules.get("sqlalchemy.pool")
    if base is None or module is None:
        return
    seen = set()
    for engine in instances_of(getattr(base, "Engine", None)):
        try:
            pool = engine.pool
            if id(pool) in seen or isinstance(pool, module.AsyncAdaptedQueuePool):
                continue  # another engine shares it, or it is for async code, where no thread waits
            seen.add(id(pool))
            yield _of_engine(engine, pool, module)
        except Exception:  # noqa: S112 - not initialised yet, or of a class of the app's
            continue


def _of_engine(engine: Any, pool: Any, module: ModuleType) -> ConnectionPool:
    size = overflow = 0.0
    capacity = math.inf
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
    settings = "pool_size and max_overflow"
    return ConnectionPool(f"SQLAlchemy engine {url}", kind, size, overflow, capacity, settings)


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
