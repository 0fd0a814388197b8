"""Take and give back tokens while many wait: run by `micro.py` in a process of its own.

Works through anyio's limiter alone, so that stock and ours do the same. It must never make a
thread: threads would cost more than what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path

from anyio.to_thread import current_default_thread_limiter

OPERATIONS = 2000


def memory() -> int:
    """Return the resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def measure(waiting: int, later: bool) -> dict[str, float]:
    import starlette.applications  # noqa: F401 - what has the package patch anyio

    limiter = current_default_thread_limiter()
    limiter.total_tokens = 1
    granted: asyncio.Queue[object] = asyncio.Queue()

    go = asyncio.Event()

    async def hold() -> None:
        me = object()
        if later:  # a task that has hopped before makes a later hop
            limiter.acquire_on_behalf_of_nowait(me)
            limiter.release_on_behalf_of(me)
            await go.wait()
        await wait()

    async def wait() -> None:
        me = object()
        await limiter.acquire_on_behalf_of(me)
        granted.put_nowait(me)

    holder = object()
    if not later:
        limiter.acquire_on_behalf_of_nowait(holder)
    before = memory()
    tasks = {asyncio.create_task(hold()) for _ in range(waiting)}
    await asyncio.sleep(0)
    if later:
        limiter.acquire_on_behalf_of_nowait(holder)
        go.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert limiter.statistics().tasks_waiting == waiting
    each = (memory() - before) / waiting
    start = time.perf_counter()
    for _ in range(OPERATIONS):
        limiter.release_on_behalf_of(holder)
        holder = await granted.get()
        task = asyncio.create_task(wait())
        tasks.add(task)
        await asyncio.sleep(0)
    seconds = time.perf_counter() - start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"nanoseconds": seconds / OPERATIONS * 1e9, "bytes": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, required=True)
    parser.add_argument("--later", action="store_true")
    args = parser.parse_args()
    print(json.dumps(asyncio.run(measure(args.waiting, args.later))))


if __name__ == "__main__":
    main()
