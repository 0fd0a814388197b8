"""Measure what becomes of an overload, with FASTAPI_OVERFLOW_MAX_WAIT=1 and without it.

Run by itself, in an environment with the tests' packages; each load is sent to a uvicorn of its
own, which serves `quiet_app.py`. It prints a table and judges nothing: a machine may be slow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from dataclasses import dataclass, field
from typing import Any

import psutil
from quiet_routes import get, serve

THREADS = 39  # for new requests, of 40
TIMES = 3  # what can be served
QUICK = 0.1  # seconds; a request that is answered within them doesn't wait for others
MEGABYTE = 1_000_000


@dataclass
class Found:
    """What has been seen; times in seconds since the load began.

    :ivar answers: status, when it came, seconds that it took
    :ivar memory: when, resident bytes of the server
    :ivar async_route: when, seconds that a request took that needs no thread
    :ivar client_late: most by which the client itself was late, which all its waits may include
    """

    answers: list[tuple[int, float, float]] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    async_route: list[tuple[float, float]] = field(default_factory=list)
    client_late: float = 0.0

    def of(self, *statuses: int) -> list[tuple[float, float]]:
        return [(when, took) for status, when, took in self.answers if status in statuses]

    def peak(self, begin: float, end: float) -> str:
        return f"{max(size for when, size in self.memory if begin <= when <= end) / MEGABYTE:.1f}"


def worst(found: list[tuple[float, float]]) -> str:
    return f"{max(took for _, took in found):.3f}" if found else "-"


async def overload(port: int, pid: int, seconds: float, service: float) -> dict[str, str]:
    """Send a load that lasts `seconds`, of requests that take a thread for `service` each."""
    server = psutil.Process(pid)
    path = f"/sleep?seconds={service}"
    await asyncio.gather(*(get(port, path) for _ in range(2 * THREADS)))  # its threads are started
    await get(port, "/async")
    found = Found([], [(0.0, server.memory_info().rss)])
    used = sum(server.cpu_times()[:2])
    began = time.perf_counter()

    def now() -> float:
        return time.perf_counter() - began

    async def one() -> None:
        status, took, _ = await get(port, path)
        found.answers.append((status, now(), took))

    async def ask_async() -> None:
        found.async_route.append((now(), (await get(port, "/async"))[1]))

    async def look() -> None:
        while True:
            asked.append(asyncio.create_task(ask_async()))
            found.memory.append((now(), server.memory_info().rss))
            await asyncio.sleep(0.1)

    asked: list[asyncio.Task[None]] = []
    looking = asyncio.create_task(look())
    sent: list[asyncio.Task[None]] = []
    while now() < seconds:
        sent += [
            asyncio.create_task(one())
            for _ in range(int(TIMES * THREADS / service * now()) - len(sent))
        ]
        before = now()
        await asyncio.sleep(0.01)
        found.client_late = max(found.client_late, now() - before - 0.01)
    busy = sum(server.cpu_times()[:2]) - used
    quick = await until_quick(port)
    await asyncio.gather(*sent)
    looking.cancel()
    await asyncio.gather(*asked)
    stats = json.loads((await get(port, "/stats"))[2])
    served, refused = found.of(200), found.of(503)
    return {
        "sent": str(len(sent)),
        "served while the load lasts": str(sum(when <= seconds for when, _ in served)),
        "served in all": str(len(served)),
        "refused": str(len(refused)),
        "other answers, or none": str(len(sent) - len(served) - len(refused)),
        "worst time, refused (s)": worst(refused),
        "worst time, served (s)": worst(served),
        "worst time, async route (s)": worst(found.async_route),
        "most that the client was late (s)": f"{found.client_late:.3f}",
        "processor time of the server (%)": f"{100 * busy / seconds:.0f}",
        "memory before (MB)": f"{found.memory[0][1] / MEGABYTE:.1f}",
        "peak memory, first half of the load (MB)": found.peak(0, seconds / 2),
        "peak memory, second half of the load (MB)": found.peak(seconds / 2, seconds),
        "peak memory afterwards (MB)": found.peak(seconds, now() + 1),
        "a request is quick again after (s)": f"{quick:.2f}",
        "still waiting in the end": str(stats["waiting_first"] + stats["waiting_later"]),
        "most threads": str(stats["peak_threads"]),
    }


async def until_quick(port: int) -> float:
    """Return how many seconds from now on a request to the busy route has to wait for others."""
    began = time.perf_counter()
    quick: list[float] = []

    async def probe() -> None:
        sent = time.perf_counter() - began
        status, took, _ = await get(port, "/sleep?seconds=0")
        if status == 200 and took < QUICK:
            quick.append(sent)

    probes = []
    while not quick:
        probes.append(asyncio.create_task(probe()))
        await asyncio.sleep(0.05)
    for task in probes:
        task.cancel()
    return min(quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="that the load lasts")
    parser.add_argument("--service", type=float, default=0.1, help="seconds that a request takes")
    args = parser.parse_args()
    # Each request that waits is a file, here and in the server, which inherits this.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def measured(max_wait: str | None) -> Any:
        return serve(
            {"FASTAPI_OVERFLOW_MAX_WAIT": max_wait},
            lambda port, pid: overload(port, pid, args.seconds, args.service),
        )

    without, with_it = measured(None), measured("1")
    print(f"{'MAX_WAIT':46} {'off':>9} {'1 s':>9}")
    for name, value in without.items():
        print(f"{name:46} {value:>9} {with_it[name]:>9}")


if __name__ == "__main__":
    main()
