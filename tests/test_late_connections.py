"""Requests that take a connection on the event loop late: they wait for it at a hop of theirs.

By then they hold nothing, and on the loop nobody can wait. Each in a process of its own, with a
pool of one, which another request keeps.
"""

from __future__ import annotations

import sys

import pytest

from child_tools import run_child
from fastapi_overflow._connections.habits import Habit
from fastapi_overflow._connections.visit import Visit

APP = """
import asyncio, json, sys
import anyio, fastapi, sqlalchemy
import fastapi_overflow
from starlette.concurrency import run_in_threadpool
from child_tools import call
from pool_tools import check, engine
made = engine(1, 0)
app = fastapi.FastAPI()
kept, begun, opened, closed = [], [], [], []
@app.get("/kept")
async def keep():
    with made.connect():
        begun.append("kept")
        if kept:
            await kept[0].wait()
@app.get("/late")
async def late():
    begun.append("late")
    await anyio.sleep(0.2)  # of this it needs a connection for next to nothing
    await run_in_threadpool(opened.append, None)
    try:
        await asyncio.sleep(0)
        made.connect().close()
    finally:
        closed.append(None)
@app.get("/within")
async def within():
    begun.append("within")
    await anyio.sleep(0.2)
    def hop():
        opened.append(None)
        anyio.from_thread.run(query)
    async def query():
        made.connect().close()
    await run_in_threadpool(hop)
async def until(condition):
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.001)
async def learn():
    made.connect().close()  # the first one takes long to make
    for _ in range(5):
        await call(app, "/late")
        await call(app, "/within")
    begun.clear(), opened.clear(), closed.clear()
    kept.append(anyio.Event())
def waits():
    return fastapi_overflow.stats().requests_held_back == 1
"""

FIRST_BURST = """
@app.get("/slow")
async def slow():
    begun.append("slow")
    await anyio.sleep(0.5)  # longer than the others wait for the first one
    await run_in_threadpool(opened.append, None)
    made.connect().close()
async def learn():
    made.connect().close()
    await asyncio.gather(*(asyncio.create_task(call(app, "/slow")) for _ in range(3)))
    begun.clear(), opened.clear()
    kept.append(anyio.Event())
"""

SERVED = """
async def main():
    await learn()
    statuses = []
    async def request():
        statuses.extend(await call(app, sys.argv[1]))
    async with anyio.create_task_group() as group:
        group.start_soon(call, app, "/kept")
        await until(lambda: begun)
        group.start_soon(request)
        await until(waits)
        before = [*begun, len(opened), *statuses]
        kept[0].set()
    check(made)
    print(json.dumps([before, statuses]))
anyio.run(main)
"""

CANCELLED = """
async def main():
    await learn()
    async with anyio.create_task_group() as group:
        group.start_soon(call, app, "/kept")
        await until(lambda: begun)
        how = None
        if sys.argv[1] == "task":
            task = asyncio.create_task(call(app, "/late"))
            await until(waits)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                how = "cancelled"
        elif sys.argv[1] == "timeout":
            try:
                await asyncio.wait_for(call(app, "/late"), 0.6)
            except asyncio.TimeoutError:
                how = "cancelled"
        else:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(call, app, "/late")
                    await until(waits)
                    scope.cancel()
            how = "cancelled" if scope.cancelled_caught else None
        task = asyncio.current_task()
        left = task.cancelling() if hasattr(task, "cancelling") else 0
        done = [how, len(opened), len(closed), left, fastapi_overflow.stats().requests_held_back]
        kept[0].set()
    check(made)
    print(json.dumps(done))
anyio.run(main)
"""


class TestAfterAHop:
    def test_waits(self):
        """It begins, makes its hop, and waits then, instead of failing on the loop."""
        assert run_child(APP + SERVED, "/late") == [["kept", "late", 1], [200]]

    def test_of_its_first_burst(self):
        """It is known where they take it though all have begun before the first one ended."""
        assert run_child(APP + FIRST_BURST + SERVED, "/slow") == [["kept", "slow", 1], [200]]

    def test_is_not_turned_away(self):
        """FASTAPI_OVERFLOW_MAX_WAIT is for requests that have done nothing yet."""
        env = {"FASTAPI_OVERFLOW_MAX_WAIT": "0.001"}
        assert run_child(APP + SERVED, "/late", env=env) == [["kept", "late", 1], [200]]

    @pytest.mark.parametrize("how", ["task", "scope", "timeout"])
    def test_cancelled(self, how):
        """Cancelled there, it gets what its hop has returned, and is cancelled right after that."""
        assert run_child(APP + CANCELLED, how) == ["cancelled", 1, 1, 0, 0]


MANY_HOPS = """
from fastapi_overflow._requests import held_back
held_back.LATE_SECONDS = 0.05
waited = []
original = held_back._wait_late
def counting(*args):
    waited.append(None)
    return original(*args)
held_back._wait_late = counting
@app.get("/many")
async def many(takes: bool = True):
    await anyio.sleep(0.2)
    for _ in range(1 if takes else 5):
        await run_in_threadpool(opened.append, None)
    if takes:
        made.connect().close()
async def main():
    await learn()
    for _ in range(5):
        await call(app, "/many")
    waited.clear(), opened.clear()
    statuses = []
    async def request():
        statuses.extend(await call(app, "/many", {"query_string": b"takes=0"}))
    async with anyio.create_task_group() as group:
        group.start_soon(call, app, "/kept")
        await until(lambda: begun)
        group.start_soon(request)
        await until(lambda: statuses)
        kept[0].set()
    check(made)
    print(json.dumps([len(waited), len(opened), statuses]))
anyio.run(main)
"""

NEVER_TAKES = """
from fastapi_overflow._requests import held_back
from fastapi_overflow._connections import promises
held_back.LATE_SECONDS = 0.5
promises.PATIENCE = 0
@app.get("/many")
async def many(hops: int, takes: bool = True):
    await anyio.sleep(0.2)
    for _ in range(hops):
        if not takes:
            await anyio.sleep(0.3)  # what was set aside is given up by then
            asked.append(None)
            await anyio.sleep(0.02)
        await run_in_threadpool(int)
    if takes:
        made.connect().close()
async def keep():
    with made.connect():
        await anyio.sleep(0.2)
asked = []
async def main():
    await learn()
    async def request(query):
        await call(app, "/many", {"query_string": query})
    for hops in sys.argv[1:]:
        for _ in range(5):
            await request(b"hops=" + hops.encode())
    seconds, ended = [], []
    async def watch():
        while not ended:
            if asked:
                asked.clear()
                group.start_soon(keep)
            if waits():
                since = anyio.current_time()
                await until(lambda: not waits())
                seconds.append(anyio.current_time() - since)
            await anyio.sleep(0)
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await asyncio.create_task(request(b"hops=8&takes=0"))
        ended.append(None)
    check(made)
    print(json.dumps([len(seconds), sum(seconds)]))
anyio.run(main)
"""

TIMEOUT = """
from fastapi_overflow._requests import held_back
held_back.LATE_SECONDS = 60
@app.get("/bounded")
async def bounded(seconds: float = 30):
    await anyio.sleep(0.2)
    timeout = {"asyncio": asyncio.timeout, "anyio": anyio.move_on_after}[sys.argv[1]]
    with_timeout = timeout(seconds)
    if sys.argv[1] == "asyncio":
        async with with_timeout:
            await run_in_threadpool(opened.append, None)
    else:
        with with_timeout:
            await run_in_threadpool(opened.append, None)
    if seconds < 30:
        await anyio.sleep(0.01)
        return
    made.connect().close()
async def main():
    await learn()
    for _ in range(5):
        await call(app, "/bounded")
    opened.clear()
    statuses = []
    async def request():
        statuses.extend(await call(app, "/bounded", {"query_string": b"seconds=0.5"}))
    async with anyio.create_task_group() as group:
        group.start_soon(call, app, "/kept")
        await until(lambda: begun)
        group.start_soon(request)
        await until(waits)
        await until(lambda: statuses)
        kept[0].set()
    check(made)
    print(json.dumps([len(opened), statuses]))
anyio.run(main)
"""


class TestInVain:
    def test_many_hops(self):
        """A request that takes none after all waits at one hop of its five, not at each."""
        assert run_child(APP + MANY_HOPS) == [1, 5, [200]]

    def test_though_let_in(self):
        """What it waits for at its hops, and doesn't take, is half a second here in all."""
        number, seconds = run_child(APP + NEVER_TAKES, "1", "20")
        assert number >= 2
        assert seconds < 0.9

    def test_more_hops_than_its_kind(self):
        """One that has made more than its kind before it takes one, as a stream, waits no more."""
        number, seconds = run_child(APP + NEVER_TAKES, "1")
        assert number <= 1
        assert seconds < 0.4

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is of Python 3.11")
    @pytest.mark.parametrize("kind", ["asyncio", "anyio"])
    def test_timeout_ends_with_the_hop(self, kind):
        """Where a timeout of the app's ends the wait, the request goes on behind its block."""
        assert run_child(APP + TIMEOUT, kind) == [1, [200]]


class TestBeforeAHop:
    def test_waits(self):
        """It waits before a hop that goes back to the loop, and takes one there."""
        assert run_child(APP + SERVED, "/within") == [["kept", "within", 0], [200]]


NOT_IN_USE = """
async def main():
    await learn()
    held_back = []
    async def watch():
        while True:
            held_back.append(fastapi_overflow.stats().requests_held_back)
            await asyncio.sleep(0)
    task = asyncio.create_task(watch())
    statuses = await asyncio.gather(*(asyncio.create_task(call(app, "/late")) for _ in range(40)))
    task.cancel()
    print(json.dumps([statuses == [[200]] * 40, max(held_back)]))
anyio.run(main)
"""


class TestNotInUse:
    def test_does_not_wait(self):
        """Where nobody keeps one for longer than a turn of the loop, one is free when it comes."""
        assert run_child(APP + NOT_IN_USE) == [True, 0]


def learned(*visits):
    """Return the habit of a route whose requests have done this, each for 0.01 s.

    :param visits: of each the connections taken, and where it has taken one late
    """
    habit = Habit()
    for takes, *late in visits:
        visit = Visit(0.0)
        visit.takes = takes
        visit.most = visit.most_elsewhere = 1
        visit.kept = 0.01
        visit.late = tuple(late)
        habit.learn(visit)
    return habit


class TestHabit:
    """What is set aside for a request after a hop, by what its kind has done."""

    def test_where_its_kind_takes_one(self):
        """One, where it has made as many hops as its kind before, and taken as many."""
        habit = learned(*[(2, (1, 3, False, 0.001))] * 20)
        points = [(t, h, within) for t in range(3) for h in (2, 3, 4) for within in (False, True)]
        assert [at for at in points if habit.late_claim(*at, 0.0)] == [(1, 3, False)]

    def test_after_one_hop_or_several(self):
        """One, from the least hops that its kind had made to the most."""
        habit = learned(*[(1, (0, hops, False, 0.001)) for hops in (2, 4, 3)] * 10)
        assert [habit.late_claim(0, hops, False, 0.0) for hops in range(6)] == [0, 0, 1, 1, 1, 0]

    def test_long_after_its_hop(self):
        """Nothing, where its kind does other things for longer than it keeps the connection."""
        habit = learned(*[(1, (0, 1, False, 0.5))] * 20)
        assert habit.late_claim(0, 1, False, 0.0) == 0
        habit.press(0.0)
        assert habit.late_claim(0, 1, False, 1.0) == 1

    def test_seldom(self):
        """Nothing, where but few of its kind take one there."""
        habit = learned(*[(1, (0, 1, False, 0.001)), *[(1,)] * 3] * 10)
        assert habit.late_claim(0, 1, False, 0.0) == 0
