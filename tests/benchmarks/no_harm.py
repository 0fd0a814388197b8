"""What requests pay that would not have frozen: with the sharing of connections and without.

Connections kept briefly beside long other work, in bursts and one by one, in one process through
httpx; each load in a process of its own, with FASTAPI_OVERFLOW_CONNECTIONS=0 and 1 in turn, as many
times as there are rounds. Prints a table: requests that failed, seconds until all were answered,
and the 99th percentile; medians of the first bursts of the processes and of the later ones. Takes
about three minutes a round.

    python tests/benchmarks/no_harm.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

LOADS = {"40 at once": (40, 0.0), "200 at once": (200, 0.0), "60 a second": (240, 1 / 60)}
BURSTS = 5
TIMEOUT = 120  # seconds for one process

PATHS = {
    "/query-await": "query on the loop, then 1 s await",
    "/query-thread": "query, then 0.3 s in the thread",
    "/await-query": "1 s await, then a query on the loop",
    "/tenth": "0.1 s await, one in ten queries on the loop",
    "/tenth-thread": "0.05 s in the thread, one in ten queries",
    "/session": "session dependency, query, 5 ms in the thread",
    "/no-database": "20 ms in the thread",
}


def make_app():
    from fastapi import Depends, FastAPI
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session

    folder = tempfile.mkdtemp(prefix="overflow-no-harm-")
    engine = create_engine(f"sqlite:///{folder}/db", connect_args={"check_same_thread": False})
    select = text("SELECT 1")
    app = FastAPI()
    calls = iter(range(10**9))

    def query():
        with Session(engine) as session:
            session.execute(select)

    def get_session():
        with Session(engine) as session:
            yield session

    @app.get("/query-await")
    async def query_await():
        query()
        await asyncio.sleep(1)

    @app.get("/query-thread")
    def query_thread():
        query()
        time.sleep(0.3)

    @app.get("/await-query")
    async def await_query():
        await asyncio.sleep(1)
        query()

    @app.get("/tenth")
    async def tenth():
        number = next(calls)
        await asyncio.sleep(0.1)
        if not number % 10:
            query()

    @app.get("/tenth-thread")
    def tenth_thread():
        number = next(calls)
        time.sleep(0.05)
        if not number % 10:
            query()

    @app.get("/session")
    def with_session(session: Session = Depends(get_session)):  # noqa: B008
        session.execute(select)
        time.sleep(0.005)

    @app.get("/no-database")
    def no_database():
        time.sleep(0.02)

    return app


async def burst(client, path: str, requests: int, gap: float) -> tuple[int, float, float]:
    """Send a burst; return how many failed, seconds until all were answered, and the p99."""
    times = []
    failed = 0

    async def one(number: int) -> None:
        nonlocal failed
        await asyncio.sleep(number * gap)
        began = time.perf_counter()
        response = await client.get(path)
        times.append(time.perf_counter() - began)
        failed += response.status_code != 200

    began = time.perf_counter()
    await asyncio.gather(*map(one, range(requests)))
    return failed, time.perf_counter() - began, sorted(times)[int(0.99 * requests)]


async def measure(path: str, requests: int, gap: float) -> None:
    import httpx

    transport = httpx.ASGITransport(make_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=60) as client:
        bursts = [await burst(client, path, requests, gap) for _ in range(1 if gap else BURSTS)]
    print(json.dumps(bursts))


def run(path: str, load: str, connections: str) -> list[list[float]]:
    env = {**os.environ, "FASTAPI_OVERFLOW_CONNECTIONS": connections}
    command = [sys.executable, __file__, "--measure", path, load]
    child = subprocess.run(
        command, env=env, timeout=TIMEOUT, capture_output=True, text=True, check=True
    )
    return json.loads(child.stdout)


def main(rounds: int) -> None:
    print("| requests | load | burst | failed | seconds | p99 | against without |")
    print("|---|---|---|---|---|---|---|")
    for path, what in PATHS.items():
        for load in LOADS:
            # [rounds, each without and with, each some bursts]
            processes = [
                [run(path, load, connections) for connections in "01"] for _ in range(rounds)
            ]
            for name, part in (("first", slice(1)), ("later", slice(1, None))):
                without, with_it = (
                    [burst for process in processes for burst in process[which][part]]
                    for which in (0, 1)
                )
                if not with_it:
                    continue
                (_, seconds, p99), (_, base, base_p99) = (
                    map(statistics.median, zip(*bursts, strict=True))
                    for bursts in (with_it, without)
                )
                failed = sum(each[0] for each in with_it)
                print(
                    f"| {what} | {load} | {name} | {failed:g} | {seconds:.3f} | {p99:.3f} |"
                    f" {seconds / base:.2f}, p99 {p99 / base_p99:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("PATH", "LOAD"), help="in this process only")
    args = parser.parse_args()
    if args.measure:
        path, load = args.measure
        asyncio.run(measure(path, *LOADS[load]))
    else:
        main(args.rounds)
