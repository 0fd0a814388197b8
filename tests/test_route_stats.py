"""stats().routes: what requests have waited for and kept, against what an app really did."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from child_tools import NEVER, run_child

LONG = 0.2  # seconds that something lasts, as in times_tools


def told(program: str, *args: str) -> Any:
    return run_child(
        f"{IMPORTS}\n{program}\n\nprint(json.dumps(anyio.run(main)))", *args, env=NEVER
    )


IMPORTS = """
import asyncio, functools, gc, json, sys, threading, time
import anyio
import sqlalchemy
from times_tools import *
import times_tools
from child_tools import Door
from fastapi_overflow import run_in_threadpool, set_thread_limit, stats
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute, Host
"""

THREAD = """
async def main():
    set_thread_limit(3)
    door = Door()
    app = app_of(busy=door, quick=lambda: None)
    async with anyio.create_task_group() as group:
        for _ in range(2):  # all that new requests may have
            group.start_soon(call, app, "/busy")
        await until(lambda: stats().threads_in_use == 2, "threads that are busy")
        with Span() as whole:
            async with waiting(app, "/quick", lambda: stats().waiting, "a request that waits"):
                now = times("/quick"), times("/busy")
                door.open()
    return [now, times("/quick"), times("/busy"), whole.seconds]
"""


@pytest.fixture(scope="module")
def seen_waiting():
    return told(THREAD)


class TestWaitForThread:
    def test_now(self, seen_waiting):
        """Who waits for a thread is told from who runs in one."""
        (quick, busy), *_ = seen_waiting
        assert (quick["waiting_for_thread"], quick["running"]) == (1, 0)
        assert (busy["waiting_for_thread"], busy["running"]) == (0, 2)

    def test_seconds(self, seen_waiting):
        """A request that has waited 0.2 s for a thread has waited so long, and no longer."""
        _, quick, busy, whole = seen_waiting
        assert LONG <= quick["seconds_waited_for_thread"] <= whole
        assert quick["seconds_waited_for_connection"] == 0
        assert busy["seconds_waited_for_thread"] < LONG

    def test_requests(self, seen_waiting):
        """Requests are counted by route."""
        _, quick, busy, _ = seen_waiting
        assert (quick["requests"], busy["requests"]) == (1, 2)


CONNECTION = """
where = sys.argv[1]
engine = make_engine()


def take():
    with engine.connect():
        pass


async def in_thread():
    await run_in_threadpool(take)


async def on_loop():
    take()


async def main():
    app = app_of(db={"thread": in_thread, "loop": on_loop}[where])
    for _ in range(3):  # the habit of the route is known
        await call(app, "/db")
    before = times("/db")
    connection = engine.connect()
    with Span() as whole:
        waits = lambda: times("/db").get("waiting_for_connection")
        async with waiting(app, "/db", waits, "a request that waits"):
            now = times("/db"), pool(), stats().requests_held_back
            connection.close()
    return [before, now, times("/db"), pool(), whole.seconds]
"""


@pytest.mark.parametrize("where", ["thread", "loop"])
class TestWaitForConnection:
    """In a thread at the checkout, or in the event loop before the request begins."""

    def test_now(self, where):
        """Who waits for a connection is told, in the routes and at the pool."""
        _, (route, pool, held_back), *_ = told(CONNECTION, where)
        assert (route["waiting_for_connection"], route["waiting_for_thread"]) == (1, 0)
        assert (pool["out"], pool["waiting"]) == (1, 1)
        assert held_back == (where == "loop")
        # As long as it waits, not only once it has.
        assert LONG <= pool["longest_wait"] <= pool["seconds_waited"]

    def test_seconds(self, where):
        """A request that has waited 0.2 s for one has waited so long, and no longer."""
        before, _, route, pool, whole = told(CONNECTION, where)
        waited = route["seconds_waited_for_connection"] - before["seconds_waited_for_connection"]
        assert LONG <= waited <= whole
        assert LONG <= pool["seconds_waited"] <= whole + before["seconds_waited_for_connection"]
        assert route["requests"] == 4


HELD = """
engine = make_engine()


def take():
    connection = engine.connect()
    time.sleep(LONG)
    return connection


async def across_await():
    connection = await run_in_threadpool(take)
    await anyio.sleep(1.5 * LONG)
    await run_in_threadpool(connection.close)


async def on_loop():
    connection = engine.connect()
    await anyio.sleep(2 * LONG)
    connection.close()


async def late():
    await run_in_threadpool(lambda: engine.connect().close())
    await anyio.sleep(2 * LONG)  # without any
    engine.connect().close()


async def before_route():
    pass


class Middle:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/before_route":
            (await run_in_threadpool(take)).close()
        await self.app(scope, receive, send)


def items():
    with engine.connect():
        for _ in range(3):
            yield b"item"


async def stream(request):
    return StreamingResponse(items())


async def slow_client(app):
    async def receive():
        await anyio.sleep(3600)

    async def send(message):
        if message.get("body") == b"item":
            await anyio.sleep(LONG)

    given = {"type": "http", "method": "GET", "path": "/stream", "headers": []}
    await app({**given, "query_string": b"", "asgi": {"spec_version": "2.4"}}, receive, send)


async def main():
    app = app_of(across_await=across_await, on_loop=on_loop, late=late, before_route=before_route)
    app.add_middleware(Middle)
    app.router.routes.append(Route("/stream", stream))
    found = {}
    for name in ("across_await", "on_loop", "late", "before_route", "stream"):
        at_first = pool()
        with Span() as whole:
            await (slow_client(app) if name == "stream" else call(app, f"/{name}"))
        at_last = pool()
        grown = {what: at_last[what] - at_first[what] for what in ("seconds_held", "seconds_idle")}
        found[name] = [times(f"/{name}"), grown, whole.seconds]
    return found
"""


@pytest.fixture(scope="module")
def seen():
    return told(HELD)


class TestHeld:
    @pytest.mark.parametrize("name", ["across_await", "on_loop", "late", "before_route", "stream"])
    def test_route_and_pool(self, seen, name):
        """Route and pool say the same."""
        route, pool, _ = seen[name]
        assert route["seconds_held"] == pytest.approx(pool["seconds_held"], abs=0.05)
        assert route["seconds_idle"] == pytest.approx(pool["seconds_idle"], abs=0.05)

    @pytest.mark.parametrize("name", ["across_await", "on_loop", "late", "before_route", "stream"])
    def test_at_most(self, seen, name):
        """Nothing is held for longer than its request, nor idle for longer than held."""
        route, _, whole = seen[name]
        assert 0 <= route["seconds_idle"] <= route["seconds_held"] <= whole

    def test_across_await(self, seen):
        """0.2 s at work in a thread and 0.3 s kept across an await are told apart."""
        route, _, whole = seen["across_await"]
        assert route["seconds_held"] >= 2.5 * LONG
        assert 1.4 * LONG <= route["seconds_idle"] <= whole - LONG

    def test_on_loop(self, seen):
        """One taken on the event loop is idle while its request awaits something else."""
        assert seen["on_loop"][0]["seconds_idle"] >= 1.9 * LONG

    def test_before_it_was_taken(self, seen):
        """The time that a request has idled before it took a connection isn't the connection's."""
        route, _, whole = seen["late"]
        assert whole >= 2 * LONG
        assert route["seconds_held"] <= whole - 2 * LONG

    def test_before_its_route(self, seen):
        """What a middleware has held before the request was routed counts for its route."""
        assert seen["before_route"][0]["seconds_held"] >= LONG

    def test_stream(self, seen):
        """A stream's connection is idle while its client is slow."""
        route, _, _ = seen["stream"]
        assert route["seconds_idle"] >= 2.8 * LONG


LEAK = """
engine = make_engine(2)
kept = []


async def leak():
    kept.append(await run_in_threadpool(engine.connect))


async def main():
    await call(app_of(leak=leak), "/leak")
    looks = [[times("/leak"), pool()]]
    await anyio.sleep(LONG)
    looks.append([times("/leak"), pool()])
    kept.clear()
    gc.collect()
    looks.append([times("/leak"), pool()])
    return looks
"""


class TestLeak:
    def test_seen(self):
        """A connection that has outlived its request is its route's, until it comes back."""
        looks = told(LEAK)
        assert [look[0]["connections"] for look in looks] == [1, 1, 0]
        assert [look[0]["connections_idle"] for look in looks] == [1, 1, 0]
        assert [look[1]["out"] for look in looks] == [1, 1, 0]
        assert [look[1]["idle"] for look in looks] == [1, 1, 0]
        first, second, _ = (look[1] for look in looks)
        assert second["seconds_held"] - first["seconds_held"] >= LONG
        assert second["seconds_idle"] - first["seconds_idle"] >= LONG


ASYNC = """
from fastapi_overflow._watching.pool_stats import pool_stats
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine("sqlite+aiosqlite:///" + sys.argv[1], pool_size=1, max_overflow=0,
                             poolclass=sqlalchemy.pool.AsyncAdaptedQueuePool)


async def db():
    async with engine.connect():
        await anyio.sleep(LONG)


async def main():
    app = app_of(db=db)
    with Span() as whole:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(call, app, "/db")
            both = lambda: any(each.waiting and each.out for each in pool_stats())
            await until(both, "a request that waits")
            now = pool()
    end = times("/db"), pool()
    await engine.dispose()
    return [now, *end, whole.seconds]
"""


class TestAsyncEngine:
    def test_times(self, tmp_path):
        """Requests with an async engine have waited and held as others have."""
        now, route, pool, whole = told(ASYNC, str(tmp_path / "db"))
        assert (now["out"], now["waiting"], now["is_async"]) == (1, 1, True)
        for waited in (route["seconds_waited_for_connection"], pool["seconds_waited"]):
            assert 0.9 * LONG <= waited <= whole
        for held in (route["seconds_held"], pool["seconds_held"]):
            assert 1.9 * LONG <= held <= whole
        assert route["requests"] == pool["checkouts"] == 2


OUTSIDE = """
engine = make_engine(2)


def take():
    with engine.connect():
        time.sleep(LONG)


async def main():
    at_first = pool()
    with Span() as whole:
        for thread in [threading.Thread(target=take) for _ in range(2)]:
            thread.start()
            thread.join()
    at_last = pool()
    return [at_last["seconds_held"] - at_first["seconds_held"], whole.seconds,
            at_last["checkouts"] - at_first["checkouts"], list(stats().routes)]
"""


class TestOutsideOfRequests:
    def test_threads(self):
        """What threads of the app's own hold counts for the pool, and for no route."""
        held, whole, checkouts, routes = told(OUTSIDE)
        assert 2 * LONG <= held <= whole
        assert (checkouts, routes) == (2, [])


LOOPS = """
app = app_of(hop=lambda: None)


def serve():
    async def requests():
        for _ in range(20):
            await call(app, "/hop")

    anyio.run(requests)


async def main():
    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    return times("/hop")["requests"]
"""


class TestLoops:
    def test_all(self):
        """Requests of all event loops of the process are counted."""
        assert told(LOOPS) == 80


NAMES = """
def hop(request=None):
    return PlainTextResponse("done")


class Odd(Route):
    path = property(lambda self: 1 / 0, lambda self, value: None)


def inner():
    return [Route("/items/{item}", hop), Route("/any", hop, methods=None)]


class Endpoint(HTTPEndpoint):
    def get(self, request):
        return hop()


async def socket(websocket):
    await websocket.accept()
    await run_in_threadpool(int)
    await websocket.close()


async def talk(app, path):
    messages = iter([{"type": "websocket.connect"}])

    async def receive():
        return next(messages)

    async def send(message):
        pass

    scope = {"type": "websocket", "path": path, "headers": [], "query_string": b""}
    await app(scope, receive, send)


async def main():
    shared = Starlette(routes=inner())
    app = Starlette(routes=[
        Route("/plain", hop),
        Route("/endpoint/{id:int}", Endpoint),
        Route("/webdav", hop, methods=["PROPFIND"]),
        WebSocketRoute("/socket", socket),
        Mount("/v1", shared),
        Mount("/v2", shared),
        Mount("/tenants/{tenant}/{number:int}", routes=inner()),
        Mount("/files/{where:path}/of", routes=inner()),
        Odd("/odd", hop),
    ])
    for path in ("/plain", "/endpoint/7", "/v1/items/1", "/v2/items/2", "/v1/items/3",
                 "/tenants/secret/042/items/5", "/files/secret/part/of/items/6", "/odd"):
        await call(app, path)
    await call(app, "/webdav", {"method": "PROPFIND"})
    for n in range(3):
        await call(app, "/v1/any", {"method": f"MADEUP{n}"})
    await call(app, "/plain", {"root_path": "/proxy", "path": "/proxy/plain"})
    await call(app, "/v1/items/1", {"root_path": "/proxy", "path": "/proxy/v1/items/1"})
    await talk(app, "/socket")
    return {name: route.requests for name, route in stats().routes.items()}
"""


class TestNames:
    def test_starlette(self):
        """Routes go by method and path as declared, under what they are mounted at.

        Nothing that a client sends is in a name: neither parameters nor made-up methods.
        """
        names = told(f"from starlette.endpoints import HTTPEndpoint\n{NAMES}")
        assert names == {
            "GET /plain": 2,
            "GET /endpoint/{id:int}": 1,
            "PROPFIND /webdav": 1,
            "WEBSOCKET /socket": 1,
            "GET /v1/items/{item}": 3,
            "GET /v2/items/{item}": 1,
            "GET /tenants/{tenant}/{number}/items/{item}": 1,
            "GET /{...}/items/{item}": 1,
            "(other) /v1/any": 3,
            "(others)": 1,
        }

    def test_fastapi(self):
        """A router that is included twice has two names, with each prefix in its own."""
        assert told(FASTAPI) == {
            "GET /v1/things/{thing}": 2,
            "GET /v2/things/{thing}": 1,
            "GET /sub/things/{thing}": 1,
            "POST /v1/things/{thing}": 1,
        }


FASTAPI = """
from fastapi import APIRouter, FastAPI

router = APIRouter(prefix="/things")


@router.get("/{thing}")
@router.post("/{thing}")
def thing(thing: str):
    return thing


async def main():
    app, sub = FastAPI(), FastAPI()
    app.include_router(router, prefix="/v1")
    app.include_router(router, prefix="/v2")
    sub.include_router(router)
    app.mount("/sub", sub)
    for path in ("/v1/things/a", "/v1/things/b", "/v2/things/c", "/sub/things/d"):
        assert await call(app, path) == [200]
    await call(app, "/v1/things/a", {"method": "POST"})
    return {name: route.requests for name, route in stats().routes.items()}
"""

BOUND = """
async def main():
    for n in range(150):
        await call(Starlette(routes=[Route(f"/{n}", lambda _: PlainTextResponse("done"))]), f"/{n}")
    # Apps made anew for each request, as some do for a tenant.
    for n in range(500):
        await call(app_of(again=lambda: None), "/again")
    routes = stats().routes
    again = routes.get("GET /again", routes["(others)"])
    from fastapi_overflow._requests import route_times
    return [len(routes), sum(route.requests for route in routes.values()), again.requests,
            len(route_times._by_route)]
"""


class TestBound:
    def test_routes_without_end(self):
        """At most 100 routes are told apart; what the others do is told together."""
        routes, requests, others, kept = told(BOUND)
        assert (routes, requests, others) == (101, 650, 550)
        assert kept <= 400


FORK = """
import os
import warnings
from child_tools import in_fork
from fastapi_overflow._requests import route_times
from fastapi_overflow._watching.pool_stats import pool_stats, stats_by_name

warnings.simplefilter("ignore")  # of forks beside threads: that is what servers do
engine = make_engine(2)


def of_child():
    found = [len(stats(all_loops=True).routes), len(pool_stats()), len(stats_by_name())]

    async def serve():
        await call(app_of(db=lambda: engine.connect().close()), "/db")

    engine.dispose(close=False)
    anyio.run(serve)
    return [found, times("/db")["requests"], [each.checkouts for each in pool_stats()]]


async def main():
    connection = engine.connect()
    await call(app_of(db=lambda: engine.connect().close()), "/db")
    stats_by_name()
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with route_times._lock:
            held.set()
            go_on.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    try:
        return await anyio.to_thread.run_sync(in_fork, of_child)
    finally:
        go_on.set()
        thread.join()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
class TestFork:
    def test_begins_anew(self):
        """In the child of a fork nothing is told that its parent has done, and nothing is stuck."""
        assert told(FORK) == [[0, 0, 0], 1, [1]]


SHAPE = """
async def main():
    await call(app_of(hop=lambda: None), "/hop")
    now = stats()
    return [hash(now) == hash(stats()), type(now.routes["GET /hop"]).__name__,
            json.loads(json.dumps(now.as_dict()))["routes"]["GET /hop"]]
"""


class TestShape:
    def test_hash_and_json(self):
        """Statistics can be hashed, and are fit for JSON with their routes."""
        same, kind, route = told(SHAPE)
        assert (same, kind, route["requests"]) == (True, "RouteStats", 1)
