"""When a pool counts as stalled, and who gets a thread then; test_fairness.py has the bounds.

Run by pytest, without threads: a hop here waits in the event loop, time passes when told.
"""

import pytest

from limiter_tools import Request, end_all, first_hops, make_limiter, requests, settle, stall

pytestmark = pytest.mark.anyio


class TestFirstHops:
    async def test_first_hops(self, monkeypatch):
        """First hops never grow the pool: who holds nothing can wait."""
        limiter, clock = make_limiter(monkeypatch, 4)
        async with requests(limiter) as group:
            hops = first_hops(limiter, group, 20)
            await stall(limiter, clock, 20)
            assert limiter.borrowed_tokens == 4
            end_all(hops)

    async def test_first_hops_beside_later(self, monkeypatch):
        """Nor do they when later hops make it grow."""
        limiter, clock = make_limiter(monkeypatch, 4)
        async with requests(limiter) as group:
            under_way = [Request(limiter, group, hops=1) for _ in range(2)]
            await settle(limiter)
            hops = first_hops(limiter, group, 20)
            await settle(limiter)
            later = [request.hop() for request in under_way]
            for request in under_way:
                request.finish()
            await stall(limiter, clock, 20)
            assert all(hop.running for hop in later)
            assert sum(hop.running for hop in hops) == 3
            end_all([*hops, *later])

    async def test_barrier(self, monkeypatch):
        """As many requests as there are threads can meet at a barrier in their first hops."""
        limiter, clock = make_limiter(monkeypatch, 40)
        async with requests(limiter) as group:
            hops = first_hops(limiter, group, 40)
            await settle(limiter)
            assert sum(hop.running for hop in hops) == 39
            await stall(limiter, clock)
            assert all(hop.running for hop in hops)
            end_all(hops)


class TestNoStall:
    async def test_slow_but_moving(self, monkeypatch):
        """A pool in which something finishes isn't stalled, however full it is."""
        limiter, clock = make_limiter(monkeypatch, 2)
        async with requests(limiter) as group:
            under_way = [Request(limiter, group, hops=1) for _ in range(10)]
            await settle(limiter)
            hops = [request.hop() for request in under_way]
            for request in under_way:
                request.finish()
            await stall(limiter, clock)
            for _ in range(10):
                next(hop for hop in hops if hop.running).end()
                await settle(limiter)
                await stall(limiter, clock)
                assert limiter.borrowed_tokens <= 2

    async def test_busy_loop(self, monkeypatch):
        """A loop that was held up while hops finished in their threads isn't taken for a stall."""
        limiter, clock = make_limiter(monkeypatch, 2)
        async with requests(limiter) as group:
            under_way = [Request(limiter, group, hops=1) for _ in range(6)]
            await settle(limiter)
            hops = [request.hop() for request in under_way]
            for request in under_way:
                request.finish()
            await stall(limiter, clock)
            for _ in range(6):
                running = [hop for hop in hops if hop.running]
                running[0].end()  # what the loop has yet to hear of when the watch looks
                await stall(limiter, clock)
                assert limiter.borrowed_tokens <= 2

    async def test_closed_pool(self, monkeypatch):
        """A limit of 0 is an order: such a pool doesn't grow."""
        limiter, clock = make_limiter(monkeypatch, 2, stall_threads=4)
        async with requests(limiter) as group:
            under_way = [Request(limiter, group, hops=1) for _ in range(4)]
            await settle(limiter)
            limiter.total_tokens = 0
            hops = [request.hop() for request in under_way]
            for request in under_way:
                request.finish()
            await stall(limiter, clock, 10)
            assert limiter.borrowed_tokens == 0
            limiter.total_tokens = 2
            end_all(hops)
