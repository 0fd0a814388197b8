"""Measure how long quiet routes wait beside busy ones, without a server: by calls of the app.

Run by itself, in an environment with the tests' packages; each load runs in a process of its own,
with the package and without. What a server and a network add isn't in it. It prints a table and
judges nothing: a machine may be slow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from quiet_routes import APPS, HEALTH_EVERY, LOADS

from support import run

QUIET = ["/health", "/health2", "/health3"]

# Name: the load, quiet routes beside it.
CASES = {
    "200 clients, 1 s": ("sleeps 1 s", 1),
    "40 requests, 30 s": ("sleeps 30 s", 1),
    "1,000 background tasks": ("1,000 background tasks", 1),
    "200 clients, 3 quiet routes": ("sleeps 1 s", 3),
}


async def call(app: Any, path: str) -> None:
    """Call the app, until it has answered and done what it does afterwards."""
    path, _, query = path.partition("?")

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message

    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    await app({**scope, "query_string": query.encode()}, receive, send)


async def measure(case: str, seconds: float) -> dict[str, Any]:
    """Return the waits of the quiet routes; whoever isn't answered has waited until the end."""
    from anyio import to_thread
    from quiet_app import app

    load, quiet = CASES[case]
    path, clients, again = LOADS[load]

    async def client() -> None:
        # Each request in a task of its own, as a server does; a task that hops again has priority.
        await asyncio.create_task(call(app, path))
        while again:
            await asyncio.create_task(call(app, path))

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    limiter = to_thread.current_default_thread_limiter()
    while limiter.borrowed_tokens < 39:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.01)

    waits: list[float] = []
    unanswered: dict[int, float] = {}  # when it was asked

    async def ask(number: int, route: str) -> None:
        unanswered[number] = time.perf_counter()
        await call(app, route)
        waits.append(time.perf_counter() - unanswered.pop(number))

    late = 0.0
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        tasks += [
            asyncio.create_task(ask(len(tasks) + number, route))
            for number, route in enumerate(QUIET[:quiet])
        ]
        await asyncio.sleep(HEALTH_EVERY)
        late = max(late, time.perf_counter() - now - HEALTH_EVERY)
    end = time.perf_counter()
    waits.sort()
    return {
        "worst": max(waits[-1:] + [end - asked for asked in unanswered.values()]),
        "median": waits[len(waits) // 2] if waits else None,
        "answered": len(waits),
        "asked": len(waits) + len(unanswered),
        "loop late": late,
    }


def measured(case: str, seconds: float, **env: str) -> dict[str, Any]:
    command = (sys.executable, __file__, "--one", case, "--seconds", str(seconds))
    path = f"{APPS}:{Path(__file__).parent.parent}"
    env = {"PYTHONPATH": path, "QUIET_DATABASE": "unused", **env}
    return dict(json.loads(run(*command, env=env, timeout=seconds + 60, check=True).stdout))


def shown(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        asyncio.run(cut_off(args.one, args.seconds))
        return
    print(f"{'ms':28} {'without: worst':>14} {'answered':>9} {'with: worst':>12} {'median':>7}")
    for case in CASES:
        without = measured(case, args.seconds, FASTAPI_OVERFLOW_DISABLE="1")
        found = measured(case, args.seconds)
        answered = f"{without['answered']}/{without['asked']}"
        print(
            f"{case:28} {shown(without['worst']):>14} {answered:>9} {shown(found['worst']):>12}"
            f" {shown(found['median']):>7}  {found['answered']}/{found['asked']} answered,"
            f" loop late by {shown(found['loop late'])}",
            flush=True,
        )


async def cut_off(case: str, seconds: float) -> None:
    """Measure, print and end the process: what sleeps in threads would be waited for."""
    print(json.dumps(await measure(case, seconds)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
