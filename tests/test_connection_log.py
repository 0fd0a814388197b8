"""The log of connections: who is named, with which line and which remedy, and how often.

Run by pytest. Each test has a log of its own, and requests as a server makes them.
"""

import asyncio
import logging
import sys
import threading
import time
from contextlib import ExitStack
from typing import Annotated

import anyio
import httpx
import pytest
import starlette.applications  # noqa: F401 - arms the patch, before SQLAlchemy is imported
from anyio import to_thread
from fastapi import Depends, FastAPI, WebSocket
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware

from child_tools import call, run_child
from fastapi_overflow._requests import checkouts
from fastapi_overflow._watching import connection_log, how_often
from fastapi_overflow._watching.connection_log import ConnectionLog
from pool_tools import PATIENCE, engine

LOG = "fastapi_overflow"
FILE = "test_connection_log.py"


@pytest.fixture(autouse=True)
def nobody_held_back():
    """Here they are: it is what these tests are about."""


@pytest.fixture(autouse=True)
def log(monkeypatch):
    """A log that has told nothing yet, and waits for less than in earnest."""
    log = ConnectionLog()
    monkeypatch.setattr(checkouts, "observer", log)
    monkeypatch.setattr(checkouts, "TELL_SECONDS", 0.05)
    return log


class Told(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def of(self, kind):
        return [record for record in self.records if getattr(record, "event", "") == kind]

    def wait_for(self, kind, number=1):
        """Return the records of a kind once there are so many."""
        until = time.monotonic() + PATIENCE
        while len(self.of(kind)) < number:
            assert time.monotonic() < until, f"no {kind} among {self.texts()}"
            time.sleep(0.005)
        return self.of(kind)

    def texts(self):
        return [record.getMessage() for record in self.records]

    def settled(self):
        """Return what was told once nothing more can be on its way."""
        assert connection_log.writer.flush(PATIENCE)
        return self.texts()


@pytest.fixture
def told():
    handler = Told()
    logger = logging.getLogger(LOG)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def made():
    made = engine(1, 1)
    yield made
    made.dispose()


def async_engine(folder, **options):
    """Return an async engine with one connection; before SQLAlchemy 2 it would have no pool."""
    options = {"poolclass": AsyncAdaptedQueuePool, "pool_size": 1, "max_overflow": 0, **options}
    return create_async_engine(f"sqlite+aiosqlite:///{folder}/db", **options)


def serve(app, *requests, after=0.0):
    """Make GET requests, each in a task of its own as by a server, one after another.

    :param after: seconds for which the loop goes on afterwards
    """

    async def main():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for request in requests:
                response = await client.get(request)
                assert response.status_code == 200, response.text
        await asyncio.sleep(after)

    asyncio.run(main())


def serve_only(endpoint):
    """Make a GET request to an app with this one endpoint."""
    app = FastAPI()
    app.get("/")(endpoint)
    serve(app, "/")


class TestLeak:
    def test_named(self, made, told):
        """A connection that is out a second after its request is named, with route and line."""
        app, kept = FastAPI(), []

        @app.get("/leak/{item}")
        def leak(item: int):
            kept.append(made.connect())

        serve(app, "/leak/1?secret=x", after=0.2)
        (record,) = told.wait_for("connection_leaked")
        message = record.getMessage()
        assert record.levelno == logging.WARNING
        assert message.startswith("A connection leaks: GET /leak/{item} has ended")
        assert "Close what has it" in message
        assert record.line.startswith(f"{FILE}:")
        assert record.line in message
        assert record.route == "GET /leak/{item}"
        assert record.pool == made.url.render_as_string()
        assert record.seconds > 0
        assert record.suppressed == 0
        assert "secret" not in message

    def test_back_after_all(self, made, told):
        """One that comes back after all is told of, when it does."""
        app, kept = FastAPI(), []

        @app.get("/leak")
        def leak():
            kept.append(made.connect())

        serve(app, "/leak", after=0.2)
        told.wait_for("connection_leaked")
        assert not told.of("connection_back")
        kept.pop().close()
        (record,) = told.wait_for("connection_back")
        assert record.levelno == logging.INFO
        assert "GET /leak" in record.getMessage()
        assert record.route == "GET /leak"
        assert record.line.startswith(f"{FILE}:")

    def test_back_in_time(self, made, told):
        """What a task of the request gives back soon after its end is no leak."""
        app, tasks = FastAPI(), set()

        async def close(connection):
            await asyncio.sleep(0)
            await asyncio.to_thread(connection.close)

        @app.get("/")
        async def endpoint():
            connection = await run_in_threadpool(made.connect)
            tasks.add(asyncio.create_task(close(connection)))

        serve(app, "/", after=0.2)
        assert told.settled() == []

    def test_of_an_async_engine(self, tmp_path, told):
        """So is one of an async engine."""
        made = async_engine(tmp_path)
        app, kept = FastAPI(), []

        @app.get("/leak")
        async def leak():
            kept.append(await made.connect())

        @app.get("/end")
        async def end():
            await kept.pop().close()
            await made.dispose()

        async def main():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                await client.get("/leak")
                await asyncio.to_thread(told.wait_for, "connection_leaked")
                await client.get("/end")

        asyncio.run(main())
        (record,) = told.of("connection_leaked")
        assert record.route == "GET /leak"
        assert record.line.startswith(f"{FILE}:")
        assert told.of("connection_back")

    def test_on_trio(self, made, told):
        """So it is on trio."""
        app, kept = FastAPI(), []

        @app.get("/leak")
        def leak():
            kept.append(made.connect())

        async def main():
            assert await call(app, "/leak") == [200]

        anyio.run(main, backend="trio")
        (record,) = told.wait_for("connection_leaked")
        assert record.route == "GET /leak"
        kept.pop().close()

    def test_one_a_minute(self, told, monkeypatch):
        """Of many leaks one is told in a minute; the next says how many were not."""
        app, kept, made = FastAPI(), [], engine(10, 0)

        @app.get("/leak")
        def leak():
            kept.append(made.pool.connect())

        serve(app, *["/leak"] * 4, after=0.2)
        assert len(told.wait_for("connection_leaked")) == 1
        told.settled()
        assert len(told.of("connection_leaked")) == 1
        monkeypatch.setattr(how_often, "SECONDS_BETWEEN", 0.0)
        serve(app, "/leak", after=0.2)
        record = told.wait_for("connection_leaked", 2)[1]
        assert record.suppressed == 3
        assert record.getMessage().endswith("3 before this one were not logged.")
        while kept:
            kept.pop().close()


class TestOnTheLoop:
    def test_async_endpoint(self, made, told):
        """An async endpoint that queries is told once, with the time the loop stood still."""
        app = FastAPI()

        @app.get("/report")
        async def report():
            with made.connect() as connection:
                connection.execute(text("select 1"))
                time.sleep(0.05)  # noqa: ASYNC251 - the query

        serve(app, "/report", "/report", "/report")
        told.settled()
        (record,) = told.wait_for("on_the_loop")
        message = record.getMessage()
        assert message.startswith("GET /report queries on the event loop")
        assert "Make the endpoint and what it depends on `def`" in message
        assert record.line.startswith(f"{FILE}:")
        assert record.line in message
        assert record.seconds >= 0.05
        assert record.route == "GET /report"
        assert record.pool == made.url.render_as_string()
        assert record.suppressed == 0

    def test_websocket(self, made, told):
        """A WebSocket can't be made `def`: another remedy is named."""
        app = FastAPI()

        @app.websocket("/ws")
        async def endpoint(websocket: WebSocket):
            await websocket.accept()
            with made.connect():
                pass

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            pass

        scope = {"type": "websocket", "path": "/ws", "headers": [], "query_string": b""}
        asyncio.run(app(scope, receive, send))
        (record,) = told.wait_for("on_the_loop")
        assert record.getMessage().startswith("WEBSOCKET /ws queries")
        assert "run_in_threadpool" in record.getMessage()

    def test_sync_endpoint(self, made, told):
        """Where an async dependency queries for a sync endpoint, the line is what to change."""
        app = FastAPI()

        async def get_db():
            with made.connect() as connection:
                yield connection

        @app.get("/")
        def endpoint(db: Annotated[object, Depends(get_db)]):
            pass

        serve(app, "/")
        (record,) = told.wait_for("on_the_loop")
        assert "Make the code at that line `def`" in record.getMessage()

    def test_in_threads(self, made, told):
        """What runs in threads is nobody's business."""
        app = FastAPI()

        @app.get("/sync")
        def sync():
            made.connect().close()

        @app.get("/to_thread")
        async def in_threads():
            (await asyncio.to_thread(made.connect)).close()
            (await run_in_threadpool(made.connect)).close()

        serve(app, "/sync", "/to_thread")
        assert told.settled() == []

    def test_before_any_route(self, made, told):
        """What is taken before a route is known, by a health check say, isn't told."""

        async def health(request, call_next):
            with made.connect():
                pass
            return await call_next(request)

        app = FastAPI()
        app.add_middleware(BaseHTTPMiddleware, dispatch=health)
        app.get("/")(lambda: None)
        serve(app, "/")
        assert told.settled() == []

    def test_seen(self, made, told, log):
        """advise() can say the same later."""
        app = FastAPI()

        @app.get("/report")
        async def report():
            made.connect().close()

        serve(app, "/report")
        told.settled()
        (seen,) = log.seen()
        assert seen.startswith("GET /report queries on the event loop")


class TestNested:
    def test_two_lines(self, made, told):
        """A route that takes two at once is told once: both lines, and the pool it needs."""
        app = FastAPI()

        @app.get("/nested")
        def nested():
            first = made.connect()
            with first, made.connect():
                pass

        serve(app, "/nested", "/nested")
        told.settled()
        (record,) = told.wait_for("nested")
        message = record.getMessage()
        assert message.startswith("GET /nested takes 2 connections")
        first, second = record.lines
        assert first != second
        assert f"at {first} and {second}" in message
        assert (record.most, record.needed, record.capacity) == (2, 41, 2)
        assert "needs a pool of 41" in message
        assert "Use one session for both" in message

    def test_limit_in_force(self, made, told):
        """The pool that it needs is by the limit in force, also where that was changed."""
        app = FastAPI()

        @app.get("/nested")
        async def nested():
            to_thread.current_default_thread_limiter().total_tokens = 7

            def both():
                with made.connect(), made.connect():
                    pass

            await run_in_threadpool(both)

        serve(app, "/nested")
        (record,) = told.wait_for("nested")
        assert record.needed == 8

    def test_request_that_ends_meanwhile(self, made, told, monkeypatch):
        """A request that ends while one of its threads takes a second one is no fault."""
        place_of = checkouts.place_of

        def ends(reached):
            for taken in made.pool.__dict__["_fastapi_overflow_ledger"].out.values():
                taken[0].holder.owner = None  # it is the task's again
            return place_of(reached)

        def nested():
            with made.connect():
                monkeypatch.setattr(checkouts, "place_of", ends)
                with made.connect():
                    monkeypatch.setattr(checkouts, "place_of", place_of)

        monkeypatch.setattr(checkouts, "_has_failed", False)
        serve_only(nested)
        told.settled()
        assert [record.most for record in told.records] == [2]

    def test_large_enough(self, told):
        """A pool that is large enough for that is nobody's business."""
        made = engine(41, 0)

        def nested():
            with made.connect(), made.connect():
                pass

        serve_only(nested)
        assert told.settled() == []

    def test_two_pools(self, made, told):
        """One of each of two pools is no second one."""
        other = engine(1, 0)

        def endpoint():
            with made.connect(), other.connect():
                pass

        serve_only(endpoint)
        assert told.settled() == []

    def test_one_after_the_other(self, made, told):
        """Nor are two, one after the other."""

        def endpoint():
            made.connect().close()
            made.connect().close()

        serve_only(endpoint)
        assert told.settled() == []


@pytest.fixture
def short(monkeypatch):
    """Somebody who waits is told of soon."""
    from fastapi_overflow._connections import checkout, door

    monkeypatch.setattr(checkout, "TELL_SECONDS", 0.05)
    monkeypatch.setattr(door, "TELL_SECONDS", 0.05)


async def _connect(made):
    return await made.connect()


def exhausted(app, path, made, told):
    """Have a request of that route keep all connections, and a thread wait for one more."""

    async def main():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            request = asyncio.create_task(client.get(path))
            while made.pool.checkedout() < 2:  # noqa: ASYNC110 - of threads
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.1)  # what it does for long counts
            waiting = threading.Thread(target=lambda: made.connect().close(), daemon=True)
            waiting.start()
            await asyncio.to_thread(told.wait_for, "connections_exhausted")
            app.state.go_on.set()
            await request
            await asyncio.to_thread(waiting.join, PATIENCE)

    asyncio.run(main())
    return told.of("connections_exhausted")


@pytest.mark.usefixtures("short")
class TestExhausted:
    def test_idle(self, made, told):
        """Who keeps them idle is named by route and line, and how to give them back."""
        app = FastAPI()
        app.state.go_on = asyncio.Event()

        @app.get("/stream/{n}")
        async def stream(n: int):
            def take():
                return made.connect()

            with await run_in_threadpool(take), await run_in_threadpool(take):
                await app.state.go_on.wait()

        (record,) = exhausted(app, "/stream/1", made, told)
        message = record.getMessage()
        assert message.startswith("Connections are short")
        assert "2 of 2 are out, 2 idle: 2 with GET /stream/{n}" in message
        assert 'scope="function"' in message
        assert record.levelno == logging.WARNING
        assert (record.out, record.idle, record.leaked, record.capacity) == (2, 2, 0, 2)
        assert record.waiting == 1
        (group,) = record.holders
        assert group["route"] == "GET /stream/{n}"
        assert group["line"] in message
        assert group["longest"] > 0

    def test_busy(self, made, told):
        """Where all are at work a larger pool is the remedy."""
        app = FastAPI()
        app.state.go_on = threading.Event()

        @app.get("/busy")
        def busy():
            with made.connect(), made.connect():
                app.state.go_on.wait(PATIENCE)

        (record,) = exhausted(app, "/busy", made, told)
        assert (record.out, record.idle) == (2, 0)
        assert "a larger pool would help" in record.getMessage()

    def test_outside(self, made, told):
        """Where code outside of any request has them, it says so."""
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(made.connect())
            waiting = threading.Thread(target=lambda: made.connect().close(), daemon=True)
            waiting.start()
            (record,) = told.wait_for("connections_exhausted")
        waiting.join(PATIENCE)
        assert "Code outside of any request has them" in record.getMessage()
        assert sum(group["connections"] for group in record.holders) == 2

    def test_async_engine(self, tmp_path, told):
        """So it is for async engines."""
        made = async_engine(tmp_path)

        async def main():
            async with made.connect():
                waiting = asyncio.create_task(_connect(made))
                await asyncio.to_thread(told.wait_for, "connections_exhausted")
            await (await waiting).close()
            await made.dispose()

        asyncio.run(main())
        (record,) = told.of("connections_exhausted")
        assert (record.capacity, record.out) == (1, 1)

    def test_handler_that_takes_one(self, made, told):
        """A handler that takes a connection itself keeps nobody waiting who tells it."""
        done = threading.Event()

        class Database(logging.Handler):
            def emit(self, record):
                with made.connect() as connection:
                    connection.execute(text("select 1"))
                done.set()

        handler = Database()
        logging.getLogger(LOG).addHandler(handler)
        try:
            with ExitStack() as stack:
                for _ in range(2):
                    stack.enter_context(made.connect())
                waiting = threading.Thread(target=lambda: made.connect().close(), daemon=True)
                waiting.start()
                told.wait_for("connections_exhausted")
            waiting.join(PATIENCE)
            assert not waiting.is_alive()
            assert done.wait(PATIENCE)
        finally:
            logging.getLogger(LOG).removeHandler(handler)

    def test_handler_that_blocks(self, made, told):
        """Nor does one that blocks."""
        unblock = threading.Event()

        class Blocks(logging.Handler):
            def emit(self, record):
                unblock.wait(PATIENCE)

        handler = Blocks()
        logging.getLogger(LOG).addHandler(handler)
        try:
            with ExitStack() as stack:
                for _ in range(2):
                    stack.enter_context(made.connect())
                waiting = threading.Thread(target=lambda: made.connect().close(), daemon=True)
                waiting.start()
                told.wait_for("connections_exhausted")
            waiting.join(PATIENCE)
            assert not waiting.is_alive()
        finally:
            unblock.set()
            logging.getLogger(LOG).removeHandler(handler)

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes since then")
    def test_note_of_an_async_engine(self, tmp_path):
        """The TimeoutError of an async engine has a note too that says who has them."""
        made = async_engine(tmp_path, pool_timeout=0.1)

        async def main():
            async with made.connect():
                with pytest.raises(exc.TimeoutError) as caught:
                    await made.connect()
            await made.dispose()
            return caught.value.__notes__

        (note,) = asyncio.run(main())
        assert f"Of 1, code outside of any request has 1 ({FILE}:" in note


class TestFaults:
    @pytest.mark.parametrize("place", ["_tell", "line_of", "HowOften.may_tell"])
    def test_fault_of_ours(self, made, told, monkeypatch, place):
        """A fault of ours is told once, and the requests are answered."""

        def fail(*args, **kwargs):
            raise RuntimeError("ours")

        name, _, attribute = place.partition(".")
        if attribute:
            monkeypatch.setattr(getattr(how_often, name), attribute, fail)
        else:
            monkeypatch.setattr(connection_log, name, fail)
        monkeypatch.setattr(checkouts, "_has_failed", False)
        app = FastAPI()

        @app.get("/report")
        async def report():
            with made.connect(), made.connect():
                pass

        serve(app, *["/report"] * 3)
        (message,) = told.texts()
        assert "RuntimeError('ours')" in message

    def test_handler_that_raises(self, made, told):
        """A handler that raises is no reason for a request to fail."""

        class Raises(logging.Handler):
            def emit(self, record):
                raise RuntimeError("theirs")

        handler = Raises()
        logging.getLogger(LOG).addHandler(handler)
        app = FastAPI()

        @app.get("/report")
        async def report():
            made.connect().close()

        try:
            serve(app, "/report", "/report")
            told.settled()
        finally:
            logging.getLogger(LOG).removeHandler(handler)


BEHAVES = """
import asyncio, json
from contextlib import asynccontextmanager
from child_tools import call, told
records = told()
import fastapi, sqlalchemy
from pool_tools import engine
from sqlalchemy import text
from sqlalchemy.orm import Session
made = engine(5, 10)
with Session(made) as session:  # as Alembic does
    session.execute(text("create table x (y int)"))
    session.commit()
@asynccontextmanager
async def lifespan(app):
    with Session(made) as session, made.connect():
        session.execute(text("select 1"))
        yield
    made.connect().close()
app = fastapi.FastAPI(lifespan=lifespan)
@app.get("/")
def endpoint():
    with Session(made) as session:
        session.execute(text("select 1"))
async def main():
    async with lifespan(app):
        for _ in range(20):
            await asyncio.gather(*[asyncio.create_task(call(app, "/")) for _ in range(40)])
    await asyncio.sleep(1.2)
asyncio.run(main())
print(json.dumps([r.getMessage() for r in records if "protects" not in r.getMessage()]))
"""


class TestSilence:
    def test_app_that_behaves(self):
        """An app that behaves is told nothing of: start-up, shutdown and scripts included."""
        assert run_child(BEHAVES) == []
