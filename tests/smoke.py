"""What every version must do, as one program: run by matrix.py with the Python of each row.

Prints one JSON object: versions, and for each check true or what went wrong. It needs nothing but
the package and Starlette; FastAPI, SQLAlchemy or SQLModel, uvloop and trio are used where they are
installed. It must run on the oldest versions supported, so it uses none of our fixtures and no test
client.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
from importlib.metadata import PackageNotFoundError, version

REQUESTS = 100
CONNECTIONS = 15  # SQLAlchemy's default: 5 and 10 of overflow
POOL_TIMEOUT = 2.0  # seconds: SQLAlchemy's is 30

HAVE_FASTAPI = importlib.util.find_spec("fastapi") is not None
HAVE_SQLALCHEMY = importlib.util.find_spec("sqlalchemy") is not None

# SQLAlchemy's pools: five connections for sixty requests.
SESSIONS = 60
POOL = {"pool_size": 3, "max_overflow": 2}


class ConnectionPool:
    """A database's pool: `connect` blocks until there is a connection, or fails."""

    def __init__(self):
        self.free = threading.Semaphore(CONNECTIONS)

    def connect(self):
        if not self.free.acquire(timeout=POOL_TIMEOUT):
            raise TimeoutError("no connection")

    def query(self):
        time.sleep(0.001)

    def close(self):
        self.free.release()


def fastapi_app():
    """FastAPI's tutorial: a session that a sync dependency checks out, and a sync endpoint."""
    from fastapi import Depends, FastAPI
    from pydantic import BaseModel

    app, pool = FastAPI(), ConnectionPool()

    class Answer(BaseModel):
        ok: bool

    def get_db():
        pool.connect()
        try:
            yield pool
        finally:
            pool.close()

    def get_user(db=Depends(get_db)):  # noqa: B008 - the oldest FastAPI of the matrix knows this
        db.query()
        return "somebody"

    @app.get("/", response_model=Answer)
    def endpoint(user=Depends(get_user), db=Depends(get_db)):  # noqa: B008
        db.query()
        return {"ok": True}

    return app


def starlette_app():
    """The same without FastAPI: an async endpoint that hops three times."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    pool = ConnectionPool()

    async def endpoint(request):
        await run_in_threadpool(pool.connect)
        try:
            await run_in_threadpool(pool.query)
        finally:
            await run_in_threadpool(pool.close)
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/", endpoint)])


def session_app(pool_timeout):
    """An async endpoint that queries on the event loop, with a session kept across an await."""
    import anyio
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import QueuePool
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    if importlib.util.find_spec("sqlmodel") is not None:
        from sqlmodel import Session
    else:
        from sqlalchemy.orm import Session

    file = os.path.join(tempfile.mkdtemp(prefix="overflow-smoke-"), "db")
    options = {"poolclass": QueuePool, "pool_timeout": pool_timeout, **POOL}
    connect_args = {"check_same_thread": False}
    engine = create_engine(f"sqlite:///{file}", connect_args=connect_args, **options)

    async def endpoint(request):
        with Session(engine) as session:
            session.connection().execute(text("select 1"))
            await anyio.sleep(0.01)
            session.connection().execute(text("select 1"))
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/", endpoint)])


async def get(app, statuses):
    """Send one request straight into the app, and note the status of the response."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    try:
        await app(scope, receive, send)
    except Exception as exc:
        statuses.append(repr(exc))


async def classic(app, requests=REQUESTS):
    """Return how many of the requests were answered with 200, and what became of the others."""
    import anyio

    statuses = []
    async with anyio.create_task_group() as group:
        for _ in range(requests):
            group.start_soon(get, app, statuses)
    wrong = {str(status) for status in statuses if status != 200}
    return statuses.count(200), wrong


async def meet(threads, hops):
    """Have hops wait for each other in so many threads; return how many ran at once."""
    import anyio
    from starlette.concurrency import run_in_threadpool

    running, most, lock = 0, 0, threading.Lock()
    barrier = threading.Barrier(threads)

    def hop():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait(20)
        with lock:
            running -= 1

    async with anyio.create_task_group() as group:
        for _ in range(hops):
            group.start_soon(run_in_threadpool, hop)
    return most


async def check_thread_limit():
    import anyio.to_thread

    from fastapi_overflow import set_thread_limit

    set_thread_limit(limit=5, anti_deadlock_reserve=1)
    limiter = anyio.to_thread.current_default_thread_limiter()
    assert limiter.total_tokens == 5, limiter.total_tokens
    most = await meet(5, 20)
    assert most == 5, f"{most} threads with a limit of 5"


async def check_recipe():
    """What people write today: current_default_thread_limiter().total_tokens = n."""
    import anyio.to_thread

    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 60
    most = await meet(60, 120)
    assert most == 60, f"{most} threads with total_tokens = 60"
    statistics = limiter.statistics()
    assert statistics.total_tokens == 60, statistics
    assert statistics.borrowed_tokens == 0, statistics


def check_loaders():
    """The modules that are patched look to Python like any others."""
    import importlib.resources
    import inspect
    import pkgutil

    import starlette.applications
    import starlette.concurrency

    for module in (starlette, starlette.applications, starlette.concurrency):
        spec = module.__spec__
        assert spec.loader.get_code(module.__name__) is not None
        assert inspect.getsource(module)
        assert spec.loader.is_package(module.__name__) == hasattr(module, "__path__")
    assert pkgutil.get_data("starlette", "py.typed") is not None
    assert importlib.resources.files("starlette").joinpath("applications.py").is_file()


def check_gil():
    """A free-threaded build has run all this without the GIL: no import switched it on."""
    assert not sys._is_gil_enabled(), "the GIL is on"


def run(function, *args, trio=True):
    """Run a coroutine function on each event loop there is; return what each returned."""
    import anyio

    results = {"asyncio": anyio.run(function, *args)}
    if importlib.util.find_spec("uvloop"):
        options = {"use_uvloop": True}
        results["uvloop"] = anyio.run(function, *args, backend_options=options)
    if trio and importlib.util.find_spec("trio"):
        results["trio"] = anyio.run(function, *args, backend="trio")
    return results


def protected():
    """With the hook: nothing here imports fastapi_overflow before Starlette is patched."""
    checks = {}

    def check(name, function):
        try:
            function()
            checks[name] = True
        except BaseException:
            checks[name] = traceback.format_exc(limit=-3)

    def hook():
        import starlette.applications  # noqa: F401

        from fastapi_overflow import _startup, patched

        expected = ".start" if sys.version_info >= (3, 15) else ".pth"
        assert _startup.armed_by == expected, f"armed by {_startup.armed_by}"
        assert patched(), "patched() is false"

    def route(make_app):
        for loop, (answered, wrong) in run(classic, make_app()).items():
            assert answered == REQUESTS, f"{answered} of {REQUESTS} on {loop}: {wrong}"

    def sessions():
        # Not on trio, where requests don't wait before they begin.
        results = run(classic, session_app(POOL_TIMEOUT * 10), SESSIONS, trio=False)
        for loop, (answered, wrong) in results.items():
            assert answered == SESSIONS, f"{answered} of {SESSIONS} on {loop}: {wrong}"

    check("hook", hook)
    if HAVE_FASTAPI:
        check("FastAPI", lambda: route(fastapi_app))
    check("Starlette", lambda: route(starlette_app))
    check("set_thread_limit", lambda: run(check_thread_limit))
    check("total_tokens", lambda: run(check_recipe))
    check("loaders", check_loaders)
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        check("free threading", check_gil)
    if HAVE_SQLALCHEMY:  # last: what it does to the GIL is its own affair
        check("SQLAlchemy", sessions)
    return checks


def stock():
    """With FASTAPI_OVERFLOW_DISABLE=1: the same requests, most of which must fail."""
    import anyio

    checks = {}
    for name, make_app in (("FastAPI", fastapi_app), ("Starlette", starlette_app)):
        if name == "Starlette" or HAVE_FASTAPI:
            answered, _ = anyio.run(classic, make_app())
            fails = answered < REQUESTS
            checks[f"{name} deadlocks without"] = fails or f"{answered} of {REQUESTS} answered"
    if HAVE_SQLALCHEMY:
        # The loop stands for each of them, and nothing comes back meanwhile: so not for long.
        answered, _ = anyio.run(classic, session_app(0.05), SESSIONS)
        fails = answered < SESSIONS
        checks["SQLAlchemy fails without"] = fails or f"{answered} of {SESSIONS} answered"
    return checks


def versions():
    found = {"python": sys.version.split()[0]}
    names = ("fastapi", "starlette", "anyio", "wrapt", "sqlalchemy", "sqlmodel")
    for name in (*names, "uvloop", "trio", "pydantic"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


if __name__ == "__main__":
    checks = stock() if sys.argv[1:] == ["stock"] else protected()
    print(json.dumps({"versions": versions(), "checks": checks}))
