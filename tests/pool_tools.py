"""What the tests of connection pools share: engines, and whether their ledger is right.

Imported by tests and by the programs that they run in a process of their own. Only
`is_governed`, `held` and `other_lock` know how the package keeps its books.
"""

from __future__ import annotations

import asyncio
import inspect
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import sqlalchemy
from sqlalchemy.pool import QueuePool

PATIENCE = 30  # seconds after which something that must end counts as hung
LONG = 600  # a pool's timeout that no test outlives


def engine(pool_size: int = 2, max_overflow: int = 1, **options: Any) -> Any:
    """Return an engine of a database of its own, with three connections unless told otherwise."""
    url = f"sqlite:///{tempfile.mkdtemp(prefix='overflow-pool-')}/db"
    options = {
        "poolclass": QueuePool,
        "pool_timeout": LONG,
        "connect_args": {"check_same_thread": False},
        **options,
    }
    return sqlalchemy.create_engine(url, pool_size=pool_size, max_overflow=max_overflow, **options)


def capacity(engine: Any) -> int:
    return engine.pool.size() + engine.pool._max_overflow


def raw(connection: Any) -> Any:
    """Return the database's own connection."""
    if hasattr(connection, "dbapi_connection"):
        return connection.dbapi_connection
    return connection.connection  # before SQLAlchemy 1.4.24


def in_thread(function: Callable[[], Any]) -> Any:
    """Return what a function returns or raise what it raises, in a thread that must end."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), f"{function} hangs"
    if errors:
        raise errors[0]
    return results[0]


def on_loop(function: Callable[[], Any]) -> Any:
    """Return what a function returns on an event loop, in a thread that must end."""

    async def call() -> Any:
        return function()

    return in_thread(lambda: asyncio.run(call()))


def is_stock() -> bool:
    """Tell whether nobody has put anything in the place of `Pool.connect`."""
    connect = inspect.getattr_static(sqlalchemy.pool.Pool, "connect")
    return (
        type(connect) is FunctionType and connect.__globals__["__name__"] == "sqlalchemy.pool.base"
    )


def is_governed(pool: Any) -> bool:
    """Tell whether the checkouts of a pool ask a ledger."""
    return pool.__dict__.get("_fastapi_overflow_ledger") is not None


def fails_at_once(engine: Any) -> Exception:
    """Return the error of a checkout on the loop that stock would wait for until the timeout."""

    def take_all_and_one() -> Exception:
        taken = []
        try:
            for _ in range(capacity(engine) + 1):
                taken.append(engine.connect())
        except sqlalchemy.exc.TimeoutError as exc:
            assert len(taken) == capacity(engine)
            return exc
        finally:
            for connection in taken:
                connection.close()
        raise AssertionError("one more than there are")

    return on_loop(take_all_and_one)


def held(engine: Any) -> tuple[int, int]:
    """Return how many connections are out by the ledger, and how many hold one."""
    ledger = engine.pool.__dict__.get("_fastapi_overflow_ledger")
    if ledger is None:  # not made before the first checkout of this process
        return 0, 0
    return ledger.stock.held, sum(account.held > 0 for account in ledger.stock.stakes)


@contextmanager
def other_lock(engine: Any, make: Callable[[Any], Any]) -> Iterator[None]:
    """Have what `make` returns stand in the place of the lock that it is given."""
    ledger = engine.pool.__dict__["_fastapi_overflow_ledger"]
    lock = ledger.book.lock

    def use(lock: Any) -> None:
        ledger.book.lock = lock
        ledger._acquire, ledger._release = lock.acquire, lock.release

    use(make(lock))
    try:
        yield
    finally:
        use(lock)


def check(engine: Any) -> None:
    """Fail unless all is back: by the ledger, and by taking all there are, and no more."""
    assert held(engine) == (0, 0)
    assert fails_at_once(engine)
    assert held(engine) == (0, 0)
