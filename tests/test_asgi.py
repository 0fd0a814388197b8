"""StatusApp: what a mounted page tells programs and people."""

from __future__ import annotations

import json
import os
import re

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import fastapi_overflow
from fastapi_overflow.asgi import StatusApp
from observed import busy, calm, stall_watch, until
from support import PATIENCE

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
        assert {name: told[name] for name in expected} == expected
        rest = {name: told[name] for name in told if name not in expected}
        assert (rest["pid"], rest["saturated"], rest["stalled_for"]) == (os.getpid(), False, 0.0)
        names = ["connections", "pid", "pools", "saturated", "stalled_for", "verdict"]
        assert sorted(rest) == names

    async def test_takes_no_thread(self):
        """It answers while there is no thread to be had, and takes none."""
        calm(3)
        async with busy(9):
            told = (await get(accept="application/json")).json()
        assert (told["threads_in_use"], told["waiting_first"], told["hops"]) == (2, 7, 2)

    async def test_verdict(self):
        """A program is told the same as people: whether it is stuck, in a word and a sentence."""
        calm(3)
        async with busy(9):
            told = (await get(accept="application/json")).json()["verdict"]
        assert told["state"] in ("busy", "short of threads")
        assert "7 requests wait for a thread, the longest for " in told["sentence"]

    async def test_stalled_for(self):
        """How long nothing has finished is told while somebody waits, and 0 when it moves again."""
        calm(3)
        stall_watch().seconds = 0.01

        async def stalled_for():
            return (await get(accept="application/json")).json()["stalled_for"]

        async with busy(9):
            with anyio.fail_after(PATIENCE):
                while await stalled_for() < 0.05:  # noqa: ASYNC110 - it is told when asked for
                    await anyio.sleep(0.01)
        await until(lambda: not fastapi_overflow.stats().stalled, "the end of the stall")
        assert await stalled_for() == 0

    async def test_switched_off(self, monkeypatch):
        """Where the package is switched off the page still answers, and says so."""
        monkeypatch.setattr("fastapi_overflow._settings.is_disabled", lambda: True)
        told = (await get(accept="application/json")).json()
        assert (told["verdict"]["state"], told["limit"]) == ("off", 0)

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
        assert re.search(r"style-src 'sha256-[\w+/]+='", policy)
        assert answer.text.count("<script>") == answer.text.count("<style>") == 1

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
