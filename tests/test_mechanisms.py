"""Each mechanism alone: what it solves by itself, and that nothing else solves it.

Run by pytest, without threads: a deadlock here is an event loop that has nothing left to do.
"""

from typing import NamedTuple

import anyio
import pytest
from anyio.lowlevel import checkpoint

from limiter_tools import (
    Request,
    as_request,
    end_all,
    first_hops,
    make_limiter,
    requests,
    settle,
    stall,
    without_leases,
)

pytestmark = pytest.mark.anyio


REQUESTS = 20
THREADS = 3


class Outcome(NamedTuple):
    """What became of requests.

    :ivar blocked: threads that wait for a connection
    :ivar holding: requests that have one
    """

    answered: int
    blocked: int = 0
    holding: int = 0


ALL_ANSWERED = Outcome(answered=REQUESTS)

# The only request that has a connection waits for a thread, and all threads for the connection.
DEADLOCK = Outcome(answered=0, blocked=THREADS, holding=1)


class Route:
    """Requests of three hops: take a connection, use it, give it back. There is one connection.

    :param pause: turns of the loop between the hops, as when the endpoint awaits something
    """

    def __init__(self, limiter, pause):
        self.limiter = limiter
        self.connections = anyio.Semaphore(1)
        self.pause = pause
        self.answered = 0
        self.holding = 0

    async def __call__(self):
        async with self.limiter:
            await self.connections.acquire()  # a thread that finds none is blocked
            self.holding += 1
        for hop in (checkpoint, self.give_back):
            for _ in range(self.pause):
                await checkpoint()
            async with self.limiter:
                await hop()
        self.answered += 1

    async def give_back(self):
        self.holding -= 1
        self.connections.release()

    async def answer(self, clock, looks=0):
        """Send the requests, let the stall watch look, and return what became of them."""
        async with anyio.create_task_group() as group:
            for _ in range(REQUESTS):
                group.start_soon(as_request, self.limiter, self)
            for _ in range(10 + REQUESTS):
                await settle(self.limiter)
            for _ in range(looks):
                await stall(self.limiter, clock)
            blocked = self.connections.statistics().tasks_waiting
            outcome = Outcome(self.answered, blocked, self.holding)
            group.cancel_scope.cancel()  # those that hang
        return outcome


NO_PAUSE, PAUSE = 1, 10  # turns; a token lingers for less than the second


class TestLease:
    """Without reserve and growth."""

    async def test_alone(self, monkeypatch):
        """The lease alone is enough for sync routes: who has the connection has a thread."""
        limiter, clock = make_limiter(monkeypatch, THREADS, reserve=0, stall_threads=0)
        assert await Route(limiter, NO_PAUSE).answer(clock) == ALL_ANSWERED

    async def test_taken_out(self, monkeypatch):
        """Nothing else does it: without it the same requests deadlock."""
        without_leases(monkeypatch)
        limiter, clock = make_limiter(monkeypatch, THREADS, reserve=0, stall_threads=0)
        assert await Route(limiter, NO_PAUSE).answer(clock, looks=50) == DEADLOCK

    async def test_next_waiter(self, monkeypatch):
        """A request that awaits something else loses its thread to the next one."""
        limiter, _ = make_limiter(monkeypatch, 1)
        async with requests(limiter) as group:
            away = Request(limiter, group, hops=1)
            await settle(limiter)
            (hop,) = first_hops(limiter, group, 1)
            await settle(limiter)
            assert hop.running
            hop.end()
            away.finish()

    async def test_no_queueing(self, monkeypatch):
        """The next hop of a sync route doesn't queue behind those who wait."""
        limiter, _ = make_limiter(monkeypatch, 1)
        async with requests(limiter) as group:
            request = Request(limiter, group)
            first, second = request.hop(), request.hop()
            await settle(limiter)
            (waiting,) = first_hops(limiter, group, 1)
            await settle(limiter)
            first.end()
            await settle(limiter)
            assert (second.running, waiting.running) == (True, False)
            second.end()
            request.finish()
            await settle(limiter)
            assert waiting.running
            waiting.end()

    async def test_idle(self, monkeypatch):
        """While nobody waits it costs nothing: no turn of the loop, no timer."""
        limiter, clock = make_limiter(monkeypatch, 3)
        asked = []
        clock.call_soon = asked.append
        async with requests(limiter) as group:
            request = Request(limiter, group)
            for _ in range(5):
                request.hop().end()
            await settle(limiter)
            assert (asked, clock.timers) == ([], [])
            request.finish()

    async def test_closed(self, monkeypatch):
        """A request's thread goes to the next waiter as soon as the request is over."""
        limiter, _ = make_limiter(monkeypatch, 1)
        async with requests(limiter) as group:
            hops = first_hops(limiter, group, 5)
            end_all(hops)
            await settle(limiter)
            assert all(hop.over for hop in hops)


class TestReserve:
    """Without leases and growth."""

    async def test_alone(self, monkeypatch):
        """The reserve alone is enough too: who has the connection gets its thread."""
        without_leases(monkeypatch)
        limiter, clock = make_limiter(monkeypatch, THREADS, reserve=1, stall_threads=0)
        assert await Route(limiter, PAUSE).answer(clock) == ALL_ANSWERED

    async def test_taken_out(self, monkeypatch):
        """Nothing else does it: without it the same requests deadlock."""
        without_leases(monkeypatch)
        limiter, clock = make_limiter(monkeypatch, THREADS, reserve=0, stall_threads=0)
        assert await Route(limiter, PAUSE).answer(clock, looks=50) == DEADLOCK

    async def test_first_hops(self, monkeypatch):
        """First hops leave the reserve alone."""
        limiter, _ = make_limiter(monkeypatch, 5, reserve=2)
        async with requests(limiter) as group:
            hops = first_hops(limiter, group, 10)
            await settle(limiter)
            assert sum(hop.running for hop in hops) == 3
            end_all(hops)

    async def test_later_hop(self, monkeypatch):
        """A later hop gets it at once, however many first hops wait."""
        limiter, _ = make_limiter(monkeypatch, 5, reserve=1)
        async with requests(limiter) as group:
            request = Request(limiter, group, hops=1)
            await settle(limiter)
            hops = first_hops(limiter, group, 10)
            await settle(limiter)
            later = request.hop()
            await settle(limiter)
            assert later.running
            end_all([later, *hops])
            request.finish()

    async def test_blocked(self, monkeypatch):
        """While its thread is blocked, the others go on with one first hop after another."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            request = Request(limiter, group, hops=1)
            await settle(limiter)
            hops = first_hops(limiter, group, 4)
            await settle(limiter)
            blocked = request.hop()
            request.finish()
            await settle(limiter)
            for _ in range(2):
                assert sum(hop.running for hop in hops) == 2
                next(hop for hop in hops if hop.running).end()
                await settle(limiter)
            assert sum(hop.running for hop in hops) == 2
            end_all([blocked, *hops])

    @pytest.mark.parametrize(("limit", "running"), [(1, 1), (2, 1), (3, 1), (6, 1), (7, 2)])
    async def test_last_token(self, monkeypatch, limit, running):
        """However large it is, it never takes the last token from first hops."""
        limiter, _ = make_limiter(monkeypatch, limit, reserve=5)
        async with requests(limiter) as group:
            hops = first_hops(limiter, group, 10)
            await settle(limiter)
            assert sum(hop.running for hop in hops) == running
            end_all(hops)

    async def test_deepest(self, monkeypatch):
        """It goes to the request that has made the most hops."""
        limiter, _ = make_limiter(monkeypatch, 3, reserve=1)
        async with requests(limiter) as group:
            deep = [Request(limiter, group, hops=hops) for hops in (1, 2, 3, 2, 1)]
            await settle(limiter)
            holder = Request(limiter, group, hops=1)
            await settle(limiter)
            blocked = first_hops(limiter, group, 2)
            await settle(limiter)
            reserve = holder.hop()
            await settle(limiter)
            assert reserve.running
            hops = []
            for request in deep:
                hops.append(request.hop())
                await settle(limiter)
            for request in (holder, *deep):
                request.finish()
            order = []
            reserve.end()
            for _ in deep:
                await settle(limiter)
                (running,) = [hop for hop in hops if hop.running]
                order.append(hops.index(running))
                running.end()
            assert order == [2, 1, 3, 0, 4]
            end_all(blocked)


class TestGrowth:
    """Without leases and reserve."""

    async def test_alone(self, monkeypatch):
        """Growth alone is enough too, in time: who has the connection gets an extra thread."""
        without_leases(monkeypatch)
        limiter, clock = make_limiter(monkeypatch, THREADS, reserve=0)
        assert await Route(limiter, PAUSE).answer(clock, looks=120) == ALL_ANSWERED

    async def test_taken_out(self, monkeypatch):
        """Nothing else does it: without it the same requests deadlock for good."""
        without_leases(monkeypatch)
        limiter, clock = make_limiter(monkeypatch, THREADS, reserve=0, stall_threads=0)
        assert await Route(limiter, PAUSE).answer(clock, looks=120) == DEADLOCK

    async def test_blocked_reserve(self, monkeypatch):
        """If the reserve's own thread blocks, lease and reserve aren't enough, but growth is."""

        async def answered(threads):
            limiter, clock = make_limiter(monkeypatch, 3, stall_threads=threads)
            connection = anyio.Semaphore(1)
            served = []

            async def uses_it():
                async with limiter, connection:
                    pass
                served.append(True)

            async with anyio.create_task_group() as group:
                holder, other = (Request(limiter, group, hops=1) for _ in range(2))
                await settle(limiter)
                await connection.acquire()
                for _ in range(2):
                    group.start_soon(as_request, limiter, uses_it)
                await settle(limiter)
                other.hop()  # never ends: it has the reserve
                await settle(limiter)
                hop = holder.hop()
                hop.end()
                await stall(limiter, clock, 3)
                if hop.over:
                    connection.release()
                    await settle(limiter)
                group.cancel_scope.cancel()
            return len(served)

        assert await answered(threads=0) == 0
        assert await answered(threads=None) == 2
