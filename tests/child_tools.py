"""What programs of the tests share that run in a process of their own, by public names only.

Imported by them, `run_child` by the tests. Nothing here waits without a limit, and nothing is
imported from inside the package, so that it outlives any rewriting of it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

PATIENCE = 20  # seconds until a program that waits in vain fails, long before it is killed
BLOCKED = 12  # seconds that a thread waits for what a stall must bring
NEVER = {"FASTAPI_OVERFLOW_STALL_SECONDS": "3600"}  # no stall: who waits, waits


def run_child(
    code: str, *args: str, timeout: float = 90, env: Mapping[str, str | None] | None = None
) -> Any:
    """Run a program in a Python of its own and return the JSON of the last line that it prints."""
    from support import run_python

    path = {"PYTHONPATH": str(Path(__file__).parent), **(env or {})}
    done = run_python(sys.executable, code, *args, timeout=timeout, env=path, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def told() -> list[logging.LogRecord]:
    """Return a list that gets whatever the package's logger is told from now on."""
    records: list[logging.LogRecord] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logging.getLogger("fastapi_overflow").addHandler(Listener())
    logging.getLogger("fastapi_overflow").setLevel(logging.INFO)
    return records


async def call(app: Any, path: str, scope: Mapping[str, Any] | None = None) -> list[int]:
    """Call an ASGI app in the caller's own task, as httpx's ASGITransport does.

    :param scope: what is in the request's scope besides
    :return: the status that it answers with; what an endpoint raises comes out of the app
    """
    statuses: list[int] = []

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    given = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    await app({**given, **(scope or {})}, receive, send)
    return statuses


def in_fork(function: Callable[[], Any]) -> Any:
    """Return what `function` returns in a fork of this process; it must be fit for JSON."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        try:
            os.write(writing, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text)


_app: Any = None


async def request(endpoint: Callable[[], Awaitable[Any]]) -> None:
    """Run `endpoint` as a request of a Starlette app does its own."""
    global _app
    if _app is None:
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        async def answer(request):
            await request.scope["tests.do"]()
            return PlainTextResponse("done")

        _app = Starlette(routes=[Route("/", answer)])

    await call(_app, "/", {"tests.do": endpoint})


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until `condition()` holds, or fail saying `what` never came."""
    import anyio

    with anyio.move_on_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - of another thread, or of no event at all
            await anyio.sleep(0.002)
        return
    import fastapi_overflow

    raise AssertionError(f"in vain: {what}; {fastapi_overflow.stats(all_loops=True)}")


async def lose_token() -> None:
    """Do something async for as long as no token lingers."""
    from anyio.lowlevel import checkpoint

    for _ in range(10):
        await checkpoint()


class Door:
    """Something that hops wait for, until it is opened."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> None:
        assert self._event.wait(2 * PATIENCE), "nobody opened the door"

    def open(self) -> None:
        self._event.set()


async def begin_requests(group: Any, number: int, func: Callable[[], Any]) -> Any:
    """Begin requests with a hop each; the next one, of `func`, they make together.

    :param group: anyio's task group, in which they run
    :return: an event that lets them make it
    """
    import anyio

    from fastapi_overflow import run_in_threadpool

    begun, go_on = 0, anyio.Event()

    async def endpoint():
        nonlocal begun
        await run_in_threadpool(int)
        begun += 1
        await go_on.wait()
        await run_in_threadpool(func)

    for _ in range(number):
        group.start_soon(request, endpoint)
    await until(lambda: begun == number, "all requests under way")
    return go_on


async def deadlock(check_out: Callable[..., Any], check_in: Callable[..., Any], *args: Any) -> None:
    """Have six requests on three threads share one connection as deadlocks in stock.

    Each takes it in a hop of its own, has something async to do, and gives it back in another. The
    limit must be 3.

    :param check_out: takes the function that does it and returns what a hop calls; as `check_in`
    :param args: of both hops
    """
    import anyio
    from anyio import to_thread
    from starlette.concurrency import run_in_threadpool

    connections = threading.BoundedSemaphore(1)
    requests = 6
    begun, left = 0, requests

    def take(*_: Any) -> None:
        assert connections.acquire(timeout=BLOCKED), "no connection: a deadlock"

    def give(*_: Any) -> None:
        connections.release()

    def others_are_blocked() -> bool:
        limiter = to_thread.current_default_thread_limiter()
        return limiter.borrowed_tokens >= min(limiter.total_tokens, left - 1)

    async def endpoint() -> None:
        nonlocal begun, left
        await run_in_threadpool(int)
        begun += 1
        await until(lambda: begun == requests, "all requests under way")
        await run_in_threadpool(check_out(take), *args)
        await lose_token()
        await until(others_are_blocked, "all threads blocked")
        await run_in_threadpool(check_in(give), *args)
        left -= 1

    with anyio.fail_after(2 * PATIENCE):
        async with anyio.create_task_group() as group:
            for _ in range(requests):
                group.start_soon(request, endpoint)
