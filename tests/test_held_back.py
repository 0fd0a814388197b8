"""Requests that wait for a connection before they begin: what is seen of them, and what ends it."""

from __future__ import annotations

import json
import re
import sys

import pytest

from child_tools import run_child

APP = """
import json, sys
import anyio, fastapi, sqlalchemy
import fastapi_overflow
from child_tools import call
from pool_tools import engine
made = engine(1, 0)
app = fastapi.FastAPI()
kept, begun = [], []
@app.get("/kept")
async def keep():
    with made.connect():
        begun.append(None)
        if kept:
            await kept[0].wait()
async def until(condition):
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.001)
"""

HELD_BACK = """
async def main():
    await call(app, "/kept")
    kept.append(anyio.Event())
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(call, app, "/kept")
        await until(lambda: fastapi_overflow.stats().requests_held_back == 2)
        print(json.dumps(len(begun)))
        kept[0].set()
    assert fastapi_overflow.stats().requests_held_back == 0
anyio.run(main)
"""

TURNED_AWAY = """
async def main():
    await call(app, "/kept")
    kept.append(anyio.Event())
    statuses = []
    async def one():
        statuses.extend(await call(app, "/kept"))
        if len(statuses) == 2:
            kept[0].set()
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)
    print(json.dumps([sorted(statuses), fastapi_overflow.stats().refused]))
anyio.run(main)
"""

MANY_TURNED_AWAY = """
async def main():
    await call(app, "/kept")
    kept.append(anyio.Event())
    statuses = []
    async def one():
        statuses.extend(await call(app, "/kept"))
        if len(statuses) == 39:
            kept[0].set()
    async with anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(one)
            await anyio.sleep(0.01)
    print(json.dumps([statuses.count(200), statuses.count(503)]))
anyio.run(main)
"""

MANY_CANCELLED = """
async def main():
    await call(app, "/kept")
    kept.append(anyio.Event())
    statuses = []
    async def one(seconds=None):
        with anyio.move_on_after(seconds):
            statuses.extend(await call(app, "/kept"))
    def held_back(number):
        return until(lambda: fastapi_overflow.stats().requests_held_back == number)
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(one)
        await held_back(1)
        for _ in range(20):
            group.start_soon(one, 0.2)
        await held_back(21)
        await held_back(1)
        await anyio.sleep(0.2)  # a few looks
        kept[0].set()
    print(json.dumps(statuses))
anyio.run(main)
"""

COLD_CANCELLED = """
@app.get("/none")
async def none():
    pass
async def main(first_waits, number):
    kept.append(anyio.Event())
    made.connect().close()  # from here on requests may have to wait
    await call(app, "/none")
    outcome = []
    async def one(n):
        try:
            with anyio.move_on_after(0.15 if n == number else None):
                outcome.extend(await call(app, "/kept"))
        except Exception as exc:
            outcome.append(type(exc).__name__)
    async with anyio.create_task_group() as group:
        connection = made.connect() if first_waits else None
        for n in range(6):
            group.start_soon(one, n)
        await anyio.sleep(0.2)
        if connection is not None:
            connection.close()
        kept[0].set()
    print(json.dumps(outcome))
anyio.run(main, *json.loads(sys.argv[1]))
"""

COLD_LOOPS = """
import asyncio, threading, time
made = engine(5, 0)
go_on, is_begun = threading.Event(), threading.Event()
@app.get("/thread/{n}")
def thread(n: int):
    with made.connect():
        if not n:
            is_begun.set()
            go_on.wait(60)
made.connect().close()
first = threading.Thread(target=lambda: asyncio.run(call(app, "/thread/0")))
first.start()
is_begun.wait(60)
async def impatient():
    with anyio.move_on_after(0.2):
        await call(app, "/thread/1")
asyncio.run(impatient())
seconds = []
for _ in range(4):
    since = time.monotonic()
    asyncio.run(call(app, "/thread/1"))
    seconds.append(time.monotonic() - since)
go_on.set()
first.join()
print(json.dumps(sum(each > 0.5 for each in seconds)))
"""

CANCELLED = """
async def main():
    await call(app, "/kept")
    kept.append(anyio.Event())
    async with anyio.create_task_group() as group:
        group.start_soon(call, app, "/kept")
        await until(lambda: len(begun) == 2)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(call, app, "/kept")
                await until(lambda: fastapi_overflow.stats().requests_held_back == 1)
                scope.cancel()
        kept[0].set()
    print(json.dumps([await call(app, "/kept"), fastapi_overflow.stats().requests_held_back]))
anyio.run(main)
"""

LAZY = """
import json
import anyio, fastapi
from child_tools import call
app = fastapi.FastAPI()
@app.get("/")
def first():
    from pool_tools import engine
    with engine().connect():
        pass
async def main():
    print(json.dumps([await call(app, "/"), await call(app, "/")]))
anyio.run(main)
"""

UNKNOWN = """
import threading
go_on = threading.Event()
made = engine(3, 0)
@app.get("/long/{number}")
def long():
    with made.connect():
        begun.append(None)
        go_on.wait(600)
@app.get("/short")
def short():
    with made.connect():
        pass
async def main():
    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(call, app, f"/long/{number}")
        await until(lambda: len(begun) == 2)
        print(json.dumps(await call(app, "/short")))
        go_on.set()
anyio.run(main)
"""

KEEPING = """
from starlette.concurrency import run_in_threadpool
@app.middleware("http")
async def keep(request, call_next):
    connection = await run_in_threadpool(made.connect)
    try:
        return await call_next(request)
    finally:
        await run_in_threadpool(connection.close)
"""

KEPT_AROUND = """
made = engine(2, 3)
@app.get("/thread")
def in_thread():
    made.connect().close()
@app.get("/loop")
async def on_the_loop():
    with made.connect():
        await anyio.sleep(0.001)
async def main():
    statuses = []
    async def one(path):
        statuses.extend(await call(app, path))
    async with anyio.create_task_group() as group:
        for path in ["/thread", *["/loop", "/thread"] * 20]:
            group.start_soon(one, path)
    print(json.dumps([len(statuses), sorted(set(statuses))]))
anyio.run(main)
"""

KEPT_FOR_LONG = """
import asyncio, time
made = engine(2, 0)
@app.get("/long")
async def long():
    begun.append(None)
    await kept[0].wait()
@app.get("/short")
def short():
    pass
async def main():
    await asyncio.create_task(call(app, "/short"))
    kept.append(anyio.Event())
    async with anyio.create_task_group() as group:
        group.start_soon(call, app, "/long")
        await until(lambda: begun)
        seconds = []
        for _ in range(5):
            since = time.monotonic()
            await asyncio.create_task(call(app, "/short"))
            seconds.append(time.monotonic() - since)
        kept[0].set()
    print(json.dumps(sum(each > 0.9 for each in seconds)))
anyio.run(main)
"""

FAULT = """
import logging
from fastapi_overflow._requests import connections
told = []
class Handler(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())
logging.getLogger("fastapi_overflow").addHandler(Handler(logging.WARNING))
def fail(*args):
    raise RuntimeError("ours")
connections.wait_to_begin = fail
async def main():
    print(json.dumps([await call(app, "/kept"), await call(app, "/kept"), told]))
anyio.run(main)
"""

LISTEN = """
import logging
from fastapi_overflow._connections.turns import Turns
from fastapi_overflow._requests import connections, looks
told = []
class Handler(logging.Handler):
    def emit(self, record):
        if "ours" in record.getMessage():
            told.append(record.getMessage())
logging.getLogger("fastapi_overflow").addHandler(Handler(logging.WARNING))
"""

NO_LOOKS = """
def fail(*args):
    raise RuntimeError("ours")
async def main():
    looks._look_later = fail
    await call(app, "/kept")
    kept.append(anyio.Event())
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(call, app, "/kept")
        await until(lambda: fastapi_overflow.stats().requests_held_back == 2)
        kept[0].set()
    (ledger,) = connections.governor.ledgers()
    print(json.dumps([len(begun), len(ledger.entries.waiting), told]))
anyio.run(main)
"""

A_LOOK_FAILS = """
original, failed = Turns.look, []
def look(self, now):
    if not failed:
        failed.append(None)
        raise RuntimeError("ours")
    original(self, now)
@app.get("/maybe")
async def maybe(without: bool = False):
    if without:
        begun.append(None)
        await kept[0].wait()
    else:
        made.connect().close()
async def main():
    for _ in range(3):
        await call(app, "/maybe")
    kept.append(anyio.Event())
    Turns.look = look
    statuses = []
    async def second():
        statuses.extend(await call(app, "/maybe"))
    async with anyio.create_task_group() as group:
        group.start_soon(call, app, "/maybe", {"query_string": b"without=1"})
        await until(lambda: begun)
        group.start_soon(second)
        await until(lambda: statuses)
        kept[0].set()
    print(json.dumps([statuses, len(failed), told]))
anyio.run(main)
"""

NOTE = """
@app.get("/twice")
async def twice():
    with made.connect():
        made.connect()
async def main():
    try:
        await call(app, "/twice")
    except sqlalchemy.exc.TimeoutError as exc:
        print(json.dumps(exc.__notes__))
anyio.run(main)
"""


class TestHeldBack:
    def test_counted(self):
        """Of three requests that keep the only connection one begins; stats() counts the others."""
        assert run_child(APP + HELD_BACK) == 2  # with the one before

    def test_turned_away(self):
        """FASTAPI_OVERFLOW_MAX_WAIT is for them too: they hold nothing, and wait."""
        env = {"FASTAPI_OVERFLOW_MAX_WAIT": "0.2"}
        assert run_child(APP + TURNED_AWAY, env=env) == [[200, 503, 503], 2]

    def test_many_turned_away(self):
        """What is answered 503 before it begins is none that needs no connection: the others wait
        as before, though on the event loop they couldn't.
        """
        env = {"FASTAPI_OVERFLOW_MAX_WAIT": "0.2"}
        assert run_child(APP + MANY_TURNED_AWAY, env=env) == [1, 39]

    def test_many_cancelled(self):
        """Nor is what is cancelled before it begins."""
        assert run_child(APP + MANY_CANCELLED) == [200, 200]

    @pytest.mark.parametrize("number", [0, 3])
    @pytest.mark.parametrize("first_waits", [False, True])
    def test_cold_cancelled(self, first_waits, number):
        """One of a route's first requests is cancelled before it begins, or at its work: the others
        are held back as before.
        """
        outcome = run_child(APP + COLD_CANCELLED, json.dumps([first_waits, number]))
        assert outcome == [200] * 5

    def test_several_loops(self):
        """The loop that looks at a route's first request ends: those of others do."""
        assert run_child(APP + COLD_LOOPS) <= 1

    def test_cancelled(self):
        """One that is cancelled while it waits leaves nothing behind."""
        assert run_child(APP + CANCELLED) == [[200], 0]

    def test_routes_of_which_none_has_ended(self):
        """A connection that is free isn't kept for requests that go on and on: they may take no
        further one.
        """
        assert run_child(APP + UNKNOWN) == [200]

    def test_middleware_that_keeps_one(self):
        """The first burst of an app goes to routes that take one more each, on the event loop too,
        and the first of all has shown less: none is lost.
        """
        assert run_child(APP + KEEPING + KEPT_AROUND) == [41, [200]]

    def test_middleware_keeps_one_for_long(self):
        """Beside a request that goes on and on only one of those that come one by one waits for
        more than there will be.
        """
        assert run_child(APP + KEEPING + KEPT_FOR_LONG) <= 1

    def test_sqlalchemy_comes_late(self):
        """A request that imports SQLAlchemy itself is answered, as is the next one."""
        assert run_child(LAZY) == [[200], [200]]

    def test_fault_of_ours(self):
        """What fails in here is told, once, and the requests are answered."""
        first, second, told = run_child(APP + FAULT)
        assert (first, second) == ([200], [200])
        (message,) = told
        assert "RuntimeError('ours')" in message

    def test_nobody_looks(self):
        """Where looks can't be arranged for, those that wait go on, and leave nothing behind."""
        begun, waiting, told = run_child(APP + LISTEN + NO_LOOKS)
        assert (begun, waiting) == (4, 0)
        assert len(told) == 1

    def test_a_look_fails(self):
        """After a look that has failed the others go on: what is set aside in vain is given up."""
        statuses, failed, told = run_child(APP + LISTEN + A_LOOK_FAILS)
        assert (statuses, failed) == ([200], 1)
        assert len(told) == 1


class TestNote:
    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes since then")
    def test_who_has_them(self):
        """The error on the loop names the route that asks, and those that have the connections."""
        (note,) = run_child(APP + NOTE)
        assert "GET /twice got no connection: on the event loop nobody can wait for it" in note
        assert re.search(r"Of 1, GET /twice has 1 \(.*:\d+\)\.$", note)
