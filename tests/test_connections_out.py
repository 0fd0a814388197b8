"""`connections()`: who has which connection, since when, and what its request is doing.

Run by pytest. Each test makes a request stand at one point, and looks.
"""

import asyncio
import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import FrozenInstanceError, asdict
from typing import Annotated

import anyio
import httpx
import pytest
import starlette.applications  # noqa: F401 - arms the patch, before SQLAlchemy is imported
from anyio import from_thread, to_thread
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import event, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import AsyncAdaptedQueuePool
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import fastapi_overflow
from child_tools import Door, call, run_child, until
from pool_tools import PATIENCE, engine


@pytest.fixture(autouse=True)
def nobody_held_back():
    """Here they are: it is what these tests are about."""


@pytest.fixture
def made():
    made = engine()
    yield made
    made.dispose()


def out_of(made):
    name = made.url.render_as_string()
    return [each for each in fastapi_overflow.connections() if each.pool == name]


def one_out_of(made):
    (found,) = out_of(made)
    return found


def doing(made):
    return [each.doing for each in out_of(made)]


def app_with(*endpoints, **options):
    """Return an app with these endpoints at /0, /1 and so on."""

    def answering(endpoint):
        async def answer(request):
            await endpoint()
            return PlainTextResponse("fine")

        return answer

    routes = [Route(f"/{n}", answering(endpoint)) for n, endpoint in enumerate(endpoints)]
    return Starlette(routes=routes, **options)


@contextlib.asynccontextmanager
async def requests_of(app, *paths):
    """Have requests run meanwhile; they must end afterwards."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for path in paths or ("/0",):
                group.start_soon(call, app, path)
            yield


class TestFields:
    def test_outside(self, made):
        """What no request has belongs to none: no method, no route, its line and its age."""
        with made.connect():
            found = one_out_of(made)
        assert (found.method, found.route, found.doing) == (None, None, "none")
        assert found.line.startswith("test_connections_out.py:")
        assert 0 <= found.seconds < PATIENCE
        assert found.is_async is False

    def test_frozen(self, made):
        """It can't be changed, and is fit for JSON."""
        with made.connect():
            found = one_out_of(made)
        with pytest.raises(FrozenInstanceError):
            found.doing = "idle"
        assert set(asdict(found)) == {
            "pool", "method", "route", "line", "seconds", "doing", "is_async",
        }  # fmt: skip

    def test_back(self, made):
        """What is back is no longer listed: closed, detached, invalidated, or just forgotten."""
        made.connect().close()
        detached = made.connect()
        detached.detach()
        invalidated = made.connect()
        invalidated.invalidate()
        made.connect()
        gc.collect()
        assert out_of(made) == []
        detached.close()
        invalidated.close()

    def test_longest_first(self, made):
        """Those held longest come first."""
        with made.connect(), made.connect(), made.connect():
            seconds = [each.seconds for each in out_of(made)]
        assert seconds == sorted(seconds, reverse=True)
        assert len(seconds) == 3

    def test_no_secrets(self, made):
        """Neither password nor query of the URL is shown."""
        made.dispose()
        made.pool.__dict__["_fastapi_overflow_url"] = URL.create(
            "postgresql", "user", "secret", "host", 5432, "shop", {"password": "secret"}
        )
        with made.connect():
            names = [each.pool for each in fastapi_overflow.connections()]
        assert "postgresql://user:***@host:5432/shop" in names

    def test_url_of_their_own(self, made):
        """An engine whose URL can't be printed goes by its pool's class."""
        made.dispose()
        made.pool.__dict__["_fastapi_overflow_url"] = object()
        with made.connect():
            assert [e.pool for e in fastapi_overflow.connections()].count("QueuePool") == 1

    def test_disposed_engine(self, made):
        """What is out when an engine is disposed of is still listed, until it is back."""
        connection = made.connect()
        made.dispose()
        with made.connect():
            assert len(out_of(made)) == 2
        connection.close()
        assert out_of(made) == []

    def test_pool_without_a_bound(self):
        """Pools without a bound are listed too."""
        made = engine(0, -1)
        with made.connect():
            assert one_out_of(made).doing == "none"
        assert out_of(made) == []

    @pytest.mark.parametrize("switch", ["FASTAPI_OVERFLOW_DISABLE", "FASTAPI_OVERFLOW_CONNECTIONS"])
    def test_switched_off(self, switch):
        """Switched off, the list is empty."""
        code = """if True:
        import json, starlette.applications, fastapi_overflow
        from pool_tools import engine
        with engine().connect():
            print(json.dumps(len(fastapi_overflow.connections())))
        """
        value = "1" if switch.endswith("DISABLE") else "0"
        assert run_child(code, env={switch: value}) == 0

    def test_without_sqlalchemy(self):
        """Where SQLAlchemy isn't loaded it is empty, and that loads nothing."""
        code = """if True:
        import json, sys, starlette.applications, fastapi_overflow
        print(json.dumps([fastapi_overflow.connections(), "sqlalchemy" in sys.modules]))
        """
        assert run_child(code) == [[], False]


def take_by_connect(made):
    return made.connect()


def take_by_raw_connection(made):
    return made.raw_connection()


def take_by_pool(made):
    return made.pool.connect()


def take_by_session(made):
    return Session(made).connection()


class TestLine:
    @pytest.mark.parametrize(
        "take",
        [take_by_connect, take_by_raw_connection, take_by_pool, take_by_session],
    )
    def test_way(self, made, take):
        """Whichever way a connection is taken, it is the app's line that says so."""
        line = f"test_connections_out.py:{take.__code__.co_firstlineno + 1} "
        for _ in range(2):  # the first time, a file is looked up
            with contextlib.closing(take(made)):
                assert f"{one_out_of(made).line} ".startswith(line)
            gc.collect()

    @pytest.mark.parametrize("take", [take_by_connect, take_by_raw_connection, take_by_pool])
    def test_listener(self, made, take):
        """What a listener takes while its engine connects is taken on the listener's own line."""
        taken = []

        def listen(connection):
            if not taken:
                taken.append(None)
                taken[0] = take(made)

        event.listen(made, "engine_connect", listen)
        with made.connect(), contextlib.closing(taken[0]):
            lines = {each.line.split()[0] for each in out_of(made)}
        assert f"test_connections_out.py:{take.__code__.co_firstlineno + 1}" in lines
        assert len(lines) == 2


@pytest.mark.anyio
class TestDoing:
    async def test_running_in_a_thread(self, made):
        """In a hop it runs in a thread."""
        door = Door()

        def take():
            with made.connect():
                door()

        async with requests_of(app_with(lambda: run_in_threadpool(take))):
            await until(lambda: doing(made) == ["running in a thread"], "a hop")
            door.open()

    async def test_idle(self, made):
        """Between two hops that don't follow each other it is idle."""
        go_on = anyio.Event()

        async def endpoint():
            connection = await run_in_threadpool(made.connect)
            await go_on.wait()
            await run_in_threadpool(connection.close)

        async with requests_of(app_with(endpoint)):
            await until(lambda: doing(made) == ["idle"], "idle")
            go_on.set()

    async def test_hop_beside(self, made):
        """While another hop of the request runs it isn't idle."""
        if _is_trio():
            pytest.skip("not seen there, unless it is the first of them")
        door = Door()
        ended = []

        async def endpoint():
            async with anyio.create_task_group() as group:
                group.start_soon(run_in_threadpool, door)
                connection = await run_in_threadpool(made.connect)
                await anyio.sleep(0.1)  # longer than the grace after a hop
                ended.append(doing(made))
                door.open()
            await run_in_threadpool(connection.close)

        async with requests_of(app_with(endpoint)):
            await until(lambda: ended, "the end")
        assert ended == [["running in a thread"]]

    async def test_own_limiter(self, made):
        """A hop with a limiter of the caller's own counts as one."""
        if _is_trio():
            pytest.skip("not seen there")
        door, limiter = Door(), anyio.CapacityLimiter(1)

        async def endpoint():
            connection = await run_in_threadpool(made.connect)
            await to_thread.run_sync(door, limiter=limiter)
            await run_in_threadpool(connection.close)

        async with requests_of(app_with(endpoint)):
            await until(lambda: doing(made) == ["running in a thread"], "a hop")
            await anyio.sleep(0.1)
            assert doing(made) == ["running in a thread"]
            door.open()

    async def test_on_the_loop(self, made):
        """Code on the event loop that looks itself is on the event loop."""
        found = []

        async def endpoint():
            with made.connect():
                found.append(doing(made))

        async with requests_of(app_with(endpoint)):
            pass
        assert found == [["on the event loop"]]

    async def test_waiting_for_a_thread(self, made):
        """A hop that waits for a thread is said to."""
        door = Door()
        has_taken = anyio.Event()

        async def endpoint():
            connection = made.connect()
            has_taken.set()
            await run_in_threadpool(connection.close)

        app = app_with(endpoint, lambda: run_in_threadpool(door))
        limiter = to_thread.current_default_thread_limiter()
        before = limiter.total_tokens
        limiter.total_tokens = 1
        try:
            async with requests_of(app, "/1"):
                await until(lambda: limiter.borrowed_tokens == 1, "all threads taken")
                async with anyio.create_task_group() as group:
                    group.start_soon(call, app, "/0")
                    await until(lambda: doing(made) == ["waiting for a thread"], "a wait")
                    door.open()
        finally:
            limiter.total_tokens = before

    async def test_waiting_for_a_connection(self, made):
        """Who waits for another connection, of another pool, is said to."""
        other = engine(1, 0)

        def take():
            with made.connect(), other.connect():
                pass

        with other.connect() as connection:
            async with requests_of(app_with(lambda: run_in_threadpool(take))):
                await until(lambda: doing(made) == ["waiting for a connection"], "a wait")
                connection.close()

    async def test_ended(self, made):
        """A connection whose request has ended is a leak, by its route."""
        kept = []

        async def endpoint():
            kept.append(await run_in_threadpool(made.connect))

        async with requests_of(app_with(endpoint)):
            pass
        found = one_out_of(made)
        assert (found.doing, found.method, found.route) == ("ended", "GET", "/0")
        kept.pop().close()

    async def test_nested(self, made):
        """A sync endpoint that calls back to the loop still runs in its thread."""
        go_on = anyio.Event()

        def take():
            with made.connect():
                from_thread.run(go_on.wait)

        async with requests_of(app_with(lambda: run_in_threadpool(take))):
            await until(lambda: len(out_of(made)) == 1, "a checkout")
            assert doing(made) == ["running in a thread"]
            go_on.set()

    async def test_in_a_hop_itself(self, made):
        """A hop that looks itself runs in a thread."""
        found = []

        def take():
            with made.connect():
                found.append(doing(made))

        async with requests_of(app_with(lambda: run_in_threadpool(take))):
            pass
        assert found == [["running in a thread"]]


def _is_trio():
    import sniffio

    return sniffio.current_async_library() == "trio"


def keeps_the_loop(made):
    """Return an endpoint that queries on the event loop, and what another thread sees then."""
    found = []

    def look():
        found.append(doing(made))

    async def endpoint():
        with made.connect():
            # Not in this context: it is somebody else who looks.
            looking = threading.Thread(target=Context().run, args=(look,), daemon=True)
            looking.start()
            looking.join(PATIENCE)

    return endpoint, found


@pytest.mark.anyio
@pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)
class TestOfAsyncio:
    async def test_loop_seen_from_a_thread(self, made):
        """Another thread sees that the request keeps the event loop standing."""
        endpoint, found = keeps_the_loop(made)
        async with requests_of(app_with(endpoint)):
            pass
        assert found == [["on the event loop"]]

    async def test_child_task_seen_from_a_thread(self, made):
        """So it does where the request's code is in a task of its own, behind a middleware."""
        endpoint, found = keeps_the_loop(made)

        async def passes_on(request, call_next):
            return await call_next(request)

        app = app_with(endpoint)
        app.add_middleware(BaseHTTPMiddleware, dispatch=passes_on)
        async with requests_of(app):
            pass
        assert found == [["on the event loop"]]

    async def test_to_thread(self, made):
        """Work in asyncio's executor runs in a thread."""
        door, found = Door(), []

        def work():
            found.append(doing(made))
            door()

        async def endpoint():
            connection = await run_in_threadpool(made.connect)
            await asyncio.to_thread(work)
            connection.close()

        async with requests_of(app_with(endpoint)):
            await until(lambda: found, "the work")
            await anyio.sleep(0.1)  # longer than the grace after a hop
            assert doing(made) == ["running in a thread"]
            door.open()
        assert found == [["running in a thread"]]

    async def test_waiting_for_asyncios_executor(self, made):
        """Work that waits for a thread of asyncio's executor isn't idle."""
        door = Door()
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(1)
        loop.set_default_executor(executor)
        blocker = executor.submit(door)

        async def endpoint():
            with made.connect():
                await asyncio.to_thread(int)

        async with requests_of(app_with(endpoint)):
            await until(lambda: doing(made) == ["waiting for a thread"], "a wait")
            await anyio.sleep(0.1)  # longer than the grace
            assert doing(made) == ["waiting for a thread"]
            door.open()
        blocker.result(PATIENCE)


@pytest.fixture
def made_async(tmp_path):
    return create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/db",
        poolclass=AsyncAdaptedQueuePool,  # before SQLAlchemy 2 it wasn't the default
        pool_size=1,
        max_overflow=0,
        pool_timeout=PATIENCE,
    )


# Takes about a second in the database.
LONG_QUERY = text(
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000000)"
    " select count(*) from n"
)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
)
class TestOfAsyncEngines:
    async def test_line(self, made_async):
        """Through the greenlet it is the app's line."""
        import inspect

        async def take():
            return await made_async.connect()

        connection = await take()
        found = one_out_of(made_async)
        line = inspect.getsourcelines(take)[1] + 1
        assert found.line == f"test_connections_out.py:{line}"
        assert found.is_async is True
        await connection.close()
        assert out_of(made_async) == []
        await made_async.dispose()

    @pytest.mark.parametrize("way", ["coroutine", "generator", "task"])
    async def test_query(self, made_async, way):
        """Who waits for the database's answer isn't idle, also in a generator or a task."""

        async def query(connection):
            await connection.execute(LONG_QUERY)

        async def generator(connection):
            await query(connection)
            yield 1

        async def endpoint():
            async with made_async.connect() as connection:
                if way == "coroutine":
                    await query(connection)
                elif way == "task":
                    await asyncio.create_task(query(connection))
                else:
                    async for _ in generator(connection):
                        pass

        async with requests_of(app_with(endpoint)):
            await until(lambda: out_of(made_async), "a checkout")
            await anyio.sleep(0.1)
            assert doing(made_async) == ["on the event loop"]
        await made_async.dispose()

    async def test_idle(self, made_async):
        """Who awaits something else meanwhile is idle."""
        go_on = anyio.Event()

        async def endpoint():
            async with made_async.connect() as connection:
                await connection.execute(text("select 1"))
                await go_on.wait()

        async with requests_of(app_with(endpoint)):
            await until(lambda: doing(made_async) == ["idle"], "idle")
            go_on.set()
        await made_async.dispose()

    async def test_waits(self, made_async, made):
        """Who waits for one of an async engine, and has another, is said to wait."""

        async def endpoint():
            with made.connect():
                async with made_async.connect():
                    pass

        connection = await made_async.connect()
        async with requests_of(app_with(endpoint)):
            await until(lambda: doing(made) == ["waiting for a connection"], "a wait")
            await connection.close()
        await made_async.dispose()

    async def test_ended(self, made_async):
        """A leak is one here too."""
        kept = []

        async def endpoint():
            kept.append(await made_async.connect())

        async with requests_of(app_with(endpoint)):
            pass
        assert (one_out_of(made_async).doing, one_out_of(made_async).route) == ("ended", "/0")
        await kept.pop().close()
        await made_async.dispose()


class TestRoutes:
    """Which route a connection is said to be with; on asyncio."""

    def seen(self, app, path, method="GET"):
        """Return the response to a request, made in a task of its own as by a server."""

        async def main():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path)

        response = asyncio.run(main())
        assert response.status_code == 200, response.text
        return response

    def test_path_as_declared(self, made):
        """The path is as the app has declared it: no parameters."""
        app = FastAPI()

        @app.post("/orders/{order}")
        def endpoint(order: int) -> list:
            with made.connect():
                found = one_out_of(made)
                return [found.method, found.route]

        assert self.seen(app, "/orders/7?key=x", "POST").json() == ["POST", "/orders/{order}"]

    def test_router_and_mount(self, made):
        """Prefixes of routers and mounts are part of it."""
        inner, router = FastAPI(), APIRouter()

        @router.get("/{item}")
        def endpoint(item: int) -> list:
            with made.connect():
                return [one_out_of(made).route]

        inner.include_router(router, prefix="/items")
        outer = Starlette(routes=[Mount("/api", inner)])
        assert self.seen(outer, "/api/items/1").json() == ["/api/items/{item}"]

    def test_dependency(self, made):
        """What a dependency has taken is the request's, with the line in the dependency."""
        app = FastAPI()

        def get_db():
            with made.connect() as connection:
                yield connection

        @app.get("/")
        def endpoint(db: Annotated[object, Depends(get_db)]) -> list:
            found = one_out_of(made)
            return [found.route, found.doing]

        assert self.seen(app, "/").json() == ["/", "running in a thread"]

    def test_stream_and_background(self, made):
        """Streams and background tasks are their request's."""
        app, found = FastAPI(), []

        def look():
            with made.connect():
                found.append((one_out_of(made).route, one_out_of(made).doing))

        @app.get("/stream")
        def stream(tasks: BackgroundTasks):
            def rows():
                look()
                yield "row"

            tasks.add_task(look)
            return StreamingResponse(rows(), background=tasks)

        self.seen(app, "/stream")
        assert found == [("/stream", "running in a thread")] * 2

    def test_websocket(self, made):
        """A WebSocket has its route, and no method of HTTP."""
        app = FastAPI()

        @app.websocket("/ws/{room}")
        async def endpoint(room: str, websocket: WebSocket):
            await websocket.accept()
            with made.connect():
                found = one_out_of(made)
                await websocket.send_json([found.method, found.route])

        sent = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            sent.append(message.get("text"))

        scope = {"type": "websocket", "path": "/ws/1", "headers": [], "query_string": b""}
        asyncio.run(app(scope, receive, send))
        assert '["WEBSOCKET","/ws/{room}"]' in sent

    def test_middleware(self, made):
        """What a middleware takes has no route before that is reached, then it has."""
        found = []

        class Middleware:
            def __init__(self, app):
                self.app = app

            async def __call__(self, scope, receive, send):
                if scope["type"] != "http":
                    return await self.app(scope, receive, send)
                connection = await run_in_threadpool(made.connect)
                found.append(one_out_of(made).route)
                try:
                    await self.app(scope, receive, send)
                finally:
                    connection.close()

        async def endpoint():
            found.append(one_out_of(made).route)

        app = app_with(endpoint)
        app.add_middleware(Middleware)
        self.seen(app, "/0")
        assert found == [None, "/0"]

    def test_middleware_around_the_app(self, made):
        """What is taken around the app object is the request's while that runs, then nobody's."""
        found = []

        async def endpoint():
            found.append(one_out_of(made).doing)

        app = app_with(endpoint)

        async def around(scope, receive, send):
            connection = await run_in_threadpool(made.connect)
            found.append(one_out_of(made).doing)
            try:
                await app(scope, receive, send)
                found.append(one_out_of(made).doing)
            finally:
                connection.close()

        self.seen(around, "/0")
        assert found == ["none", "on the event loop", "none"]


def wait_for_workers():
    """Wait until anyio's workers of ended loops have ended: each keeps its loop's first task."""
    for thread in threading.enumerate():
        if type(thread).__name__ == "WorkerThread" and thread.loop.is_closed():
            thread.join(10)


class TestNothingIsKept:
    def test_request(self, made):
        """A connection that leaks keeps nothing of its request alive."""
        kept, canaries = [], []

        class Canary:
            pass

        async def endpoint():
            canary = Canary()
            canaries.append(weakref.ref(canary))
            canaries.append(weakref.ref(asyncio.current_task()))
            kept.append(await run_in_threadpool(made.connect))

        asyncio.run(call(app_with(endpoint), "/0"))
        wait_for_workers()
        gc.collect()
        assert [canary() for canary in canaries] == [None, None]
        assert one_out_of(made).doing == "ended"
        kept.pop().close()

    def test_after_a_look(self, made):
        """Nor does looking while it runs."""
        canaries = []

        class Canary:
            pass

        async def endpoint():
            canary = Canary()
            canaries.append(weakref.ref(canary))
            with made.connect():
                await asyncio.to_thread(fastapi_overflow.connections)

        asyncio.run(call(app_with(endpoint), "/0"))
        gc.collect()
        assert canaries[0]() is None

    def test_many_threads(self, made):
        """Looking while other threads take and return connections never fails."""
        stop = threading.Event()
        errors = []

        def churn():
            while not stop.is_set():
                with made.connect():
                    pass

        threads = [threading.Thread(target=churn, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(300):
                fastapi_overflow.connections()
        except Exception as exc:
            errors.append(exc)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert errors == []
