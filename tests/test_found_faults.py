"""Faults found in a reading of the whole source, each shown by what a user would see."""

from __future__ import annotations

import pytest

from child_tools import NEVER, run_child

KEYWORD = """
import json, sys
import anyio
import starlette.applications
from anyio import to_thread
from child_tools import Door, until
from fastapi_overflow import set_thread_limit, stats


async def main():
    set_thread_limit(3)
    door = Door()

    async def hold():
        await to_thread.run_sync(func=door)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(hold)
        try:
            await until(lambda: stats().waiting == 3, "hops that wait")
        finally:
            door.open()
    print(json.dumps(stats().hops))

anyio.run(main, backend=sys.argv[1])
"""


class TestKeyword:
    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_function_by_keyword(self, backend):
        """`to_thread.run_sync(func=...)` keeps to the limit as `to_thread.run_sync(...)` does."""
        assert run_child(KEYWORD, backend, env=NEVER) == 5


SCOPES = """
import json, sys
import anyio
from starlette.applications import Starlette

app = Starlette()
scope = {"empty": {}, "of no type": {"kind": "http"}, "a list": []}[sys.argv[1]]


async def main():
    called = app(scope, None, None)
    try:
        await called
    except Exception as exc:
        print(json.dumps(type(exc).__name__))

anyio.run(main)
"""


class TestWrongScope:
    @pytest.mark.parametrize("scope", ["empty", "of no type", "a list"])
    def test_raises_when_awaited(self, scope):
        """An app called with what is no scope raises when awaited, and as stock does."""
        stock = run_child(SCOPES, scope, env={"FASTAPI_OVERFLOW_DISABLE": "1"})
        assert run_child(SCOPES, scope) == stock


LOGGING = """
import json, logging, sys


class Raising(logging.Handler):
    def emit(self, record):
        raise RuntimeError("the log server is gone")


logging.getLogger().addHandler(Raising())
logging.getLogger().setLevel(logging.INFO)
import starlette.applications
import fastapi_overflow
print(json.dumps(fastapi_overflow.patched()))
"""


class TestLogHandler:
    def test_raises_at_the_announcement(self):
        """A log handler that raises doesn't keep an app from importing Starlette."""
        assert run_child(LOGGING)

    def test_raises_at_a_warning(self):
        """Nor does it where there is something to warn of."""
        assert run_child(LOGGING, env={"FASTAPI_OVERFLOW_LIMITS": "5"})


LAZY = """
import importlib.util, json, sys
import fastapi_overflow

spec = importlib.util.find_spec("this")  # any that isn't loaded yet
spec.loader = importlib.util.LazyLoader(spec.loader)
module = importlib.util.module_from_spec(spec)
sys.modules["this"] = module
spec.loader.exec_module(module)
import sqlalchemy.pool, sqlalchemy.engine.base
fastapi_overflow.advise()
print(json.dumps(type(module).__name__))
"""


class TestAdvice:
    def test_loads_no_lazy_module(self):
        """`advise()` doesn't load modules that the app has put off, and so runs none of them."""
        assert run_child(LAZY) == "_LazyModule"


REPLACED = """
import json, sys
import starlette.applications
import starlette.concurrency
import fastapi_overflow


class Proxy:
    # Bound to nothing outside a request.
    def __getattr__(self, name):
        raise RuntimeError("working outside of request context")

    async def __call__(self, func, *args, **kwargs):
        return func(*args, **kwargs)


starlette.concurrency.run_in_threadpool = Proxy()
if sys.argv[1] == "patch":
    fastapi_overflow.patch()
print(json.dumps(fastapi_overflow.patched()))
"""


class TestReplacedByOthers:
    @pytest.mark.parametrize("function", ["patched", "patch"])
    def test_something_that_raises(self, function):
        """`patched()` and `patch()` answer though another's replacement raises when looked at.

        What stands there isn't ours, so the app isn't protected.
        """
        assert run_child(REPLACED, function) is False


MID_IMPORT = """
import os
os.environ.pop("FASTAPI_OVERFLOW_DISABLE")  # nothing is armed: the app patches by itself
import json, sys
from fastapi_overflow import patch, patched


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            patch()
        return None


sys.meta_path.insert(0, Finder())
import starlette.applications
patch()
print(json.dumps(patched()))
"""


class TestPatchFromAnImport:
    @pytest.mark.parametrize("module", ["starlette.concurrency", "starlette.routing"])
    def test_in_the_middle_of_starlette(self, module):
        """patch() called by an import hook in the middle of Starlette's import protects the app.

        At the latest when it is called again: half a module is no reason to give up for good.
        """
        assert run_child(MID_IMPORT, module, env={"FASTAPI_OVERFLOW_DISABLE": "1"})


FORKED_HOP = """
import json, warnings
import anyio
from child_tools import in_fork, request
from fastapi_overflow import run_in_threadpool, stats

warnings.simplefilter("ignore")


async def child_hops():
    for _ in range(2):
        await run_in_threadpool(int)
    return [stats().hops, stats(all_loops=True).hops, stats(all_loops=True).loops]


def fork():
    # As multiprocessing does it in a sync endpoint.
    return in_fork(lambda: anyio.run(child_hops))


async def main():
    async def endpoint():
        print(json.dumps(await run_in_threadpool(fork)))

    await request(endpoint)

anyio.run(main)
"""


class TestForkInAHop:
    def test_child_has_its_own(self):
        """A process forked in a sync endpoint has loops and statistics of its own only."""
        assert run_child(FORKED_HOP) == [2, 2, 1]
