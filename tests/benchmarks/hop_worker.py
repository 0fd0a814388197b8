"""Make hops and nothing else: run by `micro.py` in a process of its own, stock or patched.

With the package installed and FASTAPI_OVERFLOW_DISABLE unset it measures ours, otherwise stock. It
does the same work in both cases and must touch nothing of the package.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine
from typing import Any

PER_REQUEST = 4  # hops of the classic route: enter get_db, endpoint, validate, leave get_db (exit)


def nothing() -> None:
    """Be the blocking function of a hop."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument(
        "--cells",
        required=True,
        help="where:concurrent:hops,... with where inside, outside or exit",
    )
    parser.add_argument(
        "--marks", action="store_true", help="call getppid around each cell, callgrind's signal"
    )
    args = parser.parse_args()
    if args.marks:
        # Under valgrind a hop is slow enough for the interpreter to switch threads in the middle
        # of it; what that costs is chance, not the hop's.
        sys.setswitchinterval(60)
    cells = [cell.split(":") for cell in args.cells.split(",")]
    seconds = run(
        args.loop, measure([(where, int(c), int(n)) for where, c, n in cells], args.marks)
    )
    patched = "fastapi_overflow._requests.replacements" in sys.modules
    print(json.dumps({"seconds": seconds, "patched": patched}))


def run(loop: str, main_task: Coroutine[Any, Any, list[float]]) -> list[float]:
    if loop == "uvloop":
        import uvloop

        return uvloop.run(main_task)
    return asyncio.run(main_task)


async def measure(cells: list[tuple[str, int, int]], marks: bool) -> list[float]:
    """Return the seconds that each cell took."""
    from anyio import CapacityLimiter, to_thread
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool

    async def hops(count: int) -> None:
        for _ in range(count):
            await run_in_threadpool(nothing)

    async def exits(count: int) -> None:
        # As FastAPI leaves a sync dependency: a limiter for each, so not the pool's thread.
        for _ in range(count):
            await to_thread.run_sync(nothing, limiter=CapacityLimiter(1))

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await hops(PER_REQUEST)

    async def with_exit(scope: Any, receive: Any, send: Any) -> None:
        await hops(PER_REQUEST - 1)
        await exits(1)

    app: Any = Starlette()

    async def client(count: int) -> None:
        # A task per request, as servers do it.
        for _ in range(count // PER_REQUEST):
            await asyncio.create_task(app({"type": "http"}, None, None))

    async def cell(where: str, concurrent: int, count: int) -> None:
        # Nothing but `Starlette.__call__` around the hops.
        app.middleware_stack = with_exit if where == "exit" else inner
        one = hops if where == "outside" else client
        await asyncio.gather(*(one(count // concurrent) for _ in range(concurrent)))

    seconds = []
    for where, concurrent, count in cells:
        await cell(where, concurrent, max(concurrent * PER_REQUEST, 40))  # threads, caches
        if marks:
            os.getppid()
        start = time.perf_counter()
        await cell(where, concurrent, count)
        seconds.append(time.perf_counter() - start)
        if marks:
            os.getppid()
    return seconds


if __name__ == "__main__":
    main()
