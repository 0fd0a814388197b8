"""Which connection pools of the process are found, and with what size."""

from __future__ import annotations

import gc
import math

import pytest
import sqlalchemy
from psycopg_pool import ConnectionPool as PsycopgPool
from sqlalchemy import pool as pools

from fastapi_overflow._watching.connection_pools import (
    ConnectionPool,
    connection_pools,
    most_connections,
)
from support import run_python

URL = "postgresql+psycopg://somewhere/x"


def engine(name: str, **options):
    return sqlalchemy.create_engine(f"postgresql+psycopg://user:secret@{name}/x", **options)


def pool_of(name: str) -> ConnectionPool:
    gc.collect()  # the engines of other tests
    (found,) = [pool for pool in connection_pools() if name in pool.name]
    return found


class TestPoolsFound:
    @pytest.mark.parametrize(
        ("options", "kind", "capacity"),
        [
            ({}, "QueuePool", 15),
            ({"pool_size": 3, "max_overflow": 0}, "QueuePool", 3),
            ({"max_overflow": -1}, "QueuePool", math.inf),
            ({"pool_size": 0}, "QueuePool", math.inf),
            ({"poolclass": pools.NullPool}, "NullPool", math.inf),
            ({"poolclass": pools.StaticPool}, "StaticPool", math.inf),
        ],
    )
    def test_sqlalchemy(self, options, kind, capacity):
        """Engines are found wherever they are, each with what its pool can lend at once."""
        kept = [engine("somewhere", **options)]
        found = pool_of("somewhere")
        assert (found.kind, found.capacity) == (kind, capacity)
        kept[0].dispose()

    def test_no_password(self):
        """A password is never told."""
        kept = engine("somewhere")
        assert "secret" not in str(pool_of("somewhere"))
        kept.dispose()

    def test_no_password_in_the_query(self):
        """A password may be among the URL's options, so none of them is told."""
        url = "postgresql+psycopg://somewhere/x?password=secret"
        kept = sqlalchemy.create_engine(url)
        assert "secret" not in str(pool_of("somewhere"))
        kept.dispose()

    def test_engine_half_made(self):
        """An engine that isn't made yet (or has failed to be) is left out, others are told."""
        half = sqlalchemy.Engine.__new__(sqlalchemy.Engine)
        kept = engine("somewhere")
        assert pool_of("somewhere")
        del half
        kept.dispose()

    def test_psycopg_pool_half_made(self):
        """So is a pool of psycopg."""
        half = PsycopgPool.__new__(PsycopgPool)
        kept = engine("somewhere")
        assert pool_of("somewhere")
        del half
        kept.dispose()

    def test_shared_pool(self):
        """An engine with other options shares the pool and is told once."""
        kept = engine("somewhere")
        other = kept.execution_options(isolation_level="AUTOCOMMIT")
        assert other is not kept
        assert pool_of("somewhere")

    def test_async_engine(self):
        """An engine of async code takes no thread, so its size is no matter."""
        pytest.importorskip("greenlet")
        from sqlalchemy.ext.asyncio import create_async_engine

        kept = create_async_engine("postgresql+psycopg://user@elsewhere/x")
        assert not [pool for pool in connection_pools() if "elsewhere" in pool.name]
        del kept

    def test_psycopg_pool(self):
        """Psycopg's own pool is found too."""
        kept = PsycopgPool("", min_size=2, max_size=7, open=False, name="mine")
        found = pool_of("psycopg pool mine")
        assert (found.size, found.overflow, found.capacity) == (2, 5, 7)
        kept.close()

    def test_nothing_is_imported(self, wheel_python):
        """What the app hasn't imported isn't imported to look at it."""
        code = (
            "import sys, fastapi_overflow as f; assert f.advise() == [], f.advise();"
            "print([m for m in ('sqlalchemy', 'psycopg_pool', 'fastapi') if m in sys.modules])"
        )
        assert run_python(wheel_python, code, timeout=60, check=True).stdout.strip() == "[]"


class TestGoverned:
    """Whether requests are held back before they begin while a pool is empty."""

    def told(self, python, made: str, **environ: str) -> str:
        """Return whether a process has its pool governed, and how much advice there is."""
        code = (
            "import starlette.applications, sqlalchemy as a, fastapi_overflow as f\n"
            "from fastapi_overflow._watching.connection_pools import connection_pools\n"
            f"class Mine(a.QueuePool): ...\nkept = {made}\n"
            "(pool,) = connection_pools(); print(pool.is_governed, len(f.advise()))"
        )
        done = run_python(python, code, timeout=60, check=True, env=environ)
        return done.stdout.strip()

    def test_queue_pool(self, wheel_python):
        """They are for SQLAlchemy's usual pool, and the limit is no matter."""
        assert self.told(wheel_python, f"a.create_engine({URL!r})") == "True 0"

    def test_class_of_the_app(self, wheel_python):
        """They are for one of the app's own, which is first looked at when it is used."""
        made = f"a.create_engine({URL!r}, poolclass=Mine)"
        assert self.told(wheel_python, made) == "True 0"

    def test_psycopg_pool(self):
        """They aren't for psycopg's own."""
        kept = PsycopgPool("", min_size=2, max_size=7, open=False, name="mine")
        assert not pool_of("psycopg pool mine").is_governed
        kept.close()

    def test_switched_off(self, wheel_python):
        """Nor with FASTAPI_OVERFLOW_CONNECTIONS=0."""
        made = f"a.create_engine({URL!r})"
        assert self.told(wheel_python, made, FASTAPI_OVERFLOW_CONNECTIONS="0") == "False 1"


class TestMostConnections:
    """How many connections all workers of an app may open."""

    POOL = ConnectionPool("pool", "QueuePool", 5, 10, 15, "pool_size and max_overflow")

    def test_workers(self, monkeypatch):
        """Each worker process has a pool of its own."""
        monkeypatch.setenv("WEB_CONCURRENCY", "4")
        assert most_connections([self.POOL]) == [
            "pool: up to 60 connections, 4 workers (WEB_CONCURRENCY)"
            " x (pool_size 5 + max_overflow 10)"
        ]

    @pytest.mark.parametrize("value", ["", "many", "0", "-1"])
    def test_no_number(self, monkeypatch, value):
        """Where no number of workers is set, it is one's own that is told."""
        monkeypatch.setenv("WEB_CONCURRENCY", value)
        (text,) = most_connections([self.POOL])
        assert text.startswith("pool: up to 15 connections, 1 worker")

    def test_psycopg(self, monkeypatch):
        """It is told by the names of psycopg's own settings."""
        monkeypatch.setenv("WEB_CONCURRENCY", "2")
        pool = ConnectionPool("pool", "ConnectionPool", 2, 5, 7, "max_size")
        assert most_connections([pool])[0].endswith("2 workers (WEB_CONCURRENCY) x max_size 7")

    def test_no_bound(self):
        """A pool without a bound has none, however many workers there are."""
        pool = ConnectionPool("pool", "QueuePool", 5, math.inf, math.inf, "")
        assert most_connections([pool]) == ["pool: no bound on connections"]

    def test_async_engine(self):
        """Async engines open connections too."""
        pytest.importorskip("greenlet")
        from sqlalchemy.ext.asyncio import create_async_engine

        kept = create_async_engine("postgresql+psycopg://user@elsewhere/x")
        found = most_connections(connection_pools(also_async=True))
        assert [text for text in found if "elsewhere" in text]
        del kept
