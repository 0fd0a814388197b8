"""Load without mercy: random shapes, disconnects and resizes, and a database that is restarted.

`python tests/soak.py --minutes 10` by hand, a short run from test_soak.py. The Python that runs it
must have the package installed with its hook, FastAPI, SQLAlchemy, psycopg, uvicorn, httpx,
websockets and python-multipart. With `--behaved` it is the forty routes of served/forty.py, which
all behave: there the package must log nothing. It ends with 0 where no request was stuck, none
failed while the database was up, and the server is back to what it was: threads, tokens,
connections, memory.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import websockets

import postgres
from forty_tools import client_of, load, served, told
from support import PATIENCE, answers, free_port, started, tail, wait_until

CLIENTS = 80  # at once; the server has 15 connections to the database
STUCK = 60  # seconds after which a request counts as stuck
RECOVERY = 10  # seconds for which requests may fail after the database is back
IDLE = 11  # seconds after which anyio ends an idle thread, at the next hop
SHAPES = ("classic", "slow", "async", "stream", "background", "file", "upload", "nested", "ws")


class Soak:
    """One run: the clients, what became of their requests, and the findings."""

    def __init__(self, url: str, database: postgres.Server, seed: int) -> None:
        self.url = url
        self.database = database
        self.random = random.Random(seed)
        # Connections are kept for less long than by uvicorn (5 s), which is entitled to close one
        # in the moment in which it is used again.
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
        self.client = httpx.AsyncClient(base_url=url, timeout=STUCK, limits=limits)
        # Not the same: uvicorn closes a connection after each 500, and there are many while the
        # database is away; whoever uses it in that moment gets no answer.
        self.control = httpx.AsyncClient(base_url=url, timeout=STUCK, limits=limits)
        self.outcomes: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()  # failures while the database was away
        self.wrong: Counter[str] = Counter()
        self.latencies: dict[str, list[float]] = {shape: [] for shape in SHAPES}
        self.peak_threads = 0
        self.away_until = 0.0
        self.resizes = 0

    async def run(self, rounds: int, seconds: float) -> list[dict[str, float]]:
        """Load and rest in turn; return what the server was like at each rest."""
        rests = []
        async with self.client, self.control:
            for number in range(rounds):
                async with anyio.create_task_group() as group:
                    end = time.monotonic() + seconds
                    for _ in range(CLIENTS):
                        group.start_soon(self.load, end)
                    group.start_soon(self.resize, end)
                    group.start_soon(self.watch_threads, end)
                    if number == rounds // 2:
                        group.start_soon(self.restart_database, seconds / 3)
                rests.append(await self.rest())
                print(f"round {number + 1}: {rests[-1]}", flush=True)
        return rests

    async def load(self, end: float) -> None:
        while time.monotonic() < end:
            shape = self.random.choice(SHAPES)
            start = time.monotonic()
            with anyio.move_on_after(STUCK + 10) as scope:
                if self.random.random() < 0.15:
                    await self.disconnect(shape)
                    continue
                outcome = await self.request(shape)
            if scope.cancelled_caught:
                outcome = "stuck"
            self.note(shape, outcome, start)
            if outcome != "200":
                await anyio.sleep(0.1)

    def note(self, shape: str, outcome: str, start: float) -> None:
        self.outcomes[f"{shape} {outcome}"] += 1
        if outcome == "200":
            self.latencies[shape].append(time.monotonic() - start)
        elif start < self.away_until and outcome != "stuck":
            self.excused[outcome] += 1
        else:
            elapsed = time.monotonic() - start
            self.wrong[f"{shape} {outcome} after {elapsed:.2f} s"] += 1

    async def request(self, shape: str) -> str:
        try:
            if shape == "ws":
                address = self.url.replace("http", "ws") + "/ws"
                async with websockets.connect(address, proxy=None) as connection:
                    for _ in range(5):
                        await connection.send("hello")
                        await connection.recv()
                return "200"
            if shape == "upload":
                # More than what is kept in memory: it is written in threads.
                files = {"file": b"x" * 1_100_000}
                return str((await self.client.post("/upload", files=files)).status_code)
            return str((await self.client.get(f"/{shape}")).status_code)
        except httpx.TimeoutException:
            return "stuck"
        except (httpx.HTTPError, websockets.WebSocketException, OSError) as exc:
            return f"{type(exc).__name__} {exc.__cause__ or exc}"[:120]

    async def disconnect(self, shape: str) -> None:
        """Begin a request and hang up: at any time, mid-queue, mid-hop or mid-stream."""
        with anyio.move_on_after(self.random.uniform(0, 0.15)):
            await self.request(shape)
        self.outcomes["disconnects"] += 1

    async def resize(self, end: float) -> None:
        while time.monotonic() < end:
            await anyio.sleep(0.5)
            limit = self.random.choice((3, 5, 10, 20, 40, 80))
            await self.control.post("/resize", params={"limit": limit})
            self.resizes += 1
        await self.control.post("/resize", params={"limit": 40})

    async def watch_threads(self, end: float) -> None:
        while time.monotonic() < end:
            threads = (await self.control.get("/threads")).json()
            self.peak_threads = max(self.peak_threads, threads)
            await anyio.sleep(0.2)

    async def restart_database(self, after: float) -> None:
        await anyio.sleep(after)
        self.away_until = float("inf")
        await anyio.to_thread.run_sync(self.database.stop)
        await anyio.sleep(2)
        await anyio.to_thread.run_sync(self.database.start)
        self.away_until = time.monotonic() + RECOVERY

    async def rest(self) -> dict[str, float]:
        """Wait until idle threads may end, have one hop end them, and look."""
        await anyio.sleep(IDLE)
        for _ in range(3):
            await self.control.get("/classic")
        deadline = time.monotonic() + IDLE
        while True:
            state = (await self.control.get("/idle")).json()
            # FastAPI closes a request's session when the response has been sent.
            if not (state["connections"] or state["borrowed"]) or time.monotonic() > deadline:
                return state
            await anyio.sleep(0.1)


def findings(soak: Soak, rests: list[dict[str, float]]) -> list[str]:
    """Return what is wrong after a run."""
    found = [f"{outcome}: {count} of the requests" for outcome, count in soak.wrong.items()]
    for number, rest in enumerate(rests, 1):
        # The main thread, anyio's and uvicorn's few, and one worker or two.
        limits = {"borrowed": 0, "waiting": 0, "connections": 0, "threads": 8}
        found += [
            f"after round {number}: {name} is {rest[name]}"
            for name, most in limits.items()
            if rest[name] > most
        ]
    first, last = rests[1 if len(rests) > 2 else 0], rests[-1]  # the first round warms up
    for name, slack in (("objects", 5_000), ("megabytes", 25)):
        if last[name] > first[name] * 1.1 + slack:
            found.append(f"{name} grew from {first[name]:.0f} to {last[name]:.0f}")
    if not all(rest["patched"] for rest in rests):
        found.append("the app is not patched")
    if not soak.excused:
        found.append("nobody noticed that the database was restarted")
    return found


@contextmanager
def uvicorn(**environ: str) -> Iterator[str]:
    port = free_port()
    command = (sys.executable, "-m", "uvicorn", "soak_app:app", "--port", str(port))
    app_dir = Path(__file__).parent / "served"
    options = ("--log-level", "critical", "--no-access-log")
    with started(*command, *options, env=environ, cwd=app_dir) as server:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/threads"), "the answer of uvicorn", server)
        yield url
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            sys.exit(f"uvicorn did not stop within {PATIENCE} s:\n{tail(server.output)}")


def behaved(seconds: float) -> int:
    """Load an app that behaves; return 1 if a request failed or anything was logged."""

    async def run(url: str) -> list[int]:
        async with client_of(url) as client:
            return await load(client, seconds)

    with tempfile.TemporaryDirectory() as name, postgres.postgres() as database:
        with served(sys.executable, database.url, Path(name)) as url:
            answered = Counter(anyio.run(run, url))
        said = [record["message"] for record in told(Path(name))]
    print(json.dumps({"answered": answered, "logged": said}, indent=1))
    return int(bool(said) or set(answered) != {200})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="under load, rests not counted")
    parser.add_argument("--rounds", type=int, default=5, help="of load, with a rest after each")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--behaved", action="store_true", help="forty routes that behave, instead")
    parser.add_argument("--without", action="store_true", help="with the package switched off")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    if args.behaved:
        return behaved(args.minutes * 60)
    environ = {"FASTAPI_OVERFLOW_DISABLE": "1", "POOL_TIMEOUT": "5"} if args.without else {}
    with postgres.postgres() as database, uvicorn(DATABASE_URL=database.url, **environ) as url:
        soak = Soak(url, database, args.seed)
        rests = anyio.run(soak.run, args.rounds, args.minutes * 60 / args.rounds)
    found = findings(soak, rests)
    figures = {
        "requests": sum(soak.outcomes.values()),
        "resizes": soak.resizes,
        "latency, median and worst": {
            shape: f"{statistics.median(found):.2f} {max(found):.2f}"
            for shape, found in soak.latencies.items()
            if found
        },
        "peak threads": soak.peak_threads,
        "failed while the database was away": dict(soak.excused),
        "outcomes": dict(sorted(soak.outcomes.items())),
        "rests": rests,
        "wrong": found,
    }
    print(json.dumps(figures, indent=1))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
