"""Clients that speak ASGI to an app in their own process: plain, slow, uploading, WebSocket.

Called by load.py, a task per request. What goes wrong is what they return, never raise.
"""

from __future__ import annotations

from typing import Any

import anyio
from table import Shape

BODY = (
    b'--x\r\nContent-Disposition: form-data; name="data"; filename="a.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\n" + b"y" * 20_000 + b"\r\n--x--\r\n"
)
PAUSE = 0.005  # seconds that a slow client takes for a piece of the answer


async def send_request(shape: Shape, app: Any) -> str:
    """Send one request and return what became of it: "200", or another status or error."""
    client = websocket_client if shape.kind == "websocket" else http_client
    try:
        return await client(shape, app)
    except Exception as exc:
        return type(exc).__name__


def scope(shape: Shape, kind: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "method": "POST" if shape.kind == "upload" else "GET",
        "path": shape.path,
        "raw_path": shape.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), *headers],
        "client": ("127.0.0.1", 12345),
        "server": ("testserver", 80),
        "subprotocols": [],
    }


async def http_client(shape: Shape, app: Any) -> str:
    upload = shape.kind == "upload"
    status, complete, body_sent = "no answer", False, False
    disconnected = anyio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal body_sent
        if body_sent:
            await disconnected.wait()
            return {"type": "http.disconnect"}
        body_sent = True
        return {"type": "http.request", "body": BODY if upload else b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, complete
        if message["type"] == "http.response.start":
            status = str(message["status"])
        elif message["type"] == "http.response.body":
            if shape.slow:
                await anyio.sleep(PAUSE)
            complete = not message.get("more_body", False)

    headers = [(b"content-type", b"multipart/form-data; boundary=x")] if upload else []
    headers.append((b"content-length", str(len(BODY) if upload else 0).encode()))
    await app(scope(shape, "http", headers), receive, send)
    disconnected.set()
    return status if complete else f"{status}, cut off"


async def websocket_client(shape: Shape, app: Any) -> str:
    """Three questions, each sent when the answer to the one before is there."""
    to_app, from_client = anyio.create_memory_object_stream(10)  # a function in anyio 3
    answers = 0
    question = {"type": "websocket.receive", "text": "name?"}
    to_app.send_nowait({"type": "websocket.connect"})
    to_app.send_nowait(question)

    async def send(message: dict[str, Any]) -> None:
        nonlocal answers
        if message["type"] == "websocket.send":
            answers += 1
            leave = {"type": "websocket.disconnect", "code": 1000}
            to_app.send_nowait(question if answers < 3 else leave)

    async with to_app, from_client:
        await app(scope(shape, "websocket", []), from_client.receive, send)
    return "200" if answers == 3 else f"{answers} answers"
