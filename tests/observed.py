"""Requests and threads at will, for the tests that run hops in real threads.

Called by tests, in an event loop. Nothing here waits without a limit.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import fastapi_overflow
from fastapi_overflow._requests.lease_of_request import current_lease
from fastapi_overflow._requests.limiters import current_limiter
from fastapi_overflow._requests.replacements import wrap_starlette_call
from fastapi_overflow._watching import stacks
from support import PATIENCE

# For tests of what is only known from stacks.
needs_stacks = pytest.mark.skipif(not stacks.can_be_read(), reason="stacks aren't read here")


async def request(endpoint: Callable[[], Awaitable[None]]) -> None:
    """Run `endpoint` as the app's code of one request."""

    async def app(scope, receive, send):
        assert current_lease.get() is not None
        await endpoint()

    await wrap_starlette_call(app, None, ({"type": "http"}, None, None), {})


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition()` holds, or fail saying `what` never came."""
    with anyio.move_on_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - of another thread, or of no event at all
            await anyio.sleep(0.002)
        return
    raise AssertionError(f"not within {PATIENCE} s: {what}; {fastapi_overflow.stats()}")


def stall_watch() -> Any:
    """Return the stall watch of the running loop."""
    return current_limiter().pool._stall_watch


def finish_something() -> None:
    """Have the stall watch believe at its next look that a hop has finished."""
    current_limiter().pool._dispatcher.finished += 1


def calm(limit: int, reserve: int = 1) -> None:
    """Set the limit, and have no stall watch that would give threads to who waits."""
    fastapi_overflow.set_thread_limit(limit, reserve)
    stall_watch().seconds = 3600


async def lose_token() -> None:
    """Do something async for as long as no token lingers."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


class Gate:
    """What a function in a thread waits at until the test opens it.

    :ivar entered: set once a function waits there
    """

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._opened = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self._opened.wait(2 * PATIENCE), "the gate was never opened"

    def open(self) -> None:
        self._opened.set()

    async def until_entered(self) -> None:
        await until(self.entered.is_set, "a function at the gate")


@asynccontextmanager
async def busy(requests: int):
    """Have so many requests run a hop each that ends when the gate is opened.

    :yields: the gate, and the task group; all hops that can get a thread have got it
    """
    gate = Gate()

    async def endpoint():
        await fastapi_overflow.run_in_threadpool(gate)

    with anyio.fail_after(4 * PATIENCE):
        async with anyio.create_task_group() as group:
            try:
                before = fastapi_overflow.stats()
                for _ in range(requests):
                    group.start_soon(request, endpoint)

                def begun():
                    now = fastapi_overflow.stats()
                    return now.hops + now.waiting == before.hops + before.waiting + requests

                await until(begun, f"{requests} requests in a hop or waiting for one")
                yield gate, group
            finally:
                gate.open()


async def deadlock(requests: int = 6, connections: int = 1) -> None:
    """Have requests do what deadlocks in stock: hold a connection and come back for a thread.

    Each takes its connection in a hop of its own, has something async to do, and gives it back in
    another hop, so that with few threads the reserve's is blocked too and the pool stalls.
    """
    pool = threading.BoundedSemaphore(connections)

    def check_out():
        assert pool.acquire(timeout=PATIENCE), "no connection: a deadlock"

    limiter = current_limiter()
    begun, left = 0, requests

    def others_are_blocked():
        return limiter.borrowed_tokens >= min(limiter.total_tokens, left - 1)

    async def endpoint():
        nonlocal begun, left
        await fastapi_overflow.run_in_threadpool(int)
        begun += 1
        await until(lambda: begun == requests, "all requests under way")
        await fastapi_overflow.run_in_threadpool(check_out)
        await lose_token()
        await until(others_are_blocked, "all threads blocked")
        await fastapi_overflow.run_in_threadpool(pool.release)
        left -= 1

    with anyio.fail_after(4 * PATIENCE):
        async with anyio.create_task_group() as group:
            for _ in range(requests):
                group.start_soon(request, endpoint)
    # The stall watch ends with its next look.
    await until(lambda: not limiter.pool.snapshot().stalled, "the end of the stall")
