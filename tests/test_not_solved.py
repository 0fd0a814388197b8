"""What the README says the package doesn't solve: so it is, and no worse.

Run by pytest, each in a process of its own.
"""

from __future__ import annotations

import sys

import pytest

from child_tools import run_child

BEGIN = """
import asyncio, json, sys, threading
import anyio
import starlette.applications, fastapi_overflow
from anyio import to_thread
from fastapi import FastAPI
from child_tools import PATIENCE, Door, call, until
"""

TWO_POOLS = """
from sqlalchemy import exc
from pool_tools import engine
one, other = engine(1, 0), engine(1, 0)  # who waits in vain waits for ten minutes
app = FastAPI()
both = threading.Barrier(2)
ended = []

def take(first, second):
    with first.connect():
        both.wait(PATIENCE)
        try:
            with second.connect():
                ended.append("answered")
        except exc.TimeoutError:
            ended.append("TimeoutError")

app.get("/one")(lambda: take(one, other))
app.get("/other")(lambda: take(other, one))

async def main():
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(call, app, "/one")
            group.start_soon(call, app, "/other")
    print(json.dumps(sorted(ended)))

asyncio.run(main())
"""

OTHER_POOLS = """
def ways():
    limiter = anyio.CapacityLimiter(5)
    loop = asyncio.get_running_loop()
    return {
        "asyncio.to_thread": asyncio.to_thread,
        "run_in_executor": lambda function: loop.run_in_executor(None, function),
        "limiter=": lambda function: to_thread.run_sync(function, limiter=limiter),
    }

async def main():
    fastapi_overflow.set_thread_limit(3)
    together = threading.Barrier(5)
    way = ways()[sys.argv[1]]
    await asyncio.gather(*[way(lambda: together.wait(PATIENCE)) for _ in range(5)])
    print(json.dumps(fastapi_overflow.stats().threads_grown))

asyncio.run(main())
"""

ROUTER = """
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router
door = Door()

def endpoint(request):
    door()
    return PlainTextResponse("fine")

app = Router(routes=[Route("/", endpoint)])

async def main():
    fastapi_overflow.set_thread_limit(5)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(call, app, "/")
        await until(lambda: fastapi_overflow.stats().waiting_first == 16, "16 that wait")
        print(json.dumps([fastapi_overflow.stats().threads_in_use]))
        door.open()

asyncio.run(main())
"""

BEFORE_THEY_BEGIN = """
from pool_tools import engine
made, app = engine(1, 0), FastAPI()
begun, door = [], Door()

@app.get("/")
def endpoint():
    begun.append(1)
    with made.connect():
        door()

async def main():
    door.open()
    for _ in range(3):
        await call(app, "/")  # its habit is known from then on
    begun.clear()
    door._event.clear()
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(call, app, "/")
        held_back = lambda: fastapi_overflow.stats().requests_held_back
        await until(lambda: len(begun) + held_back() == 8, "all here")
        print(json.dumps(held_back() > 0))
        door.open()

anyio.run(main, backend=sys.argv[1])
"""

OWN_THREAD = """
from pool_tools import engine
made, app, found = engine(1, 0), FastAPI(), []

def work():
    with made.connect():
        found.extend(fastapi_overflow.connections())

@app.get("/")
def endpoint():
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)

asyncio.run(call(app, "/"))
print(json.dumps([[each.route, each.doing] for each in found]))
"""


STREAM = """
from fastapi import Depends
from fastapi.responses import Response
from pool_tools import engine
made, app, out = engine(1, 0), FastAPI(), []

def get_db():
    with made.connect() as connection:
        yield connection

class Sent(Response):
    async def __call__(self, scope, receive, send):
        await super().__call__(scope, receive, send)
        out.append(len(fastapi_overflow.connections()))

@app.get("/request")
def for_the_request(db=Depends(get_db)):
    return Sent()

@app.get("/function")
def for_the_function(db=Depends(get_db, scope="function")):
    return Sent()

asyncio.run(call(app, "/request"))
asyncio.run(call(app, "/function"))
print(json.dumps(out))
"""


class TestNotSolved:
    def test_slow_client(self):
        """A connection is kept until the response is sent, but with `scope="function"`."""
        assert run_child(BEGIN + STREAM) == [1, 0]

    def test_two_pools(self):
        """Of two requests that take from two pools in conflicting order, one fails, at once."""
        assert run_child(BEGIN + TWO_POOLS, timeout=60) == ["TimeoutError", "answered"]

    @pytest.mark.parametrize("way", ["asyncio.to_thread", "run_in_executor", "limiter="])
    def test_other_pools(self, way):
        """`asyncio.to_thread`, `run_in_executor` and a `limiter=` of one's own use another pool."""
        assert run_child(BEGIN + OTHER_POOLS, way) == 0

    def test_router(self):
        """The hops of a bare `Router` are limited; those that wait are nobody's under way."""
        assert run_child(BEGIN + ROUTER) == [4]

    @pytest.mark.parametrize(("backend", "waits"), [("asyncio", True), ("trio", False)])
    def test_before_they_begin(self, backend, waits):
        """On trio, unlike asyncio, requests don't wait before they begin."""
        assert run_child(BEGIN + BEFORE_THEY_BEGIN, backend) is waits

    @pytest.mark.skipif(
        getattr(sys.flags, "thread_inherit_context", False), reason="threads are requests' there"
    )
    def test_own_thread(self):
        """A connection that is taken in a thread of the app's own is nobody's request's."""
        assert run_child(BEGIN + OWN_THREAD) == [[None, "none"]]
