"""Hops inside hops: sync code that calls async code that calls sync code.

Run by pytest. The threads block, so each case runs in a child process.
"""

import sys

import pytest

from support import PATIENCE, run_python

NESTED = """
import os, sys
import anyio
from anyio import from_thread, to_thread
from fastapi_overflow._requests.lease_of_request import current_lease
from fastapi_overflow._requests.limiter import OverflowLimiter

backend, limiter_type, depth = sys.argv[1], sys.argv[2], int(sys.argv[3])
REQUESTS, THREADS, ROUNDS = 30, 4, 5
ours = limiter_type == "ours"
wanted, run = [], []  # hops inside hops

async def hop(limiter, below):
    if below < depth:
        wanted.append(below)
    await to_thread.run_sync(work, limiter, below, limiter=limiter)

def work(limiter, below):
    if below < depth:
        run.append(below)
    if below:
        from_thread.run(hop, limiter, below - 1)

async def request(limiter):
    if not ours:
        return await hop(limiter, depth)
    lease = limiter.pool.open_lease()
    current_lease.set(lease)
    await hop(limiter, depth)
    limiter.pool.close_lease(lease)

async def end_when_deadlocked(limiter):
    # Every thread is in an outer hop that waits for its inner one, and that for a thread.
    deadlock = THREADS, REQUESTS, THREADS, 0
    while True:
        found = limiter.statistics()
        if (found.borrowed_tokens, found.tasks_waiting, len(wanted), len(run)) == deadlock:
            print("deadlock", flush=True)
            os._exit(0)
        await anyio.sleep(0.01)

async def main():
    limiter = (OverflowLimiter if ours else anyio.CapacityLimiter)(THREADS)
    async with anyio.create_task_group() as watch:
        watch.start_soon(end_when_deadlocked, limiter)
        async with anyio.create_task_group() as group:
            for _ in range(REQUESTS):
                group.start_soon(request, limiter)
        watch.cancel_scope.cancel()
    assert limiter.statistics().borrowed_tokens == 0

# Several times: who gets a thread in a stall depends on what the threads happen to do.
for _ in range(ROUNDS if ours else 1):
    anyio.run(main, backend=backend)
print(len(run), "inner hops run, all answered")
"""


def outcome(*args):
    """Run 30 requests on 4 threads; return how they ended."""
    return run_python(sys.executable, NESTED, *args, timeout=PATIENCE, check=True).stdout.strip()


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
class TestNested:
    def test_answered(self, backend, depth):
        """Sync endpoints that call async code that makes hops, and so on, are answered."""
        ended = outcome(backend, "ours", str(depth))
        assert ended == f"{5 * 30 * depth} inner hops run, all answered"

    def test_stock(self, backend, depth):
        """With anyio's own limiter all threads wait for inner hops, and these for a thread."""
        assert outcome(backend, "stock", str(depth)) == "deadlock"
