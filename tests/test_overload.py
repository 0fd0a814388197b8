"""Overload gets an answer where an operator asks for it, and nobody is turned away otherwise.

Run by pytest: the pool without threads, and apps in a process of their own.
"""

import sys

import anyio
import pytest

from child_tools import run_child
from fastapi_overflow._requests.lease_of_request import current_lease
from limiter_tools import as_request, first_hops, make_limiter, settle
from support import run_python

pytestmark = pytest.mark.anyio


class Refused(Exception):
    pass


class Refusal:
    def __init__(self, holds_nothing=True):
        self._holds_nothing = holds_nothing

    def holds_nothing(self):
        return self._holds_nothing

    def error(self):
        return Refused()


async def first_hop(limiter, outcomes, refusal):
    current_lease.get().refusal = refusal
    try:
        async with limiter:
            outcomes.append("ran")
    except Refused:
        outcomes.append("refused")


class TestPatience:
    async def test_turned_away(self, monkeypatch):
        """A first hop that has waited for so long is turned away, and not before."""
        limiter, clock = make_limiter(monkeypatch, 1, max_wait=10)
        outcomes = []
        async with anyio.create_task_group() as group:
            (busy,) = first_hops(limiter, group, 1)
            await settle(limiter)
            group.start_soon(as_request, limiter, first_hop, limiter, outcomes, Refusal())
            await settle(limiter)
            clock.advance(9.9)
            await settle(limiter)
            assert outcomes == []
            clock.advance(0.1)
            await settle(limiter)
            assert (outcomes, limiter.pool.waiting) == (["refused"], 0)
            busy.end()
        assert limiter.pool.counters.refused == 1

    @pytest.mark.parametrize("refusal", [None, Refusal(holds_nothing=False)])
    async def test_waits_on(self, monkeypatch, refusal):
        """Not if its request holds something, or is none that can be answered."""
        limiter, clock = make_limiter(monkeypatch, 1, max_wait=10)
        outcomes = []
        async with anyio.create_task_group() as group:
            (busy,) = first_hops(limiter, group, 1)
            await settle(limiter)
            group.start_soon(as_request, limiter, first_hop, limiter, outcomes, refusal)
            await settle(limiter)
            clock.advance(100)
            await settle(limiter)
            assert (outcomes, limiter.pool.waiting) == ([], 1)
            busy.end()
        assert outcomes == ["ran"]

    async def test_outside_any_request(self, monkeypatch):
        """Nor a hop outside any request."""
        limiter, clock = make_limiter(monkeypatch, 1, max_wait=10)
        outcomes = []

        async def outside():
            async with limiter:
                outcomes.append("ran")

        async with anyio.create_task_group() as group:
            (busy,) = first_hops(limiter, group, 1)
            await settle(limiter)
            group.start_soon(outside)
            await settle(limiter)
            clock.advance(100)
            await settle(limiter)
            busy.end()
        assert outcomes == ["ran"]

    async def test_cancelled(self, monkeypatch):
        """Who is cancelled in the very turn in which it is turned away leaves nothing behind."""
        limiter, clock = make_limiter(monkeypatch, 1, max_wait=10)
        outcomes = []
        async with anyio.create_task_group() as group:
            (busy,) = first_hops(limiter, group, 1)
            await settle(limiter)
            async with anyio.create_task_group() as others:
                others.start_soon(as_request, limiter, first_hop, limiter, outcomes, Refusal())
                await settle(limiter)
                clock.advance(10)
                others.cancel_scope.cancel()
            await settle(limiter)
            assert limiter.pool.waiting == 0
            busy.end()
        assert limiter.borrowed_tokens == 0

    async def test_memory(self, monkeypatch):
        """However many come and are served, no more is kept than in proportion to who waits."""
        limiter, _ = make_limiter(monkeypatch, 1, max_wait=10)
        outcomes = []
        async with anyio.create_task_group() as group:
            for _ in range(20):
                busy = first_hops(limiter, group, 1)
                await anyio.lowlevel.checkpoint()
                for _ in range(10):
                    group.start_soon(as_request, limiter, first_hop, limiter, outcomes, Refusal())
                await settle(limiter)
                for hop in busy:
                    hop.end()
                await settle(limiter)
            assert len(limiter.pool.patience) <= 40


APP = """
import json, logging, threading, time
import anyio
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import JSONResponse
from fastapi.middleware.cors import CORSMiddleware
from starlette.concurrency import run_in_threadpool
from child_tools import Door, request, told, until
import fastapi_overflow
from fastapi_overflow import Overloaded

door = Door()
ran = []
records = told()
app = FastAPI()
app.add_middleware(CORSMiddleware, allow_origins=["*"])


class InMiddleware:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope.get("path") == "/middleware":
            await run_in_threadpool(ran.append, "middleware")
        await self.app(scope, receive, send)


app.add_middleware(InMiddleware)


def dependency():
    ran.append("dependency")
    yield


@app.get("/block")
def block():
    door()


@app.get("/route", dependencies=[Depends(dependency)])
@app.get("/middleware")
@app.get("/handled")
def route():
    ran.append("route")


@app.websocket("/ws")
async def ws(websocket: WebSocket, _=Depends(dependency)):
    await websocket.accept()


@app.websocket("/accepted")
async def accepted(websocket: WebSocket):
    await websocket.accept()
    await run_in_threadpool(ran.append, "accepted")


async def get(path, kind="http"):
    sent = []

    async def receive():
        if kind == "http":
            return {"type": "http.request", "body": b""}
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": "GET", "path": path, "query_string": b"", "subprotocols": [],
             "headers": [(b"origin", b"http://else.where"), (b"host", b"x")]}
    await app(scope, receive, send)
    return sent


async def main():
    out = {}
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(get, "/block")
        await until(lambda: fastapi_overflow.stats().threads_in_use == 2, "all threads busy")

        async def one(name, path, kind="http"):
            sent = await get(path, kind)
            out[name] = [
                [m["type"], m.get("status") or m.get("code"),
                 {k.decode(): v.decode() for k, v in m.get("headers", ())}]
                for m in sent if m["type"] != "http.response.body"
            ]

        async with anyio.create_task_group() as others:
            for name in ("route", "middleware"):
                others.start_soon(one, name, "/" + name)
            others.start_soon(one, "ws", "/ws", "websocket")
            others.start_soon(one, "accepted", "/accepted", "websocket")
        out["ran"] = list(ran)

        @app.exception_handler(Overloaded)
        async def handle(request, exc):
            return JSONResponse({"mine": str(exc)}, 429)

        app.middleware_stack = None
        await one("handled", "/handled")
        out["refused"] = fastapi_overflow.stats().refused
        door.open()
    await one("afterwards", "/route")
    out["log"] = [r.getMessage() for r in records if getattr(r, "event", "") == "overload"]
    print(json.dumps(out))

anyio.run(main)
"""

LIMIT = {"FASTAPI_OVERFLOW_LIMIT": "3", "FASTAPI_OVERFLOW_STALL_SECONDS": "3600"}


@pytest.fixture(scope="module")
def answers():
    return run_child(APP, env={**LIMIT, "FASTAPI_OVERFLOW_MAX_WAIT": "0.3"})


class TestAnswers:
    @pytest.mark.parametrize("where", ["route", "middleware"])
    def test_503(self, answers, where):
        """A request is answered 503, with `Retry-After`, be it at its route or in a middleware."""
        ((_, status, headers),) = answers[where]
        assert (status, headers["retry-after"]) == (503, "1")

    def test_through_middleware(self, answers):
        """The answer goes through CORS like any other."""
        assert answers["route"][0][2]["access-control-allow-origin"] == "*"

    def test_websocket(self, answers):
        """A WebSocket is closed with 1013, before it is accepted and after."""
        assert [message[:2] for message in answers["ws"]] == [["websocket.close", 1013]]
        assert answers["accepted"][-1][:2] == ["websocket.close", 1013]

    def test_nothing_has_run(self, answers):
        """None of the app's sync code has run for it."""
        assert answers["ran"] == []

    def test_handler(self, answers):
        """The app's own handler may answer instead."""
        assert answers["handled"][0][1] == 429

    def test_counted(self, answers):
        """Each is counted; the log has a line a minute."""
        assert answers["refused"] == 5
        assert len(answers["log"]) == 1
        assert "FASTAPI_OVERFLOW_MAX_WAIT" in answers["log"][0]

    def test_afterwards(self, answers):
        """Once there is a thread again requests are answered as ever."""
        assert answers["afterwards"][0][1] == 200


class TestImport:
    def test_star(self):
        """`from fastapi_overflow import *` imports no Starlette, which would decide settings."""
        code = (
            "import sys; from fastapi_overflow import *; print('starlette' in sys.modules);"
            "from fastapi_overflow import Overloaded; print('starlette' in sys.modules)"
        )
        done = run_python(sys.executable, code, timeout=60, check=True)
        assert done.stdout.split() == ["False", "True"]
