"""`StatusApp`: a page that shows whether an app is stuck, and on what, for apps that mount it.

Called by the server for each request to that page. It must take no worker thread: it is needed most
while none is free.

Nothing is mounted by itself. FastAPI's `dependencies=` don't reach a mounted app, so guard the path
in the proxy, or by `Mount("/threads", StatusApp(), middleware=[...])`. What programs get is shown
in the source, in `_watching/README.md`.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from . import _settings
from ._requests.limiters import current_limiter
from ._watching.connections_out import connections
from ._watching.observer import PoolObserver
from ._watching.pool_stats import pool_stats
from ._watching.stats import is_saturated, stats
from ._watching.verdict import verdict

Message = MutableMapping[str, Any]

PAGE = Path(__file__).parent / "_watching" / "status_page"
SCRIPTS = ("tables.js", "figures.js", "look.js")  # in this order one script

MOST_CONNECTIONS = 20  # that are shown: those held longest


class StatusApp:
    """See why the app hangs while it does: is it stuck, who waits for what, who has what.

    A browser gets a page that follows it live, a program the same as JSON. Routes and lines of code
    are shown, parameters and SQL never. Mount it where only you can reach it, behind a proxy that
    guards the path or an authenticating middleware, as it shows what the process does::

        app.mount("/threads", StatusApp())

    It takes no thread. It shows the event loop that answers: of several worker processes, one.
    """

    def __init__(self) -> None:
        style = (PAGE / "style.css").read_text("utf-8")
        script = "".join((PAGE / name).read_text("utf-8") for name in SCRIPTS)
        page = (PAGE / "page.html").read_text("utf-8")
        page = page.replace("<style></style>", f"<style>{style}</style>")
        page = page.replace("<script></script>", f"<script>{script}</script>")
        self._page = page.encode()
        self._page_headers = {
            "content-security-policy": (
                f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}';"
                " connect-src 'self'; base-uri 'none'; form-action 'none'"
            ),
            "content-type": "text/html; charset=utf-8",
        }

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _answer_lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            status, body, headers = self._answer(scope)
            await _respond(send, status, body, headers, with_body=scope["method"] != "HEAD")

    def _answer(self, scope: Message) -> tuple[int, bytes, dict[str, str]]:
        text = {"content-type": "text/plain; charset=utf-8"}
        if scope["path"].removeprefix(scope.get("root_path", "")) not in ("", "/"):
            return 404, b"Not Found", text
        if scope["method"] not in ("GET", "HEAD"):
            return 405, b"Method Not Allowed", {**text, "allow": "GET, HEAD"}
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        if b"text/html" in accept:
            return 200, self._page, self._page_headers
        return 200, json.dumps(status()).encode(), {"content-type": "application/json"}


def status() -> dict[str, Any]:
    """Return what the page shows: the statistics of the running loop, and the verdict on them."""
    told = {
        **stats().as_dict(),
        "saturated": is_saturated(),
        "stalled_for": _stalled_for(),
        "pid": os.getpid(),
        "pools": [each.as_dict() for each in pool_stats()],
        "connections": [asdict(each) for each in connections()],
    }
    told["verdict"] = verdict(told)  # by all of the connections
    told["connections"] = told["connections"][:MOST_CONNECTIONS]
    return told


def _stalled_for() -> float:
    if _settings.is_disabled():
        return 0.0
    observer = current_limiter().pool.observer
    return observer.stalled_for() if isinstance(observer, PoolObserver) else 0.0


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


async def _respond(
    send: Callable[[Message], Awaitable[None]],
    status: int,
    body: bytes,
    headers: dict[str, str],
    with_body: bool,
) -> None:
    headers = {
        **headers,
        "content-length": str(len(body)),
        "cache-control": "no-store",
        "vary": "accept",
        "x-content-type-options": "nosniff",
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body if with_body else b""})


async def _answer_lifespan(
    receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answer lifespan events, for a server that serves this app on its own."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
