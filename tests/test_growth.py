"""Who gets the threads that a stall adds: whoever holds what the others wait for, sooner or later.

Run by pytest, without threads: a hop here waits in the event loop, and time passes when a test says
so.
"""

from __future__ import annotations

import random

import anyio
import pytest
from anyio.lowlevel import checkpoint

from limiter_tools import STALL_SECONDS, as_request, hop, make_limiter, settle

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

LOOKS = 1000  # more than any of this takes by far; a freeze would last for ever
PERMITS = 3


# What the hops call: one kind each. The limiter looks at the code, and nothing is called.
def work():
    """Do something that ends."""


def take():
    """Wait for a permit."""


def give():
    """Give it back."""


async def something_async():
    for _ in range(10):  # more turns than a token lingers
        await checkpoint()


async def answered(limiter, clock, number, request):
    """Have requests served at once for LOOKS looks at most; return how many were answered."""
    done = 0

    async def count(place):
        nonlocal done
        await request(place)
        done += 1

    async with anyio.create_task_group() as group:
        for place in range(number):
            group.start_soon(as_request, limiter, count, place)
        for _ in range(LOOKS):
            await settle(limiter)
            if done == number:
                break
            clock.advance(STALL_SECONDS / 4)
        group.cancel_scope.cancel()
    return done


class TestPermits:
    """Requests take a permit in one hop, do something async, and give it back in a later one."""

    # Of requests that take it at different depths only three were ever answered.
    @pytest.mark.parametrize("times", [1, 2, 3])
    @pytest.mark.parametrize("most_before", [1, 4])
    @pytest.mark.parametrize(("number", "limit"), [(60, 10), (100, 20)])
    async def test_answered(self, monkeypatch, number, limit, most_before, times):
        """All are answered, however deep they are when they take it, and how often they do."""
        limiter, clock = make_limiter(monkeypatch, limit, default=True)
        permits = anyio.Semaphore(PERMITS)

        async def request(place):
            for _ in range(place % most_before):
                async with hop(work):
                    pass
                await something_async()
            for _ in range(times):
                async with hop(take):
                    await permits.acquire()
                await something_async()
                async with hop(work):
                    pass
                await something_async()
                async with hop(give):
                    permits.release()
                await something_async()
                async with hop(work):
                    pass

        assert await answered(limiter, clock, number, request) == number

    async def test_random(self, monkeypatch):
        """So are requests whose hops are drawn at random."""
        drawn = random.Random(1)
        for _ in range(5):
            limiter, clock = make_limiter(monkeypatch, 8, default=True)
            permits = anyio.Semaphore(drawn.randint(1, 4))
            plans = [[drawn.randint(0, 3) for _ in range(4)] for _ in range(40)]

            async def request(place, plans=plans, permits=permits):
                before, held, after, pause = plans[place]
                for _ in range(before):
                    async with hop(work):
                        pass
                async with hop(take):
                    await permits.acquire()
                for _ in range(held):
                    if pause:
                        await something_async()
                    async with hop(work):
                        pass
                await something_async()
                async with hop(give):
                    permits.release()
                for _ in range(after):
                    async with hop(work):
                        pass

            assert await answered(limiter, clock, 40, request) == 40


class TestMeeting:
    async def test_inner_hops(self, monkeypatch):
        """Requests that have all regular threads meet in hops within these: all get one more."""
        limiter, clock = make_limiter(monkeypatch, 40, default=True)
        there, all_there = 0, anyio.Event()

        async def inner():
            nonlocal there
            async with hop(take):
                there += 1
                if there == 39:
                    all_there.set()
                await all_there.wait()

        async def request(_):
            async with hop(work), anyio.create_task_group() as group:
                group.start_soon(inner)

        assert await answered(limiter, clock, 39, request) == 39
        assert limiter.pool.counters.peak_threads == 78

    async def test_beside_others(self, monkeypatch):
        """So do they where requests of other kinds wait too, and block."""
        limiter, clock = make_limiter(monkeypatch, 12, default=True, stall_threads=24)
        there, all_there = 0, anyio.Event()

        async def meet():
            nonlocal there
            async with hop(give):
                there += 1
                if there == 20:
                    all_there.set()
                await all_there.wait()

        async def request(place):
            async with hop(work):
                pass
            await something_async()
            if place < 20:
                await meet()
            else:
                async with hop(take):
                    await all_there.wait()

        assert await answered(limiter, clock, 30, request) == 30
