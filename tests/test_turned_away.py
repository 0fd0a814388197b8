"""Whom an overload turns away, and whom not any more; what is left to the app's own handlers.

Run by pytest: apps in a process of their own, whose threads are all busy until the test says so.
"""

import fastapi
import pytest
import starlette.exceptions

from child_tools import run_child
from fastapi_overflow import Overloaded

COMMON = """
import contextlib, json, sys
from functools import partial

import anyio
from fastapi import FastAPI, WebSocket
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

import fastapi_overflow
from child_tools import Door, until

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup  # anyio needs it there

door = Door()
ran = []
out = {}
app = FastAPI()


@app.get("/block")
def block():
    door()


@app.get("/sync")
def sync():
    ran.append("sync")


async def call(path, kind="http", received=(), fails=()):
    \"\"\"Return what the app sends, and as the last thing what it raises.

    :param received: types of messages that it receives from a WebSocket after `websocket.connect`
    :param fails: types of messages that can't be sent, as the client has gone
    \"\"\"
    sent = []
    messages = [{"type": "http.request", "body": b""}]
    if kind == "websocket":
        messages = [{"type": "websocket.connect"}, *({"type": name} for name in received)]

    async def receive():
        return messages.pop(0) if messages else await anyio.sleep_forever()

    async def send(message):
        if message["type"] in fails:
            raise OSError("gone")
        told = message.get("status") or message.get("code") or message.get("body", b"").decode()
        headers = {key.decode(): value.decode() for key, value in message.get("headers", ())}
        sent.append([message["type"], told, headers.get("retry-after")])

    scope = {"type": kind, "method": "GET", "path": path, "query_string": b"", "headers": [],
             "subprotocols": []}
    try:
        await app(scope, receive, send)
    except Exception as exc:
        sent.append(["raised", type(exc).__name__, None])
    return sent


async def tell(name, *args, **kwargs):
    out[name] = await call(*args, **kwargs)


async def busy(during):
    \"\"\"Have all threads busy meanwhile.\"\"\"
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(call, "/block")
            await until(lambda: fastapi_overflow.stats().threads_in_use == 2, "all threads busy")
            try:
                await during(group)
            finally:
                door.open()
"""

LIMIT = {
    "FASTAPI_OVERFLOW_LIMIT": "3",
    "FASTAPI_OVERFLOW_STALL_SECONDS": "3600",
    "FASTAPI_OVERFLOW_MAX_WAIT": "0.3",
}

WAITING_ON = """
@app.get("/stream")
async def stream():
    return StreamingResponse(iter(["a", "b"]))


@app.websocket("/disconnected")
async def disconnected(websocket: WebSocket):
    await websocket.accept()
    try:
        async for _ in websocket.iter_text():
            pass
    finally:
        await run_in_threadpool(ran.append, "disconnected")


@app.websocket("/closed")
async def closed(websocket: WebSocket):
    await websocket.accept()
    await websocket.close()
    await run_in_threadpool(ran.append, "closed")


@app.websocket("/gone")
async def gone(websocket: WebSocket):
    await websocket.accept()
    try:
        await websocket.send_text("tick")
    finally:
        await run_in_threadpool(ran.append, "gone")


async def denied(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
    await run_in_threadpool(ran.append, "denied")
    await send({"type": "websocket.http.response.body", "body": b"no"})


app.mount("/denied", denied)
zipped = FastAPI()
zipped.add_middleware(GZipMiddleware)
zipped.get("/stream")(stream)
app.mount("/zipped", zipped)
WS = {"kind": "websocket"}
CASES = {
    "stream": ("/stream",),
    "zipped": ("/zipped/stream",),
    "disconnected": ("/disconnected", {**WS, "received": ["websocket.disconnect"]}),
    "closed": ("/closed", WS),
    "gone": ("/gone", {**WS, "fails": ["websocket.send"]}),
    "denied": ("/denied/", WS),
}
async def during(group):
    for name, (path, *rest) in CASES.items():
        group.start_soon(partial(tell, name, path, **(rest[0] if rest else {})))
    await until(lambda: fastapi_overflow.stats().waiting_first == len(CASES), "all of them wait")
    # It comes after them, so their time is up when it is turned away.
    await tell("last", "/sync")


anyio.run(busy, during)
print(json.dumps({**out, "ran": sorted(ran)}))
"""

HANDLERS = """
@app.websocket("/ws")
async def ws(websocket: WebSocket):
    await run_in_threadpool(ran.append, "ws")


class InMiddleware:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        path = scope.get("path")
        if path == "/caught":
            with contextlib.suppress(fastapi_overflow.Overloaded):
                await run_in_threadpool(ran.append, path)
            raise ValueError
        if path == "/instead":
            try:
                await run_in_threadpool(ran.append, path)
            except fastapi_overflow.Overloaded as exc:
                raise ValueError from exc
        if path == "/group":
            async with anyio.create_task_group() as group:
                group.start_soon(run_in_threadpool, ran.append, path)
        if path == "/groups":
            await in_groups(fastapi_overflow.Overloaded)
        if path == "/mixed":
            await in_groups(fastapi_overflow.Overloaded, ValueError)
        await self.app(scope, receive, send)


async def in_groups(*kinds):
    # Raises what a hop does, with an error of each further kind, in a group in a group.
    try:
        await run_in_threadpool(int)
    except kinds[0] as exc:
        error = exc
    group = ExceptionGroup("inner", [error, *(kind() for kind in kinds[1:])])
    raise ExceptionGroup("outer", [group])


app.add_middleware(InMiddleware)


@app.exception_handler(503)
async def unavailable(request, exc):
    return JSONResponse({"path": request.url.path, "method": request.method}, 503, exc.headers)


async def during(_):
    async with anyio.create_task_group() as group:
        for name in ("sync", "caught", "instead", "group", "groups", "mixed"):
            group.start_soon(tell, name, "/" + name)
        group.start_soon(tell, "ws", "/ws", "websocket")
        group.start_soon(tell, "ws in a group", "/group", "websocket")


anyio.run(busy, during)
print(json.dumps(out))
"""

SYNC_HANDLERS = """
import sys


@app.exception_handler(fastapi_overflow.Overloaded)
def overloaded(request, exc):
    ran.append("handler")


class InMiddleware:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope.get("path") == "/middleware":
            await run_in_threadpool(ran.append, "middleware")
        await self.app(scope, receive, send)


app.debug = sys.argv[1] == "debug"
app.add_middleware(InMiddleware)


async def during(_):
    async with anyio.create_task_group() as group:
        for name in ("sync", "middleware"):
            group.start_soon(tell, name, "/" + name)


anyio.run(busy, during)
print(json.dumps({**out, "ran": ran}))
"""


@pytest.fixture(scope="module")
def waiting_on():
    return run_child(COMMON + WAITING_ON, env=LIMIT)


@pytest.fixture(scope="module")
def handled():
    return run_child(COMMON + HANDLERS, env=LIMIT)


class TestWaitsOn:
    def test_others(self, waiting_on):
        """While these wait on, others that came after them are turned away."""
        assert waiting_on["last"][0] == ["http.response.start", 503, "1"]

    @pytest.mark.parametrize("how", ["stream", "zipped"])
    def test_response_begun(self, waiting_on, how):
        """A response that has begun isn't cut off: a stream whose first item takes a thread.

        Not either where a middleware keeps its beginning back until there is something to send.
        """
        bodies = [told for _, told, _ in waiting_on[how][1:]]
        assert (waiting_on[how][0][1], "".join(bodies)) == (200, "ab")

    @pytest.mark.parametrize("how", ["disconnected", "closed", "gone", "denied"])
    def test_websocket_ended(self, waiting_on, how):
        """What is left to do after a WebSocket has ended is done, whoever has ended it."""
        assert how in waiting_on["ran"]
        assert ["websocket.close", 1013, None] not in waiting_on[how]


class TestHandlers:
    def test_whose_exception(self):
        """Handlers of Starlette's HTTPException get it, those of FastAPI's don't."""
        assert issubclass(Overloaded, starlette.exceptions.HTTPException)
        assert not issubclass(Overloaded, fastapi.HTTPException)

    def test_of_status(self, handled):
        """The app's own handler of 503 answers a request."""
        assert handled["sync"][1][1] == '{"path":"/sync","method":"GET"}'

    def test_websocket(self, handled):
        """It isn't called for a WebSocket, which has no status: that is closed."""
        assert handled["ws"] == [["websocket.close", 1013, None]]

    @pytest.mark.parametrize("case", ["caught", "instead", "mixed"])
    def test_other_error(self, handled, case):
        """An error of the app's own is a 500, and raised, though the request was turned away."""
        assert handled[case][0] == ["http.response.start", 500, None]
        assert handled[case][-1][0] == "raised"

    @pytest.mark.parametrize("case", ["group", "groups"])
    def test_group(self, handled, case):
        """Turned away in a task group of a middleware it is answered 503, and nothing is raised."""
        assert [message[:2] for message in handled[case]] == [
            ["http.response.start", 503],
            ["http.response.body", "Internal Server Error"],
        ]
        assert handled[case][0][2] == "1"

    def test_websocket_in_group(self, handled):
        """There a WebSocket is closed too."""
        assert handled["ws in a group"] == [["websocket.close", 1013, None]]

    @pytest.mark.parametrize("mode", ["debug", "production"])
    def test_sync_handler(self, mode):
        """A handler that itself needs a thread is turned away in its turn; the answer is a 503."""
        handled = run_child(COMMON + SYNC_HANDLERS, mode, env=LIMIT)
        for name in ("sync", "middleware"):
            assert handled[name][0] == ["http.response.start", 503, "1"]
            assert handled[name][-1][0] == "http.response.body"
        assert handled["ran"] == []
