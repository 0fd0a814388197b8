"""StatusApp: what a mounted page tells programs and people."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import urllib.request
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import fastapi_overflow
from fastapi_overflow.asgi import StatusApp
from observed import busy, calm
from support import PATIENCE, free_port, run, started, wait_until

pytestmark = pytest.mark.anyio

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def get(path: str = "/threads/", method: str = "GET", **headers: str) -> httpx.Response:
    app = Starlette(routes=[Mount("/threads", StatusApp())])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, headers=headers)


class TestJson:
    @pytest.mark.parametrize("accept", ["application/json", "*/*"])
    async def test_to_programs(self, accept):
        """A program gets the statistics, as stats() has them."""
        fastapi_overflow.set_thread_limit(17)
        answer = await get(accept=accept)
        told = answer.json()
        expected = json.loads(json.dumps(fastapi_overflow.stats().as_dict()))
        assert told == {**expected, "saturated": False, "pid": os.getpid()}

    async def test_takes_no_thread(self):
        """It answers while there is no thread to be had, and takes none."""
        calm(3)
        async with busy(9):
            told = (await get(accept="application/json")).json()
        assert (told["threads_in_use"], told["waiting_first"], told["hops"]) == (2, 7, 2)

    async def test_not_cached(self):
        """No cache keeps an answer."""
        headers = (await get()).headers
        assert (headers["cache-control"], headers["vary"]) == ("no-store", "accept")


class TestPage:
    async def test_to_browsers(self):
        """A browser gets a page."""
        answer = await get(**BROWSER)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.text.startswith("<!doctype html>")

    async def test_self_contained(self):
        """It needs nothing from elsewhere, and its policy forbids all but its own script."""
        answer = await get(**BROWSER)
        assert not re.search(r"(src|href)=[\"'](?!data:)", answer.text)
        assert "url(" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert re.search(r"script-src 'sha256-[\w+/]+='", policy)

    async def test_light_and_dark(self):
        """It follows the system's preference."""
        assert "prefers-color-scheme: dark" in (await get(**BROWSER)).text


class TestHttp:
    async def test_head(self):
        """HEAD has the headers of GET and no body."""
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "HEAD", "path": "/", "headers": []}
        await StatusApp()(scope, None, send)  # not by a client, which would drop a body
        start, body = sent
        assert start["status"] == 200
        assert int(dict(start["headers"])[b"content-length"]) > 0
        assert body["body"] == b""

    async def test_other_methods(self):
        """Nothing can be changed by it."""
        answer = await get(method="POST")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")

    async def test_other_paths(self):
        """Only the place where it is mounted is answered."""
        assert (await get("/threads/x")).status_code == 404

    async def test_on_its_own(self):
        """It can be served without an app around it."""
        sent = []
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message["type"])

        await StatusApp()({"type": "lifespan"}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


# 45 requests for 40 threads, all blocked until the process ends.
STUCK = """
import socket, sys, threading
import uvicorn
from fastapi import FastAPI
from fastapi_overflow.asgi import StatusApp

app = FastAPI()
stuck = threading.Event()

@app.get("/block")
def block():
    stuck.wait(600)

app.mount("/threads", StatusApp())
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


@pytest.fixture(scope="module")
def stuck_server(wheel_python, tmp_path_factory):
    """The address of the page of an app all of whose threads are blocked, with waiters."""
    port = free_port()
    script = tmp_path_factory.mktemp("stuck") / "stuck.py"
    script.write_text(STUCK)
    url = f"http://127.0.0.1:{port}/threads/"

    def statistics():
        with suppress(OSError), urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return json.load(answer)

    def is_stuck():
        told = statistics()
        return (
            told and told["stalled"] and (told["threads_in_use"], told["waiting_first"]) == (40, 5)
        )

    with started(wheel_python, script, str(port)) as server, ExitStack() as closed:
        wait_until(statistics, "the start of the server", server)
        for _ in range(45):
            client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            closed.enter_context(client)
            client.sendall(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(is_stuck, "40 stuck threads and 5 requests that wait for one", server)
        yield url


def chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        reason = "no Chromium found: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        return run(
            found,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            "--window-size=1000,620",
            "--virtual-time-budget=5000",
            *arguments,
            timeout=3 * PATIENCE,
            env={"HOME": profile},
        )


class TestInABrowser:
    def test_while_the_pool_is_stuck(self, stuck_server):
        """A real browser draws the live charts while not one thread is free."""
        dom = chromium("--dump-dom", stuck_server).stdout
        assert re.search(r'id="state"[^>]*class="bad">stalled<', dom), dom[-3000:]
        assert re.search(r"<dt>In use</dt><dd>40 <small>of 40</small>", dom)
        assert re.search(r"<dt>Waiting</dt><dd>5 <small>0 under way</small>", dom)
        lines = re.findall(r'<polyline class="\w+" points="([^"]+)"', dom)
        assert len(lines) == 6
        assert 'aria-label="Threads, now: in use 40, limit 40"' in dom

    def test_light_and_dark(self, stuck_server, tmp_path: Path):
        """The page is bright in the light scheme, and not in the dark one."""
        corner = {}
        for scheme, preferred in (("dark", 0), ("light", 1)):
            picture = tmp_path / f"{scheme}.png"
            chromium(
                f"--blink-settings=preferredColorScheme={preferred}",
                f"--screenshot={picture}",
                stuck_server,
            )
            corner[scheme] = first_pixel(picture)
        assert min(corner["light"]) > 200
        assert max(corner["dark"]) < 60


def first_pixel(png: Path) -> tuple[int, ...]:
    """Return red, green and blue of the top left pixel: in a first row no filter changes it."""
    data, compressed = png.read_bytes()[8:], b""
    while data:
        size = int.from_bytes(data[:4], "big")
        if data[4:8] == b"IDAT":
            compressed += data[8 : 8 + size]
        data = data[size + 12 :]
    return tuple(zlib.decompress(compressed)[1:4])
