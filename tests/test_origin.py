"""The line of the app's that took a connection: `connections()` names it, or none, never another.

Run by pytest. Every case takes one on the line with "here" in it; libraries and apps that are
installed are made in a folder of each test's own.
"""

import asyncio
import contextlib
import functools
import gc
import importlib
import inspect
import queue
import sys
import threading
import weakref
from types import FunctionType, ModuleType
from typing import Annotated

import httpx
import pytest
import sqlalchemy
import starlette.applications  # noqa: F401 - arms the patch, before SQLAlchemy is imported
from fastapi import Depends, FastAPI
from sqlalchemy import Column, ForeignKey, Integer, event, select, text
from sqlalchemy.orm import Session, declarative_base, relationship, scoped_session, sessionmaker
from starlette.concurrency import run_in_threadpool

import fastapi_overflow
from fastapi_overflow._requests import origin
from pool_tools import PATIENCE, engine, in_thread

Base = declarative_base()


class Parent(Base):  # type: ignore[misc,valid-type]
    __tablename__ = "parents"
    id = Column(Integer, primary_key=True)
    children = relationship("Child")


class Child(Base):  # type: ignore[misc,valid-type]
    __tablename__ = "children"
    id = Column(Integer, primary_key=True)
    parent_id = Column(Integer, ForeignKey("parents.id"))


@pytest.fixture(autouse=True)
def nobody_held_back():
    """Unlike elsewhere requests may know of the pools."""


@pytest.fixture
def made():
    made = engine(2, 2)
    Base.metadata.create_all(made)
    with Session(made) as session:
        session.add(Parent(id=1, children=[Child(id=1)]))
        session.commit()
    yield made
    made.dispose()


def lines(made):
    """Return the lines that have this engine's connections, those held longest first."""
    name = made.url.render_as_string()
    return [each.line for each in fastapi_overflow.connections() if each.pool == name]


def here(function, word="# here"):
    """Return the line with that word in it, as it is printed."""
    source, first = inspect.getsourcelines(function)
    (line,) = [first + n for n, text in enumerate(source) if word in text]
    return f"test_origin.py:{line}"


# ---- ways to take one: each is given an engine and a stack that closes what is open


def by_engine_connect(made, stack):
    stack.enter_context(made.connect())  # here


def by_engine_begin(made, stack):
    stack.enter_context(made.begin())  # here


def by_raw_connection(made, stack):
    stack.callback(made.raw_connection().close)  # here


def by_pool(made, stack):
    stack.callback(made.pool.connect().close)  # here


def by_execute(made, stack):
    session = stack.enter_context(Session(made))
    session.execute(text("select 1"))  # here


def by_scalars(made, stack):
    session = stack.enter_context(Session(made))
    session.scalars(select(Parent)).all()  # here


def by_get(made, stack):
    session = stack.enter_context(Session(made))
    session.get(Parent, 1)  # here


def by_query(made, stack):
    session = stack.enter_context(Session(made))
    session.query(Parent).filter_by(id=1).first()  # here


def by_flush(made, stack):
    session = stack.enter_context(Session(made))
    session.add(Parent())
    session.flush()  # here


def by_autoflush(made, stack):
    session = stack.enter_context(Session(made))
    session.add(Parent())
    session.query(Parent).count()  # here


def by_refresh(made, stack):
    session = stack.enter_context(Session(made))
    parent = session.get(Parent, 1)
    session.commit()
    session.refresh(parent)  # here


def by_lazy_load(made, stack):
    session = stack.enter_context(Session(made))
    parent = session.get(Parent, 1)
    session.commit()
    assert len(parent.children) == 1  # here


def by_expired_attribute(made, stack):
    session = stack.enter_context(Session(made))
    parent = session.get(Parent, 1)
    session.commit()
    assert parent.id == 1  # here


def by_connection(made, stack):
    session = stack.enter_context(Session(made))
    session.connection()  # here


def by_scoped_session(made, stack):
    session = scoped_session(sessionmaker(made))
    stack.callback(session.remove)
    session.execute(text("select 1"))  # here


class Repository:
    def __init__(self, session):
        self._session = session

    def all(self):
        return self._session.scalars(select(Parent)).all()  # here


def by_repository(made, stack):
    Repository(stack.enter_context(Session(made))).all()


by_repository.here = Repository.all


class OwnSession(Session):
    def execute(self, *args, **kwargs):
        return super().execute(*args, **kwargs)  # here


def by_own_session(made, stack):
    stack.enter_context(OwnSession(made)).execute(text("select 1"))


by_own_session.here = OwnSession


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@decorated
def by_decorated(made, stack):
    stack.enter_context(made.connect())  # here


def by_generator(made, stack):
    def rows():
        with made.connect() as connection:  # here
            yield connection

    generator = rows()
    next(generator)
    stack.callback(generator.close)


@contextlib.contextmanager
def transaction(made):
    with made.begin() as connection:  # here
        yield connection


def by_context_manager(made, stack):
    stack.enter_context(transaction(made))


by_context_manager.here = transaction.__wrapped__


def by_comprehension(made, stack):
    [stack.enter_context(each.connect()) for each in (made,)]  # here


def by_lambda(made, stack):
    take = lambda: stack.enter_context(made.connect())  # noqa: E731 # here
    take()


def by_partial(made, stack):
    stack.enter_context(functools.partial(made.connect)())  # here


def by_map(made, stack):
    for connection in map(type(made).connect, [made]):  # here
        stack.enter_context(connection)


def by_exec(made, stack):
    exec("stack.enter_context(made.connect())")  # here


def by_second_line_of_many(made, stack):
    session = stack.enter_context(Session(made))
    (
        session
        .query(Parent)
        .filter_by(id=1)
        .one()  # here
    )  # fmt: skip


WAYS = [value for name, value in list(globals().items()) if name.startswith("by_")]


class TestLine:
    @pytest.mark.parametrize("way", WAYS)
    def test_way(self, made, way):
        """It is the app's line, however the connection is taken."""
        with contextlib.ExitStack() as stack:
            way(made, stack)
            (line,) = lines(made)
        expected = here(getattr(way, "here", way))
        if way is by_second_line_of_many and sys.version_info < (3, 11):
            pytest.skip("a call over many lines has one line there")
        assert line == expected

    def test_after_each_other(self, made):
        """Whichever way came before, each has its own line."""
        for before in WAYS:
            for way in WAYS[:12]:
                for each in (before, way):
                    if each is by_second_line_of_many and sys.version_info < (3, 11):
                        continue
                    with contextlib.ExitStack() as stack:
                        each(made, stack)
                        assert lines(made) == [here(getattr(each, "here", each))]

    def test_listener_in_between(self, made):
        """A listener of the app's that takes one itself is named for that, at whatever depth."""

        def listener(session):
            taken.append(made.connect())  # here

        def deep(number):
            return deep(number - 1) if number else session.execute(text("select 1"))

        # The listener's checkout is as deep as every one of the app's own before it.
        for depth in range(25):
            taken: list = []
            with Session(made) as session:
                deep(depth)
            with Session(made) as session:
                event.listen(session, "do_orm_execute", listener)
                deep(depth)
                found = lines(made)
                for connection in taken:
                    connection.close()
            assert here(listener) in found
            assert len(found) == 2

    def test_worker_thread(self, made):
        """In a thread it is the line there, not of who has started that."""
        with contextlib.ExitStack() as stack:
            in_thread(lambda: by_execute(made, stack))
            assert lines(made) == [here(by_execute)]

    def test_thread_target(self, made):
        """What a thread of the app's runs has its line, not that of who has started the thread."""
        taken = queue.SimpleQueue()
        timer = threading.Timer(0, made.connect)
        put = functools.partial(_put_result, taken, made.connect)
        for target in (timer, threading.Thread(target=put)):
            target.start()
            target.join(PATIENCE)
        assert lines(made) == [here(_put_result)]
        taken.get().close()

    @pytest.mark.skipif(sqlalchemy.__version__ < "2", reason="begin() takes it at once there")
    def test_callback_of_the_loop(self, made):
        """A callback that is SQLAlchemy's own isn't taken for the app's that runs the loop."""

        async def main():
            loop = asyncio.get_running_loop()
            # asyncio runs it with nothing of the app's nearer than `asyncio.run`.
            loop.call_soon(stack.enter_context, made.begin())
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        with contextlib.ExitStack() as stack:
            asyncio.run(main())
            assert lines(made) == [None]

    def test_hop(self, made):
        """Of a hop that is SQLAlchemy's alone it is the line that awaits it, whoever else does."""

        async def other():
            await run_in_threadpool(made.connect)

        async def passes_on(function):
            return await function()

        async def take():
            return await run_in_threadpool(made.connect)  # here

        async def generator():
            yield await take()

        async def main():
            for _ in range(3):
                (connection,) = [each async for each in generator()]
                assert lines(made) == [here(take)]
                await run_in_threadpool(connection.close)
            connection, *_ = await asyncio.gather(passes_on(take), asyncio.sleep(0))
            assert lines(made) == [here(take)]
            connection.close()

        asyncio.run(main())

    def test_hop_of_a_library(self, made):
        """A library's own hop isn't taken for a line of the app's around it."""
        app = FastAPI()

        @app.get("/")
        def look(connection: Annotated[object, Depends(made.connect)]) -> list:
            return lines(made)

        async def middleware(scope, receive, send):
            await app(scope, receive, send)

        async def main():
            transport = httpx.ASGITransport(middleware)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return (await client.get("/")).json()

        assert asyncio.run(main()) == [None]

    def test_main_module(self):
        """`python -c` and scripts have their lines too."""
        from child_tools import run_child

        code = (
            "import json, starlette.applications, fastapi_overflow\n"
            "from pool_tools import engine\n"
            "from sqlalchemy import text\n"
            "from sqlalchemy.orm import Session\n"
            "made = engine()\n"
            "found = []\n"
            "for _ in range(2):\n"
            "    with made.connect():\n"
            "        found += [each.line for each in fastapi_overflow.connections()]\n"
            "    with Session(made) as session:\n"
            "        session.execute(text('select 1'))\n"
            "        found += [each.line for each in fastapi_overflow.connections()]\n"
            "print(json.dumps(found))\n"
        )
        assert run_child(code) == ["<string>:8", "<string>:11"] * 2


def _put_result(taken, connect):
    taken.put(connect())  # here


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Make packages in a site-packages folder; return what imports one."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    names = []

    def make(name, code):
        (folder / f"{name}.py").write_text(code)
        names.append(name)
        return importlib.import_module(name)

    yield make
    for name in names:
        del sys.modules[name]
        origin._with_endpoints.discard(name)
    for file in [each for each in origin.is_library if str(folder) in each]:
        del origin.is_library[file]


TAKE = """def take(made):
    return made.connect()
def take_for(made, taken):
    taken.append(made.connect())
"""


class TestLibraries:
    def test_in_between(self, made, installed):
        """With a library in between it is the app's line still, whatever came before."""
        library = installed("a_library", TAKE)

        def directly():
            with made.connect():  # here
                return lines(made)

        def through():
            with library.take(made):  # here
                return lines(made)

        def one_frame_more():
            return directly()

        for _ in range(3):
            assert directly() == [here(directly)]
            assert through() == [here(through)]
            assert one_frame_more() == [here(directly)]

    def test_alone(self, made, installed):
        """Where a library alone takes one, it is the library's nearest line."""
        library = installed("another_library", TAKE)

        taken = []
        thread = threading.Thread(target=library.take_for, args=[made, taken])
        thread.start()
        thread.join(PATIENCE)
        assert lines(made) == ["another_library.py:4"]
        taken.pop().close()

    def test_installed_app(self, made, installed):
        """An app that is installed like a library has its own lines, not those of its libraries."""
        installed("their_library", TAKE)
        app = installed(
            "their_app",
            "import their_library\n"
            "def endpoint(made):\n"
            "    return their_library.take(made)\n"
            "def own(made):\n"
            "    return made.connect()\n",
        )
        origin.note_endpoint(app.endpoint)

        async def main():
            for function, line in ((app.endpoint, 3), (app.own, 5)) * 2:
                connection = await run_in_threadpool(function, made)
                assert lines(made) == [f"their_app.py:{line}"]
                connection.close()

        asyncio.run(main())

    def test_sqlmodel(self, made):
        """SQLModel's session is as SQLAlchemy's."""
        sqlmodel = pytest.importorskip("sqlmodel")
        with sqlmodel.Session(made) as session:
            session.exec(sqlmodel.select(1)).all()
            assert lines(made)[0].startswith("test_origin.py:")

    def test_import(self, made, tmp_path, monkeypatch):
        """What is taken while a module is imported has that module's line."""
        held = ModuleType("held")
        held.made = made
        monkeypatch.setitem(sys.modules, "held", held)
        monkeypatch.syspath_prepend(str(tmp_path))
        (tmp_path / "taken_at_import.py").write_text("import held\nc = held.made.connect()\n")
        module = importlib.import_module("taken_at_import")
        assert lines(made) == ["taken_at_import.py:2"]
        module.c.close()


class TestHostileCode:
    def test_odd_file_names(self, made):
        """Code whose file or module has an odd name is no reason for a checkout to fail."""

        class Odd(str):
            __slots__ = ()

            def __hash__(self):
                raise RuntimeError("no hash")

            def __eq__(self, other):
                raise RuntimeError("no comparison")

        def take():
            return made.connect()

        code = take.__code__.replace(co_filename=Odd("/x/y.py"))
        odd = FunctionType(code, {"__name__": Odd("z")}, "odd", None, take.__closure__)
        with odd():
            assert len(lines(made)) == 1

    def test_many_files(self, made):
        """An app that makes code without end is remembered up to a bound."""
        before = dict(origin.is_library)
        try:
            for number in range(origin.MOST_FILES + 10):
                namespace = {"made": made, "__name__": "generated"}
                exec(compile("c = made.pool.connect()", f"/gen/{number}.py", "exec"), namespace)
                namespace["c"].close()
            assert len(origin.is_library) <= origin.MOST_FILES
        finally:
            origin.is_library.clear()
            origin.is_library.update(before)


class TestNothingIsKept:
    def test_frames(self, made):
        """What the app's variables hold is free while the connection is out still."""

        class Canary:
            pass

        def take():
            canary = Canary()
            return made.connect(), weakref.ref(canary)

        connection, canary = take()
        gc.collect()
        assert canary() is None
        connection.close()
