"""advise(): what does not fit, and what to do about it."""

from __future__ import annotations

import logging
import math
import threading

import anyio
import pytest
import sqlalchemy
from fastapi import FastAPI
from psycopg_pool import ConnectionPool as PsycopgPool
from sqlalchemy import pool as pools

from fastapi_overflow import run_in_threadpool, set_thread_limit, stats
from fastapi_overflow._watching import advice as _advice
from fastapi_overflow._watching.advice import advise, compare
from fastapi_overflow._watching.connection_pools import ConnectionPool
from observed import busy, calm, needs_stacks, request, until
from support import PATIENCE


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

    def test_no_limit(self):
        """Without a limit the advice gives no number of threads, and names one that would do."""
        text = compare(ConnectionPool("pool", "QueuePool", 5, 10, 15, "max_size"), math.inf, 0)
        assert text is not None
        assert "inf" not in text
        assert "FASTAPI_OVERFLOW_LIMIT=16 would serve the same load" in text

    def test_governed(self):
        """Threads beyond the connections cost nothing where requests are held back before."""
        pool = ConnectionPool("pool", "QueuePool", 5, 10, 15, "", is_governed=True)
        assert compare(pool, 40, 1) is None

    def test_no_bound(self):
        """A pool that makes as many connections as are asked for keeps no thread waiting."""
        assert compare(ConnectionPool("pool", "NullPool", 0, 0, math.inf, ""), 40, 1) is None


class TestHealthRoutes:
    def test_in_advice(self):
        """advise() looks at the apps of this process."""
        app = FastAPI()

        @app.get("/livez")
        def here(): ...

        assert any("here is sync" in text for text in advise())
        assert any("here is sync" in text for text in advise(app))

    def test_mounted_app(self):
        """A route of a mounted app is told once, with the path that clients use."""
        app, mounted = FastAPI(), FastAPI()
        app.mount("/api", mounted)

        @mounted.get("/livez")
        def here_too(): ...

        told = [text.partition(" ")[0] for text in advise() if "here_too is sync" in text]
        assert told == ["/api/livez"]

    def test_app_half_made(self):
        """An app that isn't made yet is no reason to fail."""
        half = FastAPI.__new__(FastAPI)
        assert isinstance(advise(), list)
        del half


@needs_stacks
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
                    groups[:] = _advice.stacks.grouped(_advice.stacks.hop_frames())
                    busy_with = sum(group.threads for group in groups)
                    return busy_with == stats().threads_in_use and all(
                        g.where.startswith(_advice.stacks.CHECKOUT) for g in groups
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
        """The first stall compares limit and pools, in a thread; later ones don't.

        Pools of psycopg: SQLAlchemy's hold requests back, and their size is no matter.
        """
        caplog.set_level(logging.WARNING, logger="fastapi_overflow")
        monkeypatch.setattr(_advice, "_advised", threading.Lock())
        kept = PsycopgPool("", min_size=2, max_size=7, open=False, name="somewhere")
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
        kept.close()
