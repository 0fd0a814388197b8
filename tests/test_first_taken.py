"""Requests that take a connection although none of their route ever has.

Run by pytest. Such a request is no more than a number until then; then it is like any other.
"""

import asyncio
import gc
import weakref

import anyio
import anyio.lowlevel
import pytest
import starlette.applications  # noqa: F401 - arms the patch, before SQLAlchemy is imported
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import fastapi_overflow
from child_tools import Door, call, until
from fastapi_overflow._connections.habits import MEMORY
from fastapi_overflow._connections.route_habits import RouteHabits
from fastapi_overflow._connections.visit import Visit
from pool_tools import PATIENCE, engine


@pytest.fixture(autouse=True)
def nobody_held_back():
    """Here they are: it is what these tests are about."""


@pytest.fixture
def made():
    made = engine()
    made.connect().close()
    yield made
    made.dispose()


async def after_some_without(endpoint):
    """Have requests of a route take no connection, then one do what `endpoint` does."""
    before = 3

    async def answer(request):
        nonlocal before
        before -= 1
        await (anyio.lowlevel.checkpoint() if before >= 0 else endpoint())
        return PlainTextResponse("fine")

    app = Starlette(routes=[Route("/late", answer)])
    with anyio.fail_after(PATIENCE):
        for _ in range(4):
            await call(app, "/late")


def told(made):
    name = made.url.render_as_string()
    return [(o.route, o.doing) for o in fastapi_overflow.connections() if o.pool == name]


async def becomes_idle(made, endpoint, go_on):
    """Wait until the connection of a request to this endpoint is told as idle, and let it go on."""
    async with anyio.create_task_group() as group:
        group.start_soon(after_some_without, endpoint)
        await until(lambda: told(made) == [("/late", "idle")], "idle")
        go_on.set()


@pytest.mark.anyio
class TestTold:
    async def test_on_the_loop(self, made):
        """It has its route as any other."""
        found = []

        async def endpoint():
            with made.connect():
                found.extend(told(made))

        await after_some_without(endpoint)
        assert [route for route, _ in found] == ["/late"]

    async def test_in_a_hop(self, made):
        """The hop in which it takes it counts, and so does its end."""
        found, go_on = [], anyio.Event()

        def take():
            connection = made.connect()
            found.extend(told(made))
            return connection

        async def endpoint():
            connection = await run_in_threadpool(take)
            await go_on.wait()
            connection.close()

        await becomes_idle(made, endpoint, go_on)
        assert found == [("/late", "running in a thread")]

    async def test_hop_begun_before(self, made, anyio_backend_name):
        """A hop beside that began before it had any counts until it ends."""
        if anyio_backend_name == "trio":
            pytest.skip("not seen there, unless it is the first of them")
        found, door, go_on = [], Door(), anyio.Event()

        async def endpoint():
            async with anyio.create_task_group() as group:
                group.start_soon(run_in_threadpool, door)
                await anyio.lowlevel.checkpoint()
                connection = await run_in_threadpool(made.connect)
                await anyio.sleep(0.1)  # longer than the grace after a hop
                found.extend(told(made))
                door.open()
            await go_on.wait()
            connection.close()

        await becomes_idle(made, endpoint, go_on)
        assert found == [("/late", "running in a thread")]


class TestKept:
    def test_nothing(self, made):
        """Nothing of it is kept after its end, though it has left its connection out."""
        kept, canaries = [], []

        async def endpoint():
            canaries.append(weakref.ref(asyncio.current_task()))
            kept.append(made.connect())

        asyncio.run(after_some_without(endpoint))
        gc.collect()
        assert canaries[0]() is None
        assert told(made) == [("/late", "ended")]
        kept.pop().close()


@pytest.mark.parametrize("without", [1, 2, MEMORY + 1])
def test_counts(without):
    """Requests that took nothing count the same, be it one by one or all at once."""
    taken = Visit(0.0)
    taken.takes = taken.most = taken.most_elsewhere = 1
    slow, fast = RouteHabits(), RouteHabits()
    for habits in (slow, fast):
        habits.of("pool")
        habits.learn({})
    for _ in range(without):
        slow.learn({})
        fast.took_nothing()
    assert fast.of("pool") == slow.of("pool")
    for habits in (slow, fast):
        habits.learn({"pool": taken})
        habits.took_nothing()
    assert fast.of("pool") == slow.of("pool")
    assert fast.requests == slow.requests
