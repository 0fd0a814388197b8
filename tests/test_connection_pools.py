"""Which connection pools of the process are found, and with what size."""

from __future__ import annotations

import gc
import math

import pytest
import sqlalchemy
from psycopg_pool import ConnectionPool as PsycopgPool
from sqlalchemy import pool as pools

from fastapi_overflow._watching.connection_pools import ConnectionPool, connection_pools
from support import run_python


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
