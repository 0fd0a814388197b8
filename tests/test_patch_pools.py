"""How SQLAlchemy's pools are found, and when they are left alone.

Most claims are made of a new process: what is imported first matters.
"""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest
import sqlalchemy
import starlette.applications  # noqa: F401 - arms the patch
from sqlalchemy import pool

from child_tools import run_child
from pool_tools import LONG, in_thread, is_governed, on_loop
from support import run_python

WITH_NOTES = sys.version_info >= (3, 11)

NO_HOOK = """
import sys
from fastapi_overflow import _startup
sys.meta_path.remove(_startup.finder)
"""

# Whether the pools ask: who would wait in stock, fails.
ASKS = """
import json
from pool_tools import engine, fails_at_once
assert fails_at_once(engine())
print(json.dumps(True))
"""

STOCK = """
import json
import sqlalchemy
from pool_tools import is_stock
print(json.dumps(is_stock()))
"""


def child(*codes: str, **env: str):
    return run_child("\n".join(map(dedent, codes)), env=env)


SIZE_0 = pytest.mark.skipif(
    sqlalchemy.__version__.startswith("1.4"), reason="a bound of max_overflow there"
)


class TestNeverImported:
    def test_without_sqlalchemy(self):
        """An app without SQLAlchemy runs without it, and without what we have for it."""
        code = """
        import json, sys
        import anyio, fastapi, fastapi_overflow
        from child_tools import call
        app = fastapi.FastAPI()
        @app.get("/")
        def endpoint():
            return "fine"
        assert fastapi_overflow.patched()
        assert anyio.run(call, app, "/") == [200]
        print(json.dumps([name for name in sys.modules if "sqlalchemy" in name
                          or name.startswith("fastapi_overflow") and "connections" in name]))
        """
        assert child(code) == []

    def test_lazily_imported(self):
        """Merely to have Starlette patched doesn't load SQLAlchemy where it is installed."""
        code = """
        import json, sys
        import starlette.applications, fastapi_overflow
        fastapi_overflow.patch()
        print(json.dumps("sqlalchemy" in sys.modules))
        """
        assert child(code) is False


class TestFound:
    @pytest.mark.parametrize(
        "order",
        [
            pytest.param("import starlette.applications, sqlalchemy", id="after Starlette"),
            pytest.param("import sqlalchemy, starlette.applications", id="before Starlette"),
            pytest.param("import sqlalchemy.orm, fastapi", id="with the ORM, before FastAPI"),
            pytest.param("import sqlalchemy.ext.asyncio, fastapi", id="asyncio, before FastAPI"),
            pytest.param("import fastapi_overflow, sqlalchemy, fastapi", id="after the package"),
        ],
    )
    def test_order_of_imports(self, order):
        """The pools ask, whatever was imported first."""
        if "asyncio" in order:
            pytest.importorskip("greenlet")
        assert child(order, ASKS)

    @pytest.mark.parametrize(
        "order",
        [
            "import fastapi_overflow; fastapi_overflow.patch(); import sqlalchemy",
            "import sqlalchemy, fastapi_overflow; fastapi_overflow.patch()",
            "import fastapi, sqlalchemy, fastapi_overflow; fastapi_overflow.patch()",
            "import sqlalchemy, fastapi, fastapi_overflow; fastapi_overflow.patch()",
        ],
    )
    def test_patch(self, order):
        """So they do where patch() is called, early or late, for want of the import hook."""
        assert child(NO_HOOK, order, ASKS)

    def test_twice(self):
        """A second patch() puts nothing around what the first one did."""
        code = """
        import sqlalchemy, fastapi, fastapi_overflow
        before = vars(sqlalchemy.pool.Pool)["connect"]
        fastapi_overflow.patch()
        assert vars(sqlalchemy.pool.Pool)["connect"] is before
        """
        assert child(code, ASKS)

    @pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
    def test_engine_made_before(self, frozen):
        """An engine that is older than the patch asks, even one that gc.freeze() hides."""
        code = f"""
        import gc, json
        from pool_tools import engine, fails_at_once
        old = engine()
        if {frozen}:
            gc.freeze()
        import starlette.applications
        assert fails_at_once(old)
        print(json.dumps(True))
        """
        assert child(code)

    @pytest.mark.parametrize("half_made", ["sqlalchemy.pool.QueuePool", "sqlalchemy.engine.Engine"])
    def test_half_made_before(self, half_made):
        """One that is being made, or could not be, is no reason to leave any other alone."""
        code = f"""
        import json, logging
        import sqlalchemy, sqlalchemy.engine
        from child_tools import told
        from pool_tools import engine, is_governed
        records = told()
        kept = [engine(), object.__new__({half_made}), engine()]
        import starlette.applications
        from fastapi_overflow._patching import pools
        governed = [is_governed(each.pool) for each in (kept[0], kept[2])]
        warnings = [each.getMessage() for each in records if each.levelno >= logging.WARNING]
        print(json.dumps([governed, pools.failure(), warnings]))
        """
        assert child(code) == [[True, True], None, []]

    def test_connections_taken_before(self):
        """What was taken before the patch counts as out, and is free again once it is back."""
        code = """
        import json
        from pool_tools import check, engine, on_loop
        old = engine(2, 0)
        taken = old.connect()
        import starlette.applications, sqlalchemy
        with old.connect():
            try:
                from pool_tools import in_thread
                old.pool._timeout = 0.2
                in_thread(old.connect)
            except sqlalchemy.exc.TimeoutError:
                pass
            else:
                raise AssertionError("one more than there are")
            taken.close()
            in_thread(lambda: old.connect().close())
        print(json.dumps(True))
        """
        assert child(code)

    def test_in_the_middle_of_its_import(self):
        """The pools ask where Starlette is imported in the middle of SQLAlchemy's import."""
        code = """
        import threading, wrapt
        wrapt.register_post_import_hook(
            lambda module: __import__("starlette.applications"), "sqlalchemy.exc")
        import sqlalchemy
        for thread in threading.enumerate():  # what had to wait for the end of the import
            if thread is not threading.current_thread():
                thread.join(20)
        """
        assert child(code, ASKS)

    def test_by_a_thread(self):
        """So they do where another thread imports SQLAlchemy meanwhile."""
        code = """
        import threading, wrapt
        begun, go_on = threading.Event(), threading.Event()
        def wait(module):
            begun.set()
            assert go_on.wait(20)
        wrapt.register_post_import_hook(wait, "sqlalchemy.exc")
        thread = threading.Thread(target=__import__, args=["sqlalchemy"])
        thread.start()
        assert begun.wait(20)
        # Where that waits for the end of the import, the import goes on meanwhile.
        threading.Timer(0.2, go_on.set).start()
        import starlette.applications
        go_on.set()
        for each in threading.enumerate():
            if each is not threading.current_thread():
                each.join(20)
        """
        assert child(code, ASKS)


class TestLeftAlone:
    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({"poolclass": pool.NullPool}, id="NullPool"),
            pytest.param({"poolclass": pool.StaticPool}, id="StaticPool"),
            pytest.param({"poolclass": pool.SingletonThreadPool}, id="SingletonThreadPool"),
            pytest.param({"poolclass": pool.QueuePool, "max_overflow": -1}, id="no overflow limit"),
            pytest.param({"poolclass": pool.QueuePool, "pool_size": 0}, id="size 0", marks=SIZE_0),
        ],
    )
    def test_no_bound(self, options, tmp_path):
        """A pool that nobody has to wait for lends as many as before and isn't asked about."""
        made = sqlalchemy.create_engine(
            f"sqlite:///{tmp_path}/db", connect_args={"check_same_thread": False}, **options
        )
        taken = on_loop(lambda: [made.pool.connect() for _ in range(30)])
        assert not is_governed(made.pool)
        for connection in taken:
            connection.close()
        made.dispose()

    def test_async_pool(self):
        """Nor is a pool for async code, where nobody blocks the loop."""
        made = pool.AsyncAdaptedQueuePool(lambda: None, pool_size=1, max_overflow=0)
        assert not is_governed(made)

    def test_async_engine(self, tmp_path):
        """An async engine's pool waits as ever, on the loop, for what the loop gives back."""
        pytest.importorskip("greenlet")
        pytest.importorskip("aiosqlite")
        pytest.importorskip("sqlalchemy", "2.0")
        import asyncio

        from sqlalchemy.ext.asyncio import create_async_engine

        async def main():
            made = create_async_engine(
                f"sqlite+aiosqlite:///{tmp_path}/db",
                poolclass=pool.AsyncAdaptedQueuePool,
                pool_size=1,
                max_overflow=0,
                pool_timeout=LONG,
            )
            first = await made.connect()
            second = asyncio.ensure_future(made.connect().__aenter__())
            await asyncio.sleep(0)
            await first.close()
            await (await second).close()
            assert not is_governed(made.pool)
            await made.dispose()

        in_thread(lambda: asyncio.run(main()))


class TestOff:
    @pytest.mark.parametrize("variable", ["CONNECTIONS=0", "CONNECTIONS=off", "DISABLE=1"])
    @pytest.mark.parametrize(
        "order", ["import sqlalchemy, fastapi", "import fastapi, sqlalchemy"], ids=["first", "last"]
    )
    def test_untouched(self, variable, order):
        """With connections off, or all, Pool.connect is SQLAlchemy's own."""
        name, _, value = variable.partition("=")
        assert child(order, STOCK, **{f"FASTAPI_OVERFLOW_{name}": value})

    def test_on(self):
        """Without either it isn't: what these tests look at is right."""
        assert not child("import fastapi, sqlalchemy", STOCK)

    def test_threads_stay_protected(self):
        """With connections off the app is protected as ever."""
        code = """
        import json, sqlalchemy, starlette.applications, fastapi_overflow
        print(json.dumps(fastapi_overflow.patched()))
        """
        assert child(code, FASTAPI_OVERFLOW_CONNECTIONS="0")

    def test_nothing_loaded(self):
        """With connections off, SQLAlchemy's import loads nothing of ours."""
        code = """
        import json, sys, fastapi, sqlalchemy
        print(json.dumps([name for name in sys.modules if name.startswith("fastapi_overflow")
                          and "connections" in name]))
        """
        assert child(code, FASTAPI_OVERFLOW_CONNECTIONS="0") == []

    @pytest.mark.parametrize("value", ["2", "maybe", "15"])
    def test_bad_value(self, value):
        """A value that means neither is an error that names variable, rule and value."""
        done = run_python(
            sys.executable,
            "import starlette.applications",
            timeout=60,
            env={"FASTAPI_OVERFLOW_CONNECTIONS": value},
        )
        assert done.returncode
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("fastapi_overflow._settings.SettingsError: "), last
        assert f"FASTAPI_OVERFLOW_CONNECTIONS must be 1 or 0, got {value!r}" in last
