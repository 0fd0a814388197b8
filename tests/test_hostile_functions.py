"""What a hop may call: anything that can be called, whatever else of it raises.

Stock anyio calls it and does nothing else with it. Run in children, as a program fails by hanging.
"""

from __future__ import annotations

import pytest

from child_tools import run_child

FREEZES = """
import sys
from dataclasses import dataclass

import anyio
from child_tools import deadlock
from fastapi_overflow import set_thread_limit, stats


class Callable:
    def __init__(self, do):
        self.do = do

    def __call__(self, *args):
        self.do(*args)


@dataclass
class unhashable:
    do: object

    def __call__(self, *args):
        self.do(*args)


class hash_raises(Callable):
    def __hash__(self):
        raise RuntimeError("hashed")


class eq_raises(Callable):
    def __hash__(self):
        return 1

    def __eq__(self, other):
        raise RuntimeError("compared")


class bool_raises(Callable):
    def __bool__(self):
        raise RuntimeError("taken for a truth value")

    def __len__(self):
        raise RuntimeError("measured")


class getattr_raises(Callable):
    def __getattr__(self, name):
        raise RuntimeError(f"asked for {name}")


class class_raises(Callable):  # as a request-bound proxy does outside its request
    @property
    def __class__(self):
        raise RuntimeError("asked for its class")


class method_of_hostile(getattr_raises):
    def method(self, *args):
        self.do(*args)


def method(do):
    return method_of_hostile(do).method


def argument(do):
    return do


backend, kind = sys.argv[1:]
hostile = globals()[kind]
args = ()
if kind == "argument":  # all of it in one: what the hop's function is given
    class Argument(class_raises, getattr_raises, eq_raises, bool_raises):
        def __hash__(self):
            raise RuntimeError("hashed")
    args = (Argument(None),)


async def main():
    set_thread_limit(3)
    await deadlock(hostile, hostile, *args)
    assert stats().threads_grown, "the pool never had to grow: this shows nothing"

anyio.run(main, backend=backend)
print("true")
"""

KINDS = (
    "unhashable",
    "hash_raises",
    "eq_raises",
    "bool_raises",
    "getattr_raises",
    "class_raises",
    "method",
    "argument",
)


class TestStall:
    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_ends_whatever_is_called(self, kind, backend):
        """A stalled pool grows though what waiting hops call raises when it is looked at."""
        assert run_child(FREEZES, backend, kind)


KEPT = """
import gc, json, weakref
import anyio
from child_tools import Door, request, until, lose_token
from fastapi_overflow import run_in_threadpool, set_thread_limit, stats

gc.disable()


class Call:
    def __init__(self, do):
        self.do = do

    def __call__(self):
        self.do()


async def main():
    set_thread_limit(3)
    door, begun, go_on = Door(), 0, anyio.Event()
    called = []

    async def blocked():
        nonlocal begun
        await run_in_threadpool(int)
        begun += 1
        await go_on.wait()
        await run_in_threadpool(door)

    async def opens():
        nonlocal begun
        await run_in_threadpool(int)
        begun += 1
        await until(lambda: stats().threads_in_use == 3 and not stats().waiting, "three blocked")
        call = Call(door.open)
        called.append(weakref.ref(call))
        await run_in_threadpool(call)

    async with anyio.create_task_group() as group:
        for endpoint in (blocked, blocked, blocked, opens):
            group.start_soon(request, endpoint)
        await until(lambda: begun == 4, "all under way")
        await lose_token()
        go_on.set()
    assert stats().threads_grown == 1, stats()
    await until(lambda: not stats().stalled, "the end of the stall")
    await anyio.sleep(0.2)  # a few looks, should there be more; what is kept is kept for good
    print(json.dumps(called[0]() is None))

anyio.run(main)
"""


class TestAfterwards:
    def test_nothing_is_kept(self):
        """When a stall is over, what its hops called, and so whole requests, is kept no longer."""
        assert run_child(KEPT)


NOT_CALLABLE = """
import json, sys
import anyio
import fastapi_overflow, starlette.concurrency
from anyio import to_thread

functions = {
    "starlette": starlette.concurrency.run_in_threadpool,
    "fastapi_overflow": fastapi_overflow.run_in_threadpool,
    "anyio": to_thread.run_sync,
}

async def main():
    fastapi_overflow.patch()
    coroutine = functions[sys.argv[1]](3)
    try:
        await coroutine
    except TypeError:
        limiter = to_thread.current_default_thread_limiter()
        print(json.dumps(limiter.borrowed_tokens))

anyio.run(main)
"""


class TestNotCallable:
    @pytest.mark.parametrize("function", ["starlette", "fastapi_overflow", "anyio"])
    def test_raises_when_awaited(self, function):
        """A function that can't be called raises TypeError when the hop is awaited, not before."""
        assert run_child(NOT_CALLABLE, function) == 0


NAMES = """
import json, sys
import anyio
import anyio.to_thread

stock = anyio.to_thread.run_sync
seen = []


async def run_sync(func, *args, **kwargs):
    # As tracers do it: what they start in the worker thread names what is called.
    def traced(*args):
        seen.append([getattr(func, name, "none") for name in ("__name__", "__qualname__")])
        return func(*args)

    return await stock(traced, *args, **kwargs)


before = sys.argv[1] == "before"
if before:
    anyio.to_thread.run_sync = run_sync
import starlette.concurrency
import fastapi_overflow
if not before:
    stock = anyio.to_thread.run_sync
    anyio.to_thread.run_sync = run_sync


async def main():
    await starlette.concurrency.run_in_threadpool(int)
    await fastapi_overflow.run_in_threadpool(int)

anyio.run(main)
print(json.dumps(seen))
"""


class TestAttributes:
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_default_in_the_thread(self, when):
        """A tracer that asks in the thread for the name of what runs gets its default, as in stock.

        Starlette gives anyio a partial, which has no name.
        """
        assert run_child(NAMES, when) == [["none", "none"]] * 2
