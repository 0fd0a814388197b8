"""The load of the forty routes in served/forty.py, and what the package has logged of it.

Imported by test_forty_routes.py and, for an hour's run, by soak.py.
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
CLIENTS = 10  # at once; the pool has 15 connections
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
