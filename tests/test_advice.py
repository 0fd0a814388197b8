# ruff: noqa: B008 - Depends is how FastAPI is told
"""advise(): what does not fit, and what to do about it."""

from __future__ import annotations

import gc
import logging
import math
import threading

import anyio
import pytest
import sqlalchemy
from fastapi import APIRouter, Depends, FastAPI
from psycopg_pool import ConnectionPool as PsycopgPool
from sqlalchemy import pool as pools
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from fastapi_overflow import run_in_threadpool, set_thread_limit, stats
from fastapi_overflow._cli import app_report as _app_report
from fastapi_overflow._watching import advice as _advice
from fastapi_overflow._watching.advice import ConnectionPool, advise, compare, connection_pools
from observed import busy, calm, request, until
from support import PATIENCE, run_python


def engine(name: str, **options):
    return sqlalchemy.create_engine(f"postgresql+psycopg://user:secret@{name}/x", **options)


def pool_of(name: str) -> ConnectionPool:
    gc.collect()  # the engines of other tests
    (found,) = [pool for pool in connection_pools() if name in pool.name]
    return found


class TestCompare:
    def test_too_many_threads(self):
        """More threads than connections: how many can only wait, and which limit would do."""
        pool = ConnectionPool("pool", "QueuePool", 5, 10, 15, "pool_size and max_overflow")
        text = compare(pool, 40, 1)
        assert text is not None
        assert text.startswith(
            "limit 40, pool 5+10: where all requests use it, 25 threads can only ever wait."
            " FASTAPI_OVERFLOW_LIMIT=17 would serve the same load"
        )

    @pytest.mark.parametrize("limit", [10, 17])
    def test_fitting(self, limit):
        """No advice where the connections are enough."""
        assert compare(ConnectionPool("pool", "QueuePool", 5, 10, 15, ""), limit, 1) is None

    def test_limit_is_one_that_is_allowed(self):
        """The limit it names is one that the setting takes."""
        text = compare(ConnectionPool("pool", "QueuePool", 1, 0, 1, ""), 40, 1)
        assert "FASTAPI_OVERFLOW_LIMIT=3 " in (text or "")

    def test_no_bound(self):
        """A pool that makes as many connections as are asked for keeps no thread waiting."""
        assert compare(ConnectionPool("pool", "NullPool", 0, 0, math.inf, ""), 40, 1) is None


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


class TestHealthRoutes:
    def test_sync_endpoint(self):
        """A sync health route is named, and what to do instead."""
        app = FastAPI()

        @app.get("/healthz")
        def alive(): ...

        (text,) = _app_report.health_routes(app)
        assert text.startswith("/healthz looks like a health check and needs a thread")
        assert "alive is sync" in text

    def test_sync_dependency(self):
        """An async one with a sync dependency needs a thread too."""
        app = FastAPI()

        def get_db(): ...

        @app.get("/api/ready")
        async def ready(db=Depends(get_db)): ...

        (text,) = _app_report.health_routes(app)
        assert "it has sync dependencies" in text

    @pytest.mark.parametrize("path", ["/health", "/users/status-report", "/readings"])
    def test_none(self, path):
        """An async health route is fine, and so is any other that is sync."""
        app = FastAPI()
        if path == "/health":

            @app.get(path)
            async def fine(): ...

        else:

            @app.get(path)
            def no_probe(): ...

        assert _app_report.health_routes(app) == []

    def test_in_advice(self):
        """advise() looks at the apps of this process."""
        app = FastAPI()

        @app.get("/livez")
        def here(): ...

        assert any("here is sync" in text for text in advise())
        assert any("here is sync" in text for text in advise(app))


class TestPinningRoutes:
    def test_websocket(self):
        """A WebSocket that keeps a dependency's connection while it is open is named."""
        app = FastAPI()

        def get_db():
            yield

        @app.websocket("/feed")
        async def feed(db=Depends(get_db)): ...

        @app.get("/feed")
        async def once(db=Depends(get_db)): ...

        (text,) = _app_report.pinning_routes(app)
        assert text.startswith("/feed keeps what ")
        assert "get_db yields for as long as the WebSocket is open" in text


class TestRoutes:
    def app(self):
        def get_db():
            yield

        async def user(db=Depends(get_db)): ...

        router = APIRouter(prefix="/in")

        @router.get("/a")
        def sync_endpoint(u=Depends(user)): ...

        @router.get("/b")
        async def async_endpoint(): ...

        @router.websocket("/ws")
        async def socket(db=Depends(get_db)): ...

        app = FastAPI(openapi_url=None)
        app.include_router(router, prefix="/api")

        def plain(request): ...

        app.mount("/old", Starlette(routes=[Mount("/sub", routes=[Route("/x", plain)])]))
        return app

    def test_all(self):
        """Routes of included routers and mounted apps, each with what of it runs in threads."""
        found = {route.path: route for route in _app_report.routes(self.app())}
        assert list(found) == ["/api/in/a", "/api/in/b", "/api/in/ws", "/old/sub/x"]
        assert found["/api/in/a"].endpoint.endswith("sync_endpoint")
        assert [name.rpartition(".")[2] for name in found["/api/in/a"].dependencies] == [
            "get_db (yield)"
        ]
        assert found["/api/in/b"].endpoint is None
        assert found["/api/in/ws"].endpoint is None
        assert found["/api/in/ws"].dependencies
        assert found["/old/sub/x"].endpoint.endswith("plain")


@pytest.mark.anyio
class TestPinned:
    async def stalled_checkout(self, under_way: bool) -> bool:
        """Stall a pool whose threads all wait for a connection; tell what is_pinned_now says."""
        calm(3)
        kept = sqlalchemy.create_engine(
            "sqlite://",
            poolclass=pools.QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_timeout=4 * PATIENCE,
            connect_args={"check_same_thread": False},
        )
        held = kept.connect()
        said = []
        back = anyio.Event()

        def use():
            kept.connect().close()

        async def waits_first():
            await run_in_threadpool(use)

        async def waits_later():
            await run_in_threadpool(int)
            await back.wait()
            await run_in_threadpool(use)

        try:
            async with anyio.create_task_group() as group:
                if under_way:
                    for _ in range(2):
                        group.start_soon(request, waits_later)
                    await until(lambda: stats().hops == 2, "requests under way")
                for _ in range(4):
                    group.start_soon(request, waits_first)
                await until(lambda: stats().waiting_first == 2, "first hops that wait")
                back.set()
                if under_way:
                    await until(lambda: stats().waiting_later == 1, "a later hop that waits")
                groups = []

                def all_wait():
                    groups[:] = _advice._stacks.grouped(_advice._stacks.hop_frames())
                    busy_with = sum(group.threads for group in groups)
                    return busy_with == stats().threads_in_use and all(
                        g.where.startswith(_advice._stacks.CHECKOUT) for g in groups
                    )

                await until(all_wait, "all threads waiting for a connection")
                said.append(_advice.is_pinned(groups, stats().waiting_later))
                held.close()
        finally:
            held.close()
            kept.dispose()
        return said[0]

    async def test_pinned(self):
        """All threads wait for connections and nobody under way for a thread: no deadlock."""
        assert await self.stalled_checkout(under_way=False)

    async def test_deadlock(self):
        """A request under way that waits for a thread may be who has the connection."""
        assert not await self.stalled_checkout(under_way=True)

    async def test_other_waits(self):
        """Threads that wait for anything else say nothing of connections."""
        set_thread_limit(3)
        async with busy(4):
            await until(lambda: stats().stalled, "a stall")
            assert not _advice.is_pinned_now()


@pytest.mark.anyio
class TestLogged:
    async def test_once_at_the_first_stall(self, caplog, monkeypatch):
        """The first stall compares limit and pools, in a thread; later ones don't."""
        caplog.set_level(logging.WARNING, logger="fastapi_overflow")
        monkeypatch.setattr(_advice, "_advised", threading.Lock())
        kept = engine("somewhere")
        set_thread_limit(30)

        def advised():
            return [r for r in caplog.records if getattr(r, "event", None) == "advice"]

        async with busy(31):
            await until(lambda: any("somewhere" in r.getMessage() for r in advised()), "advice")
        told = len(advised())
        _advice.log_advice_once(30, 1)
        await until(
            lambda: not any(t.name == "fastapi-overflow advice" for t in threading.enumerate()),
            "the end of the search",
        )
        assert len(advised()) == told
        kept.dispose()
