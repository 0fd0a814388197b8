"""The first requests that a process ever gets: nothing is known of any route yet.

Each in a process of its own, with a pool of three or four. Those of the first class go through a
middleware that keeps a connection while the route is at work.
"""

from __future__ import annotations

from child_tools import run_child

PREFACE = """
import asyncio, json
import anyio, fastapi, sqlalchemy
import fastapi_overflow
from starlette.concurrency import run_in_threadpool
from child_tools import call
from pool_tools import engine
app = fastapi.FastAPI()
begun = []
async def until(condition):
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.001)
def held_back():
    return fastapi_overflow.stats().requests_held_back
async def try_one(path):
    try:
        return (await call(app, path))[0]
    except sqlalchemy.exc.TimeoutError:
        return 0
"""

KEEPING = """
made = engine(2, 1)
class Keeping:
    def __init__(self, app):
        self.app = app
    async def __call__(self, scope, receive, send):
        connection = await run_in_threadpool(made.connect)
        try:
            await self.app(scope, receive, send)
        finally:
            connection.close()
app.add_middleware(Keeping)
is_set = []
@app.get("/none")
async def none():
    begun.append("none")
@app.get("/another")
async def another():
    begun.append("another")
    await asyncio.sleep(0.01)
    with made.connect():
        await asyncio.sleep(0.001)
@app.get("/waiting")
async def waiting():
    begun.append("waiting")
    await is_set[0].wait()
@app.get("/setting")
async def setting():
    is_set[0].set()
"""

# Who waits for a turn waits until it comes, however slow the machine is.
PATIENT = """
from fastapi_overflow._requests import in_turn
in_turn.TICKS_WITHOUT = in_turn.MOST_TICKS = 10**6
in_turn.MOST_LOOKS = 10**6
in_turn.TURN_SECONDS = 60
"""

MIXED = """
async def main():
    paths = ["/none", "/another"] * 20
    print(json.dumps(await asyncio.gather(*map(try_one, paths))))
asyncio.run(main())
"""

FOR_EACH_OTHER = """
async def main():
    is_set.append(anyio.Event())
    with anyio.fail_after(30):
        paths = ["/waiting", "/setting", "/setting"]
        print(json.dumps(await asyncio.gather(*map(try_one, paths))))
asyncio.run(main())
"""

CANCELLED = """
async def main():
    is_set.append(anyio.Event())
    await try_one("/none")
    first = asyncio.create_task(try_one("/waiting"))
    await until(lambda: "waiting" in begun)
    tasks = [asyncio.create_task(try_one("/none")) for _ in range(2)]
    await until(lambda: held_back() == 2)
    tasks[0].cancel()
    await until(tasks[0].done)
    is_set[0].set()
    statuses = [await first, await tasks[1]]
    print(json.dumps([tasks[0].cancelled(), *statuses, held_back()]))
asyncio.run(main())
"""

KNOWN = """
async def main():
    is_set.append(anyio.Event())
    for _ in range(1 + in_turn.KNOWN_ROUTES):
        await try_one("/none")
    begun.clear()
    first = asyncio.create_task(try_one("/waiting"))
    await until(lambda: begun)
    print(json.dumps([await try_one("/none"), first.done()]))
    is_set[0].set()
    await first
asyncio.run(main())
"""

THREE = """
from fastapi_overflow._connections import promises
promises.LEAST_PATIENCE = 30  # however slow the machine is
made = engine(2, 2)
kept = []
@app.get("/one")
async def one():
    with made.connect():
        begun.append("one")
        if kept:
            await kept[0].wait()
@app.get("/three")
async def three():
    with made.connect(), made.connect():
        begun.append("three")
        await until(lambda: begun.count("one") + held_back() >= 4)
        try:
            made.connect().close()
        finally:
            kept[0].set()
async def main():
    await try_one("/one")
    begun.clear()
    kept.append(anyio.Event())
    first = asyncio.create_task(try_one("/three"))
    await until(lambda: begun)
    others = [try_one("/one") for _ in range(4)]
    print(json.dumps([*await asyncio.gather(*others), await first]))
asyncio.run(main())
"""


class TestMiddlewareThatKeepsOne:
    def test_route_takes_another(self):
        """Beside a route that takes none, one that takes another on the loop loses no request."""
        assert run_child(PREFACE + KEEPING + MIXED) == [200] * 40

    def test_requests_wait_for_each_other(self):
        """A first request that waits for what the next one does is not alone for long."""
        assert run_child(PREFACE + KEEPING + FOR_EACH_OTHER) == [200] * 3

    def test_cancelled(self):
        """One that is cancelled while it waits for its turn is in nobody's way."""
        assert run_child(PREFACE + KEEPING + PATIENT + CANCELLED) == [True, 200, 200, 0]

    def test_once_routes_are_known(self):
        """After some requests nobody waits for the first one of a route any more."""
        assert run_child(PREFACE + KEEPING + PATIENT + KNOWN) == [200, False]


class TestFirstOfItsRoute:
    def test_takes_three_at_once(self):
        """It gets the third one although others wait for what is free, and more than it did."""
        assert run_child(PREFACE + THREE) == [200] * 5
