# ruff: noqa: B008 - Depends is how FastAPI is told
"""What `advise()` says of an app's sessions: on the event loop, two at once, kept for long."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from typing import Annotated, Any, Optional

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from starlette.applications import Starlette
from starlette.routing import Route

from fastapi_overflow import advise
from fastapi_overflow._watching.connection_pools import ConnectionPool, connection_pools
from fastapi_overflow._watching.loop_advice import on_the_loop
from fastapi_overflow._watching.reading.dependencies import Dependencies
from fastapi_overflow._watching.routes import found_routes
from fastapi_overflow._watching.session_advice import (
    kept_by_streams,
    kept_by_websockets,
    nested,
)

engine = create_engine("sqlite:///one.db")
other_engine = create_engine("sqlite:///other.db")
SessionLocal = sessionmaker(engine)
OtherSession = sessionmaker(other_engine)
AsyncLocal = async_sessionmaker(create_async_engine("postgresql+psycopg://somewhere/x"))
scoped = scoped_session(SessionLocal)


def _named(value):
    """The same in each process that collects these tests: an object's address isn't."""
    return getattr(value, "__name__", type(value).__name__)


class Mine(Session):
    """A session as SQLModel's is: a class of its own."""


def get_db() -> Generator[Session, None, None]:
    with SessionLocal() as db:
        yield db


SessionDep = Annotated[Session, Depends(get_db)]


def get_plain():
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


async def get_async() -> AsyncIterator[AsyncSession]:
    async with AsyncLocal() as db:
        yield db


AsyncDep = Annotated[AsyncSession, Depends(get_async)]


async def get_async_plain():
    async with AsyncLocal() as db:
        yield db


def opened():
    """A session, by a function that says nothing of it."""
    return SessionLocal()


class Database:
    """Sessions of an object's, as apps have it that are configured late."""

    def __init__(self, maker: Any) -> None:
        self.maker = maker

    def session(self):
        with self.maker() as db:
            yield db

    def __call__(self):
        with self.maker() as db:
            yield db


def made_for(maker):
    def get():
        with maker() as db:
            yield db

    return get


def by_argument(maker):
    with maker() as db:
        yield db


def by_engine():
    with engine.connect() as connection:
        yield connection


def by_function():
    with opened() as db:
        yield db


def by_delegation():
    yield from get_plain()


async def by_async_generator():
    with Session(engine) as db:
        yield db


def by_class():
    db = Mine(bind=engine)
    yield db


def by_local_import():
    from sqlalchemy.orm import Session as Local

    with Local(engine) as db:
        yield db


def returns():
    return SessionLocal()


def as_connection() -> Iterator[Connection]:
    yield from ()


def as_string() -> Iterator[Optional[Session]]:  # noqa: UP045 - as older apps have it
    yield from ()


class Orders:
    """A service that keeps a session."""

    def __init__(self, db: Session = Depends(get_db)) -> None:
        self.db = db


def looked(app: Any, look: Callable[..., list[str]], *args: Any) -> list[str]:
    return look(found_routes(app), Dependencies(), *args)


def line_of(function: Any) -> int:
    """Return the line that has the `def`, below a decorator."""
    return function.__code__.co_firstlineno + 1


def on_loop_with(dependency: Any) -> list[str]:
    """Return what is said of an async endpoint that queries what a dependency gives it."""
    app = FastAPI()

    @app.get("/orders")
    async def orders(db=Depends(dependency)):
        return db.execute("select 1")

    return looked(app, on_the_loop)


class TestOnTheLoop:
    """An async function with a sync session."""

    def test_endpoint(self):
        """It is named with file and line, where the session comes from, and the remedy."""
        app = FastAPI()

        @app.get("/orders")
        async def orders(db: Session = Depends(get_db)):
            return db.execute("select 1")

        (text,) = looked(app, on_the_loop)
        assert text.startswith("GET /orders: ")
        assert f"orders (tests/test_session_advice.py:{line_of(orders)}) is async" in text
        place = f"get_db (tests/test_session_advice.py:{line_of(get_db) - 1})"
        assert f"gets the sync session of {place}" in text
        assert text.endswith("Make it `def`")

    @pytest.mark.parametrize("dependency", [get_db, as_connection, as_string, SessionLocal, scoped])
    def test_known_by_what_it_says(self, dependency):
        """A dependency whose annotation says so, or that makes sessions itself, gives one."""
        (text,) = on_loop_with(dependency)
        assert "gets the sync session of" in text

    @pytest.mark.parametrize(
        "dependency",
        [
            get_plain,
            by_engine,
            by_function,
            by_delegation,
            by_async_generator,
            by_class,
            by_local_import,
            returns,
            made_for(SessionLocal),
            partial(by_argument, SessionLocal),
            Database(SessionLocal).session,
            Database(SessionLocal),
            lambda: SessionLocal(),
        ],
        ids=_named,
    )
    def test_known_by_its_code(self, dependency):
        """One without an annotation is known by what it makes, which is a guess and said so."""
        found = on_loop_with(dependency)
        if getattr(dependency, "__name__", "") == "<lambda>":
            assert found == []  # a lambda's text is not read
        else:
            (text,) = found
            assert "gets what looks like a sync session, of" in text

    @pytest.mark.parametrize(
        "annotation", ["Annotated[Session, Depends(get_any)]", "Annotated[Mine, Depends(get_any)]"]
    )
    def test_known_by_the_parameter(self, annotation):
        """The annotation of the parameter is enough, were it a string."""

        async def orders(db):
            return db.execute("select 1")

        orders.__annotations__["db"] = annotation
        app = FastAPI()
        app.get("/orders")(orders)
        (text,) = looked(app, on_the_loop)
        assert "gets the sync session of get_any" in text

    def test_sqlmodel(self):
        """SQLModel's session is one."""
        sqlmodel = pytest.importorskip("sqlmodel")

        def get_session():
            with sqlmodel.Session(engine) as session:
                yield session

        (text,) = on_loop_with(get_session)
        assert "looks like a sync session" in text

    def test_dependency(self):
        """An async dependency is named once, however many routes it serves."""
        app = FastAPI()

        async def current_user(db=Depends(get_db)):
            return db.execute("select 1")

        @app.get("/a")
        def a(user=Depends(current_user)): ...

        @app.get("/b")
        async def b(user=Depends(current_user)): ...

        (text,) = looked(app, on_the_loop)
        assert "current_user (" in text
        assert "a dependency of GET /a and 1 other route, is async" in text

    def test_router_dependency(self):
        """So is one of a router's, which nobody gets anything of."""

        async def audit(db=Depends(get_db)):
            db.execute("select 1")

        router = APIRouter(dependencies=[Depends(audit)])

        @router.get("/a")
        def a(): ...

        app = FastAPI()
        app.include_router(router, prefix="/api")
        (text,) = looked(app, on_the_loop)
        assert "audit (" in text
        assert "GET /api/a" in text

    def test_service(self):
        """An object that keeps a session queries on the loop when an async endpoint calls it."""

        app = FastAPI()

        @app.get("/orders")
        async def orders(service: Orders = Depends()):
            return service.all()

        (text,) = looked(app, on_the_loop)
        assert "looks like an object with a sync session" in text

    def test_own_session(self):
        """An async endpoint that opens a session itself is named, in bare Starlette too."""

        async def orders(request):
            with SessionLocal() as db:
                return db.execute("select 1")

        (text,) = looked(Starlette(routes=[Route("/orders", orders)]), on_the_loop)
        assert "looks like it opens a sync session itself" in text

    def test_one_that_awaits(self):
        """One that awaits something can't just be made `def`, and is told what else helps."""
        app = FastAPI()

        @app.get("/orders")
        async def orders(db=Depends(get_db)):
            await asyncio.sleep(0)
            return db.execute("select 1")

        (text,) = looked(app, on_the_loop)
        assert "run_in_threadpool" in text

    def test_without_a_text(self):
        """An app that came without its source is read by its names."""
        names = {"SessionLocal": SessionLocal, "Depends": Depends}
        code = (
            "def get_db():\n    with SessionLocal() as db:\n        yield db\n"
            "async def orders(db=Depends(get_db)):\n    db.execute('select 1')\n"
        )
        exec(code, names)
        app = FastAPI()
        app.get("/orders")(names["orders"])
        (text,) = looked(app, on_the_loop)
        assert "gets what looks like a sync session, of get_db (<string>:1)" in text


def get_any():
    yield None


class TestOffTheLoop:
    """What is no finding."""

    @pytest.mark.parametrize(
        "dependency",
        [get_async, get_async_plain, sessionmaker(class_=AsyncSession), AsyncLocal, get_any],
        ids=_named,
    )
    def test_async_session(self, dependency):
        """An async session is none, nor is what isn't known."""
        assert on_loop_with(dependency) == []

    def test_what_a_query_returned(self):
        """A sync dependency that queries and gives the result has done so in a thread."""

        def current_user(db: Session = Depends(get_db)):
            return db.get(Mine, 1)

        def lone_user() -> dict[str, str]:
            with SessionLocal() as db:
                return db.get(Mine, 1)

        app = FastAPI()

        @app.get("/me")
        async def me(user=Depends(current_user), lone=Depends(lone_user)):
            return user.name, lone.name

        assert looked(app, on_the_loop) == []

    def test_sync_endpoint(self):
        """A sync endpoint is one that runs in a thread."""
        app = FastAPI()

        @app.get("/orders")
        def orders(db: Annotated[Session, Depends(get_db)]):
            return db.execute("select 1")

        assert looked(app, on_the_loop) == []

    def test_in_threads(self):
        """An async function that only has others use the session, in threads, is fine."""
        app = FastAPI()

        def work(db): ...

        @app.get("/a")
        async def a(db=Depends(get_db)):
            return await run_in_threadpool(work, db)

        @app.get("/b")
        async def b(db=Depends(get_db)):
            def query():
                return db.execute("select 1")

            return await asyncio.to_thread(query)

        @app.get("/c")
        async def c(tasks: BackgroundTasks, db=Depends(get_db)):
            tasks.add_task(work, db)

        @app.get("/d")
        async def d(db=Depends(get_db)):
            return StreamingResponse(str(row) for row in await run_in_threadpool(db.execute, "x"))

        @app.get("/e")
        async def e():
            with SessionLocal() as db:
                return await run_in_threadpool(work, db)

        assert looked(app, on_the_loop) == []

    def test_passed_on(self):
        """An async dependency that only passes a session on doesn't query."""

        async def service(db: Session = Depends(get_db)):
            return Orders(db)

        async def same(db: Session = Depends(get_db)):
            return db

        app = FastAPI()

        @app.get("/orders")
        def orders(orders=Depends(service), db=Depends(same)):
            return orders.all()

        assert looked(app, on_the_loop) == []

    def test_no_code_runs(self):
        """No function of the app is called, and no annotation is evaluated."""

        def never() -> call_me():  # noqa: F821
            raise AssertionError

        app = FastAPI()

        @app.get("/orders")
        async def orders(db=Depends(never)):
            return db.execute("select 1")

        assert looked(app, on_the_loop) == []


class TestNested:
    """Two sessions at once."""

    POOL = ConnectionPool(
        "pool", "QueuePool", 5, 10, 15, "pool_size and max_overflow", key=id(engine.pool)
    )

    def told(self, limit: float = 40, pool: ConnectionPool = POOL, **dependencies: Any):
        app = FastAPI()

        @app.get("/report")
        def report(
            one=dependencies.get("one", Depends(get_db)),
            two=dependencies.get("two", Depends(get_plain)),
        ): ...

        return looked(app, lambda found, d: nested(found, d, limit, [pool])), report

    def test_two(self):
        """It is named with its sessions, and with the pool that the limit in force needs."""
        (text,), report = self.told()
        assert f"report (tests/test_session_advice.py:{line_of(report)}) gets what" in text
        assert "2 sessions at once, of get_db (" in text
        assert " and get_plain (" in text
        assert "must have 41 connections (threads x 1 + 1, with 40 threads); pool has 15" in text

    def test_same_dependency(self):
        """`use_cache=False` gives two of the same."""
        (text,), _ = self.told(two=Depends(get_db, use_cache=False))
        assert "gets 2 sessions at once, of get_db (" in text
        assert ", 2 times" in text

    def test_cached(self):
        """Without it there is one, however many ask for it."""

        def user(db=Depends(get_db)): ...

        assert self.told(two=Depends(user))[0] == []

    def test_passed_on(self):
        """A dependency that yields the session that it was given makes no second one."""

        def in_transaction(db: Session = Depends(get_db)) -> Iterator[Session]:
            with db.begin():
                yield db

        assert self.told(two=Depends(in_transaction))[0] == []

    def test_two_databases(self):
        """Sessions of two engines are no two of one pool."""
        assert self.told(two=Depends(made_for(OtherSession)))[0] == []

    def test_async_sessions(self):
        """Async sessions hold no thread up."""
        assert self.told(two=Depends(get_async))[0] == []

    def test_large_pool(self):
        """A pool in which none waits for another is fine."""
        large = ConnectionPool("pool", "QueuePool", 41, 0, 41, "", key=id(engine.pool))
        assert self.told(pool=large)[0] == []

    def test_no_limit(self):
        """Without a limit there is no number to name."""
        (text,), _ = self.told(limit=math.inf)
        assert "must have" not in text


class TestKeptByWebsocket:
    def told(self, dependency: Any) -> list[str]:
        app = FastAPI()

        @app.websocket("/feed")
        async def feed(websocket: WebSocket, db=Depends(dependency)):
            db.execute("select 1")

        assert looked(app, on_the_loop) == []
        return looked(app, kept_by_websockets)

    def test_session(self):
        """A WebSocket that keeps a session is named with both functions and their lines, once."""
        (text,) = self.told(get_db)
        assert "(TestKeptByWebsocket.told.<locals>.feed, tests/test_session_advice.py:" in text
        assert "It is a session: as many clients" in text

    def test_nested(self):
        """It keeps what a dependency of a dependency yields."""

        def user(db=Depends(get_plain)): ...

        (text,) = self.told(user)
        assert "keeps what get_plain yields" in text
        assert "It looks like a session" in text

    def test_function_scope(self):
        """The scope of the function is no help: a WebSocket's function runs while it is open."""
        app = FastAPI()

        @app.websocket("/feed")
        async def feed(websocket: WebSocket, db=Depends(get_db, scope="function")): ...

        assert len(looked(app, kept_by_websockets)) == 1

    @pytest.mark.parametrize("dependency", [get_async, get_async_plain], ids=_named)
    def test_async_session(self, dependency):
        """An async session is no finding."""
        assert self.told(dependency) == []

    def test_something_else(self):
        """What is known to be something else isn't named."""

        def get_settings() -> Iterator[dict[str, str]]:
            yield {}

        assert self.told(get_settings) == []


class TestKeptByStream:
    def told(self, endpoint: Any, **options: Any) -> list[str]:
        app = FastAPI()
        app.get("/export", **options)(endpoint)
        return looked(app, kept_by_streams)

    def test_return_annotation(self):
        """A route that says it streams is named with the session that it keeps."""

        def export(db=Depends(get_db)) -> StreamingResponse:
            return StreamingResponse(map(str, db.execute("select 1")))

        (text,) = self.told(export)
        assert text.startswith("GET /export: ")
        assert f"test_session_advice.py:{line_of(export) - 1}) streams its response" in text
        assert "get_db (tests/" in text
        assert 'Depends(get_db, scope="function")' in text

    def test_response_class(self):
        """So is one whose response class does."""

        def export(db=Depends(get_db)): ...

        assert len(self.told(export, response_class=StreamingResponse)) == 1

    def test_what_it_returns(self):
        """One that only returns a stream looks like it."""

        async def export(user=Depends(lambda db=Depends(get_db): None)):
            return StreamingResponse(iter(()))

        (text,) = self.told(export)
        assert "looks like it streams its response" in text

    def test_generator(self):
        """A generator is a stream, sync or async."""

        def rows(db=Depends(get_db)):
            yield from ()

        async def async_rows(db=Depends(get_db)):
            yield None

        assert "is a stream" in self.told(rows)[0]
        assert "is a stream" in self.told(async_rows)[0]

    def test_function_scope(self):
        """A session of the function's scope is given back before the response is sent."""

        def export(db=Depends(get_db, scope="function")) -> StreamingResponse: ...

        assert self.told(export) == []

    def test_closed(self):
        """One that is closed first isn't kept."""

        def export(db=Depends(get_db)) -> StreamingResponse:
            rows = db.execute("select 1").all()
            db.close()
            return StreamingResponse(map(str, rows))

        assert self.told(export) == []

    def test_no_stream(self):
        """A route that answers at once keeps nothing."""

        def orders(db=Depends(get_db)) -> JSONResponse:
            return JSONResponse({})

        assert self.told(orders) == []

    @pytest.mark.parametrize(("version", "told"), [("0.105.0", 1), ("0.110.3", 0), ("0.118.0", 1)])
    def test_old_versions(self, monkeypatch, version, told):
        """FastAPI 0.106 to 0.117 left dependencies before the response was sent."""

        def export(db=Depends(get_db)) -> StreamingResponse: ...

        monkeypatch.setattr("fastapi.__version__", version)
        assert len(self.told(export)) == told


class TestWellWritten:
    """Apps that need no advice."""

    def advice(self, app: Any) -> list[str]:
        found, dependencies = found_routes(app), Dependencies()
        pools = connection_pools()
        return [
            *on_the_loop(found, dependencies),
            *nested(found, dependencies, 40, pools),
            *kept_by_websockets(found, dependencies),
            *kept_by_streams(found, dependencies),
        ]

    def test_tutorial(self):
        """FastAPI's own tutorial: a sync session in sync endpoints."""
        app = FastAPI()

        def current_user(db: SessionDep): ...

        @app.post("/heroes")
        def make(name: str, db: SessionDep):
            db.add(name)
            db.commit()
            db.refresh(name)

        @app.get("/heroes", dependencies=[Depends(current_user)])
        def read(db: SessionDep, user=Depends(current_user), offset: int = 0):
            return db.execute("select 1").all()

        @app.get("/")
        async def root(): ...

        assert self.advice(app) == []

    def test_sqlmodel(self):
        """The same with SQLModel, as the tutorial has it now."""
        sqlmodel = pytest.importorskip("sqlmodel")

        def get_session():
            with sqlmodel.Session(engine) as session:
                yield session

        app = FastAPI()

        @app.get("/heroes")
        def read(session: sqlmodel.Session = Depends(get_session)):
            return session.exec(sqlmodel.select(1)).all()

        assert self.advice(app) == []

    def test_async(self):
        """An async session, in endpoints, streams and WebSockets."""
        app = FastAPI()

        async def current_user(db: AsyncDep):
            return await db.scalar("select 1")

        @app.get("/heroes")
        async def read(db: AsyncDep, user=Depends(current_user)):
            return (await db.execute("select 1")).all()

        @app.get("/own")
        async def own():
            async with AsyncLocal() as db, AsyncLocal.begin() as other:
                return await db.execute("select 1"), await other.execute("select 1")

        @app.get("/export")
        async def export(db: AsyncDep) -> StreamingResponse:
            return StreamingResponse(await db.stream("select 1"))

        @app.websocket("/feed")
        async def feed(websocket: WebSocket, db: AsyncDep):
            await db.execute("select 1")

        assert self.advice(app) == []

    def test_no_database(self):
        """No database at all."""
        app = FastAPI()

        def settings():
            yield {}

        @app.get("/")
        async def root(one=Depends(settings), other=Depends(settings, use_cache=False)):
            return one.get("x"), other.get("x")

        @app.get("/export")
        async def export(one=Depends(settings)) -> StreamingResponse:
            return StreamingResponse(iter(one))

        assert self.advice(app) == []


class Odd:
    """An object of the app's that fails whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    @property
    def __class__(self):
        raise RuntimeError("__class__")

    def __hash__(self):
        raise RuntimeError("hash")

    def __eq__(self, other):
        raise RuntimeError("==")

    def __call__(self): ...


class TestWhatCannotBeRead:
    @pytest.mark.parametrize("where", ["endpoint", "call", "dependant", "response_class"])
    def test_odd_routes(self, where):
        """A route that can't be read is left out, and others are told."""
        app = FastAPI(openapi_url=None)

        @app.get("/odd")
        async def odd(db=Depends(get_db)):
            return db.execute("select 1")

        @app.get("/orders")
        async def orders(db=Depends(get_db)):
            return db.execute("select 1")

        route = app.routes[0]
        if where == "call":
            route.dependant.dependencies[0].call = Odd()
        else:
            setattr(route, where, Odd())
        assert [text for text in advise(app) if text.startswith("GET /orders: ")]

    def test_circle(self):
        """Functions that name each other are no endless circle."""

        def ring():
            yield from ring()

        def wrapped(): ...

        wrapped.__wrapped__ = wrapped
        assert on_loop_with(ring) == []
        assert isinstance(advise(app_with(wrapped)), list)


def app_with(endpoint: Any) -> Starlette:
    return Starlette(routes=[Route("/odd", endpoint)])
