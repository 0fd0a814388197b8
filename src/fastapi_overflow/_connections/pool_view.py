"""What a ledger asks a pool of SQLAlchemy's, and what is noted in the pool itself.

Asked when somebody has to wait, and by those who look. It must never keep a pool alive, and never
say more of its engine than the URL without what may be secret.
"""

from __future__ import annotations

import math
import sys
import weakref
from typing import Any

LEDGER = "_fastapi_overflow_ledger"  # in a pool; None in one that is left alone or only watched
WATCHED = "_fastapi_overflow_watched"  # in a pool that is only watched
OUT = "_fastapi_overflow_out"  # in both: what is out
KIND = "_fastapi_overflow_kind"  # in a pool and in those that take its place
URL = "_fastapi_overflow_url"  # the same: of the engine

FOR_EVER = 10.0**9  # seconds


class PoolView:
    """What a ledger asks a QueuePool, which it must not keep alive."""

    __slots__ = ("_name", "_pool")

    def __init__(self, pool: Any) -> None:
        self._pool = weakref.ref(pool)
        self._name: str | None = None

    def capacity(self) -> int:
        pool = self._pool()
        return 1 if pool is None else pool.size() + pool._max_overflow

    def bound(self) -> float:
        """Return how many connections may be out; math.inf for no bound."""
        pool = self._pool()
        if pool is None:
            return 0
        size, overflow = pool.size(), pool._max_overflow
        bounded: float = size + overflow if size > 0 and overflow >= 0 else math.inf
        return bounded

    def size(self) -> float:
        """Return how many it keeps open while nobody needs them, at most; math.inf for no bound."""
        pool = self._pool()
        size: float = 0 if pool is None else pool.size() or math.inf
        return size

    def is_gone(self) -> bool:
        return self._pool() is None

    def ready(self) -> int:
        """Return how many are open and not out."""
        pool = self._pool()
        return 0 if pool is None else pool.checkedin()

    def is_async(self) -> bool:
        pool = self._pool()
        module = sys.modules["sqlalchemy.pool"]
        return isinstance(pool, module.AsyncAdaptedQueuePool)

    def name(self) -> str:
        """Return the engine's URL without what may be secret in it, or else the pool's class."""
        pool = self._pool()
        if self._name is None and pool is not None and URL in pool.__dict__:
            try:
                # Without the query: some drivers take a password there.
                bare = pool.__dict__[URL].set(query={})
                self._name = str(bare.render_as_string(hide_password=True))
            except Exception:
                self._name = type(pool).__name__  # a URL of the app's own making
        if self._name is not None:
            return self._name
        return "a pool that is gone" if pool is None else type(pool).__name__

    def out(self) -> int:
        pool = self._pool()
        return 0 if pool is None else pool.checkedout()

    def timeout(self) -> float:
        pool = self._pool()
        seconds = None if pool is None else pool.timeout()
        return FOR_EVER if seconds is None else seconds

    def forget_ledger(self) -> None:
        pool = self._pool()
        if pool is not None:
            for name in (LEDGER, WATCHED, OUT):
                pool.__dict__.pop(name, None)
