"""The status page in a real browser, of a real app under uvicorn and under load."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from browser import browser
from support import PATIENCE, ChildHung, free_port, started, wait_until

# Of five connections one is leaked and the others are kept by streams; and a route that blocks.
APP = """
import asyncio, sys, threading
from typing import Annotated
import uvicorn
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from fastapi_overflow.asgi import StatusApp

engine = create_engine("sqlite:///shop.db", pool_size=3, max_overflow=2, pool_timeout=600)
app = FastAPI()
stuck = threading.Event()
leaked = []

def get_db():
    with Session(engine) as session:
        yield session

Db = Annotated[Session, Depends(get_db)]

@app.get("/block")
def block():
    stuck.wait(600)

@app.get("/leak")
def leak():
    leaked.append(engine.connect())  # LEAK
    leaked[-1].execute(text("SELECT 1"))

def first(db):
    db.execute(text("SELECT 1"))  # STREAM

@app.get("/stream/{name}")
async def stream(name: str, db: Db):
    await asyncio.to_thread(first, db)
    async def tokens():
        while True:
            yield "token"
            await asyncio.sleep(0.1)
    return StreamingResponse(tokens())

@app.get("/orders/{number}")
def order(number: int, db: Db):
    db.execute(text("SELECT 'secret'"))

app.mount("/threads", StatusApp())
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


class Served:
    """The app above, under uvicorn.

    :ivar url: of its status page
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/threads/"
        self._port = port

    def told(self) -> dict[str, Any] | None:
        """Return what the page tells programs, None while there is no server."""
        with suppress(OSError), urllib.request.urlopen(self.url, timeout=PATIENCE) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
        return None

    def ask(self, path: str) -> socket.socket:
        """Send a request, and return the connection by which its answer comes."""
        client = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return client

    def until(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait until what the page tells is so."""
        latest: dict[str, Any] = {}

        def is_so() -> bool:
            latest.update(self.told() or {})
            return bool(latest) and condition(latest)

        try:
            wait_until(is_so, what)
        except ChildHung as exc:
            raise ChildHung(f"{exc}; told: {latest}") from None
        return latest


@pytest.fixture
def server(wheel_python, tmp_path):
    script = tmp_path / "shop.py"
    script.write_text(APP)
    port = free_port()
    served = Served(port)
    with started(wheel_python, script, str(port), cwd=tmp_path) as process:
        wait_until(served.told, "the start of the server", process)
        yield served


@pytest.fixture(scope="module")
def window():
    with browser() as found:
        yield found


def until_text(window, text, selector="#sentence"):
    element = f"document.querySelector({json.dumps(selector)})"
    window.until(f"{element}?.textContent.includes({json.dumps(text)})", text)


class TestInABrowser:
    def test_while_the_pool_is_stuck(self, server, window):
        """A real browser shows that it is stuck and by which route while no thread is free."""
        with ExitStack() as closed:
            for _ in range(45):
                closed.enter_context(server.ask("/block"))
            server.until(lambda told: told["verdict"]["state"] == "stuck", "a verdict")
            window.show(server.url)
            until_text(window, "stuck", "#state")
            sentence = window.text("#sentence")
            assert sentence.startswith("Nothing has finished for ")
            assert ": 40 of 40 threads are taken, all by GET /block; 5 requests wait" in sentence
            assert window.table("resources")[0][:2] == ["threads of the event loop", "40 of 40"]
            assert window.table("routes")[0][:3] == ["GET /block", "40", "5"]
            label = window.run("document.querySelector('svg').getAttribute('aria-label')")
            assert label == "Threads, now: taken 40, limit 40"

    def test_connections_that_are_kept(self, server, window, tmp_path):
        """It names who keeps connections and who has leaked one, by line, and follows the end."""
        window.show(server.url)
        lines = APP.splitlines()
        lines = {name: next(n for n, line in enumerate(lines, 1) if line.endswith(f"# {name}"))
                 for name in ("LEAK", "STREAM")}  # fmt: skip
        with ExitStack() as closed, ExitStack() as streams:
            with server.ask("/leak") as client:
                client.recv(1)
            for n in range(4):
                streams.enter_context(server.ask(f"/stream/{n}")).recv(1)
            for n in range(6):
                closed.enter_context(server.ask(f"/orders/{n}"))
            server.until(lambda told: told["verdict"]["state"] == "stuck", "a verdict")
            until_text(window, "stuck", "#state")
            sentence = window.text("#sentence")
            stream = f"GET /stream/{{name}} (shop.py:{lines['STREAM']})"
            assert sentence.startswith("Nothing has come back for ")
            assert ": 5 of 5 connections of sqlite:///shop.db are out, all idle, " in sentence
            assert f", 4 of these with {stream}; 6 requests wait for one, the longest" in sentence
            leak = f"GET /leak (shop.py:{lines['LEAK']})"
            assert f"1 connection is still out of requests that have ended: {leak}." in sentence
            found = {row[0]: row[1:] for row in window.table("connections")}
            assert found["GET /stream/{name}"][:3] == [f"shop.py:{lines['STREAM']}", "idle", "4"]
            assert found["GET /leak"][1] == "request has ended: a leak"
            waiting = {row[0]: row[3] for row in window.table("routes")}
            assert waiting["GET /orders/{number}"] == "6"
            window.picture(tmp_path / "kept.png")
            streams.close()
            until_text(window, "ok", "#state")
            assert window.text("#sentence").startswith("Nobody waits; ")
            assert "secret" not in json.dumps(server.told())

    def test_restarted(self, wheel_python, tmp_path, window):
        """A page that is open says that the server is gone, and goes on with the next one."""
        script = tmp_path / "shop.py"
        script.write_text(APP)
        served = Served(port := free_port())
        for again in (False, True):
            with started(wheel_python, script, str(port), cwd=tmp_path) as process:
                wait_until(served.told, "the start of the server", process)
                if not again:
                    window.show(served.url)
                until_text(window, f"process {process.pid}", "#whose")
                until_text(window, "ok", "#state")
            until_text(window, "no answer", "#state")
