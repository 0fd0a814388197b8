"""An app of forty routes under load: four planted faults are named, and nothing else.

Run by pytest: a real uvicorn with PostgreSQL, with the faults and without.
"""

import asyncio
import json
import random
from contextlib import contextmanager
from pathlib import Path

import httpx
import websockets

from support import PATIENCE, answers, free_port, started, wait_until

APP = Path(__file__).parent / "served" / "forty.py"
CLIENTS = 12  # at once; the pool has 15 connections
SECONDS = 4.0
KINDS = ("orders", "users", "bills", "files")
ROUTES = (
    "list",
    "count",
    "create",
    "slow",
    "async",
    "async-engine",
    "executor",
    "export",
    "background",
    "socket",
)


def line_of(mark):
    """Return the line of the app with this mark, as it is printed."""
    lines = APP.read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if line.endswith(f"# planted: {mark}")]
    return f"forty.py:{number}"


@contextmanager
def served(python, postgres_url, folder, **env):
    """Serve the app by uvicorn; yield its URL."""
    port = free_port()
    command = (python, "-m", "uvicorn", "forty:app", "--port", str(port), "--no-access-log")
    env = {"DATABASE_URL": postgres_url, "RECORDS": str(folder / "records"), **env}
    with started(*command, env=env, cwd=APP.parent) as server:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/health"), "the answer of uvicorn", server)
        yield url


def told(folder):
    """Return the records of the package's logger that say more than that it is there."""
    path = folder / "records"
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for record in map(json.loads, lines) if record["event"] != "patched"]


async def use(client, path):
    """Use a route once, as its clients do."""
    if path.endswith("/socket"):
        address = f"{client.base_url}".replace("http", "ws").rstrip("/") + path
        async with websockets.connect(address, proxy=None) as socket:
            for _ in range(2):
                await socket.send("hello")
                await socket.recv()
        return 200
    return (await client.get(path)).status_code


async def load(client, seconds):
    """Use the forty routes at random, by so many clients; return what they have answered."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    statuses = []

    async def one(chance):
        while loop.time() < until:
            path = f"/{chance.choice(KINDS)}/{chance.choice(ROUTES)}"
            statuses.append(await use(client, path))

    await asyncio.gather(*[one(random.Random(number)) for number in range(CLIENTS)])
    return statuses


def client_of(url):
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
    return httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits)


def test_faults_are_named(wheel_python, postgres_url, tmp_path):
    """A leak, an idle stream, a nested session and a query on the loop: each with its line."""

    async def main(url):
        async with client_of(url) as client:
            loading = asyncio.create_task(load(client, SECONDS))
            for fault in ("leak", "nested", "loop"):
                for _ in range(3):
                    assert (await client.get(f"/planted/{fault}")).status_code == 200
            assert set(await loading) == {200}
            # Now so many streams that nothing is left for others.
            streams = [client.get("/planted/stream") for _ in range(20)]
            await asyncio.gather(*streams, return_exceptions=True)

    with served(wheel_python, postgres_url, tmp_path, PLANTED="1") as url:
        asyncio.run(main(url))
        wait_until(lambda: len(told(tmp_path)) >= 4, "four records")
        records = told(tmp_path)

    found = {record["event"]: record for record in records}
    assert sorted(record["event"] for record in records) == [
        "connection_leaked",
        "connections_exhausted",
        "nested",
        "on_the_loop",
    ], [record["message"] for record in records]
    assert found["connection_leaked"]["route"] == "GET /planted/leak"
    assert found["connection_leaked"]["line"] == line_of("leak")
    assert found["nested"]["route"] == "GET /planted/nested"
    assert found["nested"]["lines"] == [
        line_of("nested, the first"),
        line_of("nested, the second"),
    ]
    assert found["on_the_loop"]["route"] == "GET /planted/loop"
    assert found["on_the_loop"]["line"] == line_of("loop")
    most, *others = found["connections_exhausted"]["holders"]
    assert (most["route"], most["line"]) == ("GET /planted/stream", line_of("stream"))
    assert most["idle"] == most["connections"]
    assert {other["route"] for other in others} <= {"GET /planted/leak"}
    for record in records:
        assert record["level"] == "WARNING"
        assert record["suppressed"] >= 0


def test_well_behaved(wheel_python, postgres_url, tmp_path):
    """The same app without them, under the same load, is told nothing of."""

    async def main(url):
        async with client_of(url) as client:
            return await load(client, SECONDS)

    with served(wheel_python, postgres_url, tmp_path) as url:
        statuses = asyncio.run(main(url))
        assert set(statuses) == {200}
        assert len(statuses) > 40
    assert [record["message"] for record in told(tmp_path)] == []
