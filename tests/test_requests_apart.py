"""One request, one lease: however a server starts them, and whatever outlives them.

Where requests are told apart shows in who may use the reserve: newcomers may not. No pool stalls in
these programs, so that nobody gets a thread for any other reason.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from child_tools import NEVER, run_child
from support import started, tail

APP = """
import asyncio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from child_tools import Door
from fastapi_overflow import stats

door = Door()
answer = asyncio.Event()
finish = asyncio.Event()


async def first(request):
    # It makes a hop and answers when told; its background task goes on until told.
    await request.body()
    await run_in_threadpool(int)
    await answer.wait()
    return PlainTextResponse("first", background=BackgroundTask(finish.wait))


def hop(request):
    return PlainTextResponse("hop")


def hold(request):
    door()
    return PlainTextResponse("held")


async def now(request):
    return JSONResponse(stats().as_dict())


async def answer_first(request):
    answer.set()
    return PlainTextResponse("")


async def finish_all(request):
    finish.set()
    door.open()
    return PlainTextResponse("")


app = Starlette(
    routes=[
        Route("/first", first, methods=["POST"]),
        *(Route(f"/{f.__name__}", f) for f in (hop, hold, now, answer_first, finish_all)),
    ]
)
"""

PATIENCE = 60  # seconds


class Served:
    """A uvicorn that serves the app on three threads, one of them the reserve."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.address = ("127.0.0.1", int(url.rpartition(":")[2]))

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=PATIENCE) as response:
            return response.read()

    def stats(self) -> dict:
        return json.loads(self.get("now"))

    def until(self, condition, what: str) -> dict:
        deadline = time.monotonic() + PATIENCE
        while not condition(now := self.stats()):
            assert time.monotonic() < deadline, f"in vain: {what}; {now}"
            time.sleep(0.01)
        return now

    def connect(self, *requests: bytes) -> socket.socket:
        """Open a connection and send requests on it, without waiting for answers."""
        connection = socket.create_connection(self.address, timeout=PATIENCE)
        connection.sendall(b"".join(requests))
        return connection


def http(path: str, method: str = "GET", body: bytes = b"") -> bytes:
    length = f"content-length: {len(body)}\r\n" if body else ""
    return f"{method} /{path} HTTP/1.1\r\nhost: x\r\n{length}\r\n".encode() + body


def read_until(connection: socket.socket, text: bytes) -> None:
    received = b""
    while text not in received:
        part = connection.recv(65536)
        assert part, f"the server closed the connection after {received!r}"
        received += part


@contextmanager
def serving(folder, *options: str):
    (folder / "apart_app.py").write_text(APP)
    env = {
        **NEVER,
        "FASTAPI_OVERFLOW_LIMIT": "3",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    command = ("-m", "uvicorn", "--port", "0", "--timeout-graceful-shutdown", "1", *options)
    with started(sys.executable, *command, "apart_app:app", cwd=folder, env=env) as server:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", tail(server.output))):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"uvicorn did not start:\n{tail(server.output)}")
            time.sleep(0.05)
        yield Served(found[0])


def hop_beside_background(server: Served, body: bytes, pipelined: bool) -> dict:
    """Make a hop in a connection's second request, while the first has its background task.

    :return: the statistics with that hop waiting, or done
    """
    with ExitStack() as open_until_end:
        requests = [http("first", "POST", body)]
        if pipelined:
            requests.append(http("hop"))
        connection = open_until_end.enter_context(server.connect(*requests))
        server.until(lambda now: now["hops"] == 1, "the first request's hop")
        for number in (1, 2):  # all threads that newcomers may use
            open_until_end.enter_context(server.connect(http("hold")))
            server.until(
                lambda now, number=number: now["hops"] == 1 + number and not now["waiting_first"],
                "a thread that is taken",
            )
        server.get("answer_first")
        read_until(connection, b"first")
        if not pipelined:
            connection.sendall(http("hop"))
        now = server.until(
            lambda now: now["hops"] == 4 or now["waiting_first"] or now["waiting_later"],
            "the second request's hop",
        )
        server.get("finish_all")
        if now["hops"] < 4:
            read_until(connection, b"hop")
        return now


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("http_implementation", ["h11", "httptools"])
class TestPipelining:
    def test_next_is_a_newcomer(self, http_implementation, loop, tmp_path):
        """A pipelined request is one of its own while the one before has a background task."""
        if http_implementation == "httptools":
            pytest.importorskip("httptools")
        if loop == "uvloop":
            pytest.importorskip("uvloop")
        with serving(tmp_path, "--http", http_implementation, "--loop", loop) as server:
            now = hop_beside_background(server, b"", pipelined=True)
        assert (now["hops"], now["waiting_first"], now["waiting_later"]) == (3, 1, 0)


@pytest.mark.parametrize("http_implementation", ["h11", "httptools"])
class TestLargeBody:
    def test_next_is_a_newcomer(self, http_implementation, tmp_path):
        """So is the next request on a connection after one with a body above 64 kB."""
        if http_implementation == "httptools":
            pytest.importorskip("httptools")
        with serving(tmp_path, "--http", http_implementation, "--loop", "asyncio") as server:
            now = hop_beside_background(server, b"x" * 300_000, pipelined=False)
        assert (now["hops"], now["waiting_first"], now["waiting_later"]) == (3, 1, 0)


NESTED = """
import json, sys
import anyio
from child_tools import Door, call, until
from fastapi_overflow import set_thread_limit, stats
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route


class Copies:
    # A middleware that hands its own copy of the scope on, as many do.
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(dict(scope), receive, send)


async def deep(request):
    await go_on.wait()
    await run_in_threadpool(int)
    return PlainTextResponse("deep")


class Hops(Copies):
    async def __call__(self, scope, receive, send):
        if scope["path"].startswith("/deep"):
            await run_in_threadpool(int)
            under_way.set()
        await self.app(scope, receive, send)


def hold(request):
    door()
    return PlainTextResponse("held")


door = Door()
inner = Starlette(routes=[Route("/hop", deep)])
twice = Copies(Starlette(routes=[Mount("/", Copies(inner))]))
nested = {"mounted": inner, "copied": Copies(inner), "twice": twice}[sys.argv[1]]
app = Starlette(routes=[Mount("/deep", nested), Route("/hold", hold)])
app.add_middleware(Hops)


async def main():
    global go_on, under_way
    go_on, under_way = anyio.Event(), anyio.Event()
    set_thread_limit(3)
    async with anyio.create_task_group() as group:
        group.start_soon(call, app, "/deep/hop")
        await under_way.wait()
        group.start_soon(call, app, "/hold")
        group.start_soon(call, app, "/hold")
        await until(lambda: stats().hops == 3, "two threads taken")
        go_on.set()
        await until(lambda: stats().hops == 4 or stats().waiting, "the app's hop")
        print(json.dumps(stats().waiting))
        door.open()

anyio.run(main, backend=sys.argv[2])
"""


class TestNestedApps:
    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    @pytest.mark.parametrize("nesting", ["mounted", "copied", "twice"])
    def test_is_one_request(self, nesting, backend):
        """An app inside an app serves the same request, though a middleware copies the scope."""
        assert run_child(NESTED, nesting, backend, env=NEVER) == 0


LEFT_BEHIND = """
import json, sys
import anyio
from child_tools import Door, request, until
from fastapi_overflow import set_thread_limit, stats
from starlette.concurrency import run_in_threadpool

backend, first_hop = sys.argv[1:]


async def main():
    set_thread_limit(3)
    door = Door()
    begun, go_on, served = anyio.Event(), anyio.Event(), anyio.Event()
    let_go = Door()

    async def left_behind():
        if first_hop == "over":
            await run_in_threadpool(int)
            begun.set()
        else:
            await run_in_threadpool(begins)
        await go_on.wait()
        await run_in_threadpool(int)
        served.set()

    def begins():
        anyio.from_thread.run_sync(begun.set)
        let_go()

    async def endpoint():
        group.start_soon(left_behind)
        await begun.wait()

    async def hold():
        await run_in_threadpool(door)

    async with anyio.create_task_group() as group:
        await request(endpoint)
        let_go.open()
        await until(lambda: not stats().threads_in_use, "the end of the request")
        for _ in range(5):
            group.start_soon(request, hold)
        await until(lambda: stats().waiting == 3, "newcomers that wait")
        go_on.set()
        await until(lambda: served.is_set() or stats().waiting == 4, "the later hop")
        print(json.dumps([served.is_set(), stats().waiting]))
        door.open()

anyio.run(main, backend=backend)
"""


class TestLeftBehind:
    @pytest.mark.parametrize("first_hop", ["over", "running"])
    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_is_no_newcomer(self, backend, first_hop):
        """A task that hopped before its request ended is under way: newcomers don't go before it.

        It may hold what the others wait for. So its next hop may use the reserve.
        """
        assert run_child(LEFT_BEHIND, backend, first_hop, env=NEVER) == [True, 3]
