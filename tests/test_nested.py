"""Hops inside hops: sync code that calls async code that calls sync code.

Run by pytest. The threads block, so each case runs in a child process.
"""

import sys

import pytest

from support import ChildHung, run_python

NESTED = """
import sys
import anyio
from anyio import from_thread, to_thread
from fastapi_overflow._requests.lease_of_request import current_lease
from fastapi_overflow._requests.limiter import OverflowLimiter

backend, limiter_type, depth = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def hop(limiter, below):
    await to_thread.run_sync(work, limiter, below, limiter=limiter)

def work(limiter, below):
    if below:
        from_thread.run(hop, limiter, below - 1)

async def request(limiter):
    if limiter_type == "stock":
        return await hop(limiter, depth)
    lease = limiter.pool.open_lease()
    current_lease.set(lease)
    await hop(limiter, depth)
    limiter.pool.close_lease(lease)

async def main():
    limiter = anyio.CapacityLimiter(4) if limiter_type == "stock" else OverflowLimiter(4)
    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(request, limiter)
    assert limiter.statistics().borrowed_tokens == 0
    print("all answered")

anyio.run(main, backend=backend)
"""


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
class TestNested:
    def test_answered(self, backend, depth):
        """Sync endpoints that call async code that makes hops, and so on, are answered."""
        child = run_python(sys.executable, NESTED, backend, "ours", str(depth), timeout=60)
        assert child.stdout.strip() == "all answered"

    def test_stock(self, backend, depth):
        """With anyio's own limiter they wait for each other for ever."""
        with pytest.raises(ChildHung):
            run_python(sys.executable, NESTED, backend, "stock", str(depth), timeout=5)
