"""What a claim about limiters is tried with: anyio's own beside ours, and tasks that wait.

Called by the tests of the limiter's contract.
"""

from __future__ import annotations

from importlib.metadata import version

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fastapi_overflow._requests.limiter import OverflowLimiter

ANYIO = tuple(int(part) for part in version("anyio").split(".")[:2])


def ours(total):
    # Without a reserve: anyio's own knows no first and later hops.
    return OverflowLimiter(total, reserve=0)


def both(anyio_since=(0, 0)):
    """Try a claim on our limiter, and on anyio's own where that is new enough to keep it."""
    limiters = [pytest.param(ours, id="ours")]
    if anyio_since <= ANYIO:
        limiters.append(pytest.param(anyio.CapacityLimiter, id="anyio's"))
    return pytest.mark.parametrize("make", limiters)


class Waiting:
    """A task that waits for a token on behalf of `borrower`, and gives it back when told."""

    def __init__(self, limiter, group, borrower=None):
        self.limiter = limiter
        self.borrower = borrower if borrower is not None else self
        self.got = False
        self.scope = anyio.CancelScope()
        self.release = anyio.Event()
        group.start_soon(self.run)

    async def run(self):
        with self.scope:
            await self.limiter.acquire_on_behalf_of(self.borrower)
            self.got = True
            try:
                await self.release.wait()
            finally:
                self.limiter.release_on_behalf_of(self.borrower)


async def turns(number=20):
    for _ in range(number):
        await checkpoint()


async def waiting(limiter, group, number):
    """Start tasks that wait for a token, in this order."""
    tasks = []
    for _ in range(number):
        tasks.append(Waiting(limiter, group))
        await turns()
    return tasks
