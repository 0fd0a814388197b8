"""What a reading of the recomposed source has found, each by its claim.

Run in children where a program fails by hanging, leaking a loop, or not importing.
"""

from __future__ import annotations

import pytest

from child_tools import run_child
from fastapi_overflow._requests.lease_of_request import current_lease
from fastapi_overflow._requests.limiter import OverflowLimiter
from limiter_tools import STALL_SECONDS, make_limiter, settle

LEAVES = """
import asyncio
import contextlib
from child_tools import deadlock
from fastapi_overflow import patch, set_thread_limit, stats

patch()


def entered(do):
    # What a hop calls to leave a context manager that was entered before.
    @contextlib.contextmanager
    def manager():
        try:
            yield
        finally:
            do()

    left = manager()
    left.__enter__()
    return left.__exit__


async def main():
    set_thread_limit(3)
    await deadlock(lambda do: do, entered, None, None, None)
    assert stats().threads_grown, "the pool never had to grow: this shows nothing"

asyncio.run(main())
print("true")
"""

GHOST = """
import asyncio
import contextlib
import json
from functools import partial
from anyio import to_thread
from child_tools import Door, request, until
from fastapi_overflow import patch, set_thread_limit, stats

patch()
door = Door()


@contextlib.contextmanager
def manager():
    yield


go_on = asyncio.Event()
leave = asyncio.Event()


async def second_hop(func, when):
    await to_thread.run_sync(int)
    await when.wait()
    await to_thread.run_sync(func)


async def main():
    set_thread_limit(3)
    left = manager()
    left.__enter__()
    leaves = partial(left.__exit__, None, None, None)
    hops = [*[(door, go_on)] * 8, (leaves, leave)]
    requests = [asyncio.create_task(request(partial(second_hop, *hop))) for hop in hops]
    await asyncio.sleep(0.2)
    go_on.set()
    await until(lambda: stats().threads_in_use == 6 and stats().waiting_later == 2, "it grown")
    leave.set()
    await asyncio.sleep(0.2)
    door.open()
    ended = await asyncio.gather(*requests, return_exceptions=True)
    await asyncio.sleep(0.2)
    print(json.dumps([[repr(each) for each in ended if each is not None], stats().threads_in_use]))

asyncio.run(main())
"""

IN_PROCESS = """
import asyncio
import threading
import time
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from child_tools import BLOCKED, PATIENCE, call

connections = threading.BoundedSemaphore(2)


def check_out():
    assert connections.acquire(timeout=BLOCKED), "no connection"


async def notify():
    await asyncio.sleep(0.05)
    await call(app, "/inner")
    await run_in_threadpool(connections.release)


async def outer(request):
    await run_in_threadpool(check_out)
    return PlainTextResponse("outer", background=BackgroundTask(notify))


def inner(request):
    return PlainTextResponse("inner")


app = Starlette(routes=[Route("/", outer), Route("/inner", inner)])


async def main():
    await asyncio.wait_for(asyncio.gather(*(call(app, "/") for _ in range(20))), PATIENCE)

asyncio.run(main())
print("true")
"""

LOOPS = """
import asyncio
import gc
import json
import weakref
from child_tools import request
from fastapi_overflow import patch, run_in_threadpool

patch()


async def stays():
    await run_in_threadpool(int)
    await asyncio.get_running_loop().create_future()


async def main():
    asyncio.ensure_future(request(stays))
    await asyncio.sleep(0.1)


def run_a_loop():
    # As test suites do: closed with a request under way, which nobody has cancelled.
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    return weakref.ref(loop)

loops = [run_a_loop() for _ in range(3)]
for _ in range(3):
    gc.collect()
print(json.dumps([each() is None for each in loops]))
"""

FINDER = """
import sys


class Asks:
    def find_spec(self, name, path=None, target=None):
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)):
                return spec

import fastapi_overflow._startup as startup
startup.arm()
sys.meta_path.insert(0, Asks())
import starlette.applications
print("true")
"""

SCOPE = """
import asyncio
import copy
import json
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
import fastapi_overflow
from child_tools import call

fastapi_overflow.patch()


async def copies(request):
    copy.deepcopy({name: value for name, value in request.scope.items() if name != "app"})
    return PlainTextResponse("copied")


app = Starlette(routes=[Route("/", copies)])
print(json.dumps(asyncio.run(call(app, "/"))[0]))
"""

NO_LOOP = """
import json
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
import fastapi_overflow
from child_tools import call

fastapi_overflow.patch()


async def answer(request):
    return PlainTextResponse("answer")


app = Starlette(routes=[Route("/", answer)])
try:
    call(app, "/").send(None)
except StopIteration as end:
    print(json.dumps(end.value[0]))
"""

UNSET = """
import asyncio
import json
import os
os.environ.pop("FASTAPI_OVERFLOW_DISABLE")
import starlette.applications
from anyio import to_thread
from fastapi_overflow import patched, set_thread_limit, stats


async def main():
    set_thread_limit(7)
    real = to_thread.current_default_thread_limiter().total_tokens
    print(json.dumps([patched(), real, stats().limit]))

asyncio.run(main())
"""

ABANDONED = """
import asyncio
import json
from functools import partial
from child_tools import request, until
from fastapi_overflow import patch, run_in_threadpool, set_thread_limit, stats
from fastapi_overflow._requests.limiters import current_pool
from threading import Event

patch()
event = Event()


async def second_hop(func, when):
    await run_in_threadpool(int)
    await when.wait()
    await run_in_threadpool(func)


async def main():
    set_thread_limit(3)
    go_on, too = asyncio.Event(), asyncio.Event()
    hops = [*[(event.wait, go_on)] * 3, (int, too)]
    requests = [asyncio.create_task(request(partial(second_hop, *hop))) for hop in hops]
    late = requests.pop()
    await asyncio.sleep(0.2)
    go_on.set()
    await until(lambda: stats().threads_in_use == 3, "three blocked")
    pool = current_pool()
    observer = pool.observer
    grown = observer.grown

    def cancel():  # in the very turn in which the pool has grown by it
        grown()
        if pool.counters.threads_grown:
            late.cancel()

    observer.grown = cancel
    too.set()
    await asyncio.wait([late])
    observer.grown = grown
    assert late.cancelled() and pool.counters.threads_grown == 1
    event.set()
    await asyncio.gather(*requests)
    print(json.dumps(observer._episodes.awaits_verdict))

asyncio.run(main())
"""


class TestLeavingAContextManager:
    def test_stall_ends(self):
        """A stalled pool grows though a waiting hop leaves a context manager entered before."""
        assert run_child(LEAVES)

    def test_in_a_stall(self):
        """A hop that comes in a stall to leave one waits for its turn, and loses no token."""
        assert run_child(GHOST) == [[], 0]


class TestInProcessCall:
    def test_after_the_answer(self):
        """A background task that holds a connection may call the app itself."""
        assert run_child(IN_PROCESS, env={"FASTAPI_OVERFLOW_LIMIT": "3"})


class TestLoop:
    def test_closed_with_a_request_under_way(self):
        """A loop is free once closed, although a request's token still lingered in it."""
        assert run_child(LOOPS) == [True] * 3


class TestFinder:
    def test_that_asks_all_others(self):
        """Starlette can be imported beside a finder that asks all others, ours included."""
        assert run_child(FINDER)


class TestHarm:
    def test_copied_scope(self):
        """An endpoint may make a deep copy of what is in its scope."""
        assert run_child(SCOPE) == 200

    def test_without_an_event_loop(self):
        """An app that needs no event loop still runs without one."""
        assert run_child(NO_LOOP) == 200

    def test_disabled_at_start_only(self):
        """What is said of the limit is true where DISABLE held at Python's start, and not later."""
        patched, real, told = run_child(UNSET, env={"FASTAPI_OVERFLOW_DISABLE": "1"})
        assert patched or told in (0, real)


class TestVerdict:
    def test_abandoned_hop(self):
        """The pool reports hops no longer once all are over, although one never ran."""
        assert run_child(ABANDONED) is False


@pytest.mark.anyio
class TestGrowth:
    async def test_hops_side_by_side(self, monkeypatch):
        """Who is promoted by a growing pool gets the token of the reserve that is free."""
        limiter, _ = make_limiter(monkeypatch, 5, reserve=3)
        pool = limiter.pool
        for other in ("a", "b"):
            assert pool.start_acquire(other, pool.open_lease()) is None
        lease = pool.open_lease()
        for number in range(3):
            assert pool.start_acquire(number, lease) is not None
        pool.grow(1)
        pool._check()

    async def test_closed_lease(self):
        """A request collected while another thread collects gives its token back."""
        import threading

        limiter = OverflowLimiter(3, stall_seconds=STALL_SECONDS)
        pool = limiter.pool
        lease = pool.open_lease(under_way=True)
        assert pool.start_acquire("hop", lease) is None
        pool.finish("hop")
        current_lease.set(None)
        finalizer = threading.Thread(target=pool.close_lease, args=[lease])
        finalizer.start()
        finalizer.join()
        await settle(limiter)
