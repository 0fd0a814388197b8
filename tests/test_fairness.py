"""Nobody waits for ever, and a pool that something hung has made bigger gets small again.

Run by pytest, without threads: a hop here waits in the event loop, time passes when told.
"""

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fastapi_overflow._requests.limiter import OverflowLimiter
from fastapi_overflow._threads.stall_watch import CALM_LOOKS, HASTE, STARVED_LOOKS
from limiter_tools import (
    STALL_SECONDS,
    Request,
    as_request,
    end_all,
    first_hops,
    make_limiter,
    requests,
    settle,
    stall,
)

pytestmark = pytest.mark.anyio


class Stream:
    """A WebSocket or a long stream: a request that makes hop after hop until it is stopped."""

    def __init__(self, limiter, group, pause=0, hops=0, go=None):
        """
        :param pause: turns of the loop between its hops
        :param hops: after which it waits for the event `go`
        """
        self.limiter = limiter
        self.pause = pause
        self.rest = hops
        self.go = go
        self.hops = 0
        self.stopped = False
        group.start_soon(as_request, limiter, self.run)

    async def run(self):
        while not self.stopped:
            async with self.limiter:
                await checkpoint()
            self.hops += 1
            if self.go and self.hops == self.rest:
                await self.go.wait()
            for _ in range(self.pause):
                await checkpoint()


async def comes_true(condition, turns):
    """Run the loop until `condition()` is true, for so many turns at most."""
    for _ in range(turns):
        if condition():
            return True
        await checkpoint()
    return condition()


class TestBusyStreams:
    @pytest.mark.parametrize("pause", [0, 10], ids=["busy", "pauses"])
    async def test_new_request(self, pause):
        """500 busy WebSockets can't keep a new HTTP request waiting for ever."""
        limiter = OverflowLimiter(40)
        async with requests(limiter) as group:
            streams = [Stream(limiter, group, pause) for _ in range(500)]
            assert await comes_true(lambda: all(s.hops for s in streams), 20_000)
            (hop,) = first_hops(limiter, group, 1)
            hop.end()
            assert await comes_true(lambda: hop.over, 5_000)
            for stream in streams:
                stream.stopped = True

    async def test_few_streams(self):
        """As many streams as there are threads give way to a new request too."""
        limiter = OverflowLimiter(4)
        async with requests(limiter) as group:
            streams = [Stream(limiter, group) for _ in range(4)]
            assert await comes_true(lambda: all(s.hops for s in streams), 5_000)
            hops = first_hops(limiter, group, 3)
            end_all(hops)
            assert await comes_true(lambda: all(hop.over for hop in hops), 5_000)
            for stream in streams:
                stream.stopped = True


class TestQueue:
    async def test_in_order(self, monkeypatch):
        """Requests get their first thread in the order in which they came."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            hops = []
            for _ in range(10):
                hops += first_hops(limiter, group, 1)
                await settle(limiter)
            for ended in range(10):
                await settle(limiter)
                assert [hop.running or hop.over for hop in hops] == [
                    place < ended + 2 for place in range(10)
                ]
                hops[ended].end()

    async def test_not_shut_out(self, monkeypatch):
        """Requests at their second hop and new ones take turns: neither waits for all others."""
        limiter, _ = make_limiter(monkeypatch, 3, reserve=0)
        async with requests(limiter) as group:
            under_way = [Request(limiter, group, hops=1) for _ in range(6)]
            await settle(limiter)
            busy = [request.hop() for request in under_way[:3]]
            await settle(limiter)
            new = first_hops(limiter, group, 3)
            await settle(limiter)
            second = [request.hop() for request in under_way[3:]]
            for request in under_way:
                request.finish()
            await settle(limiter)
            order = []
            busy[0].end()
            for _ in range(6):
                await settle(limiter)
                hop = next(hop for hop in (*new, *second) if hop.running)
                order.append(hop in second)
                hop.end()
            assert order in ([True, False] * 3, [False, True] * 3)
            end_all(busy)


class TestReserve:
    @pytest.mark.parametrize("stuck", [1, 2], ids=["one thread stuck", "all stuck"])
    async def test_shallow_holder(self, monkeypatch, stuck):
        """Deep requests that keep threads busy don't keep out a shallow one under way."""
        limiter, clock = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            go = anyio.Event()
            holder = Request(limiter, group, hops=1)
            streams = [Stream(limiter, group, go=go, hops=50) for _ in range(20)]
            assert await comes_true(lambda: all(s.hops == 50 for s in streams), 20_000)
            blocked = first_hops(limiter, group, stuck)
            await settle(limiter)
            go.set()
            await settle(limiter)
            hop = holder.hop()
            hop.end()
            holder.finish()
            for _ in range(100):
                await comes_true(lambda: hop.over, 50)
                clock.advance(STALL_SECONDS)
            assert hop.over
            for stream in streams:
                stream.stopped = True
            end_all(blocked)


async def second_hops(limiter, group, number):
    """Start that many requests, each at its second hop when this returns."""
    under_way = [Request(limiter, group, hops=1) for _ in range(number)]
    await settle(limiter)
    hops = [request.hop() for request in under_way]
    for request in under_way:
        request.finish()
    return hops


class TestHungResource:
    @pytest.mark.parametrize("threads", [0, 1, 3, None], ids=lambda n: f"stall_threads={n}")
    async def test_bound(self, monkeypatch, threads):
        """A hung resource makes at most limit + stall_threads threads, however long it hangs."""
        limiter, clock = make_limiter(monkeypatch, 4, stall_threads=threads)
        async with requests(limiter) as group:
            hops = await second_hops(limiter, group, 30)
            await stall(limiter, clock, 50)
            assert limiter.borrowed_tokens == 4 + (4 if threads is None else threads)
            end_all(hops)

    async def test_doubles(self, monkeypatch):
        """While nothing finishes, a stalled pool grows by 1, 2, 4, ..., by half at first."""
        limiter, clock = make_limiter(monkeypatch, 20)
        async with requests(limiter) as group:
            hops = await second_hops(limiter, group, 60)
            await stall(limiter, clock)  # the hops before count as progress
            sizes = []
            for _ in range(4):
                await stall(limiter, clock)
                sizes.append(limiter.borrowed_tokens)
            assert sizes == [21, 23, 27, 30]
            end_all(hops)

    async def test_keeps_less(self, monkeypatch):
        """Hops of one kind get the other half too if nobody comes that it is kept for."""
        limiter, clock = make_limiter(monkeypatch, 20)
        async with requests(limiter) as group:
            hops = await second_hops(limiter, group, 60)
            await stall(limiter, clock, 20)
            assert limiter.borrowed_tokens == 40
            end_all(hops)

    async def test_starts_over(self, monkeypatch):
        """Once something has finished, the next stall begins with one thread again."""
        limiter, clock = make_limiter(monkeypatch, 10)
        async with requests(limiter) as group:
            hops = await second_hops(limiter, group, 30)
            await stall(limiter, clock, 2)
            before = [hop for hop in hops if hop.running]
            await stall(limiter, clock)
            assert limiter.borrowed_tokens == 10 + 1 + 2
            # One of the growth: it isn't replaced.
            next(hop for hop in hops if hop.running and hop not in before).end()
            await settle(limiter)
            await stall(limiter, clock)
            assert limiter.borrowed_tokens == 10 + 1 + 2 - 1
            await stall(limiter, clock)
            assert limiter.borrowed_tokens == 10 + 1 + 2 - 1 + 1
            end_all(hops)

    async def test_starts_over_late(self, monkeypatch):
        """A hop that ends just as the pool is looked at counts too."""
        limiter, clock = make_limiter(monkeypatch, 10)
        async with requests(limiter) as group:
            hops = await second_hops(limiter, group, 30)
            await stall(limiter, clock, 2)
            before = [hop for hop in hops if hop.running]
            await stall(limiter, clock)
            assert limiter.borrowed_tokens == 10 + 1 + 2
            # One of the growth: it isn't replaced.
            next(hop for hop in hops if hop.running and hop not in before).end()
            await stall(limiter, clock)  # looks before that hop has told the limiter
            await stall(limiter, clock)
            assert limiter.borrowed_tokens == 10 + 1 + 2 - 1 + 1
            end_all(hops)

    async def test_recovers(self, monkeypatch):
        """When the resource comes back, everybody who waited is served without further ado."""
        limiter, clock = make_limiter(monkeypatch, 4)
        async with requests(limiter) as group:
            hops = await second_hops(limiter, group, 30)
            new = first_hops(limiter, group, 10)
            await stall(limiter, clock, 10)
            end_all([*hops, *new])
            for _ in range(30):
                await settle(limiter)
            assert all(hop.over for hop in (*hops, *new))

    async def test_shrinks(self, monkeypatch):
        """After a stall there are no more threads than the limit allows."""
        limiter, clock = make_limiter(monkeypatch, 4)
        async with requests(limiter) as group:
            under_way = [Request(limiter, group, hops=1) for _ in range(8)]
            await settle(limiter)
            hops = [request.hop() for request in under_way]
            await stall(limiter, clock, 10)
            assert limiter.borrowed_tokens == 8
            end_all(hops)
            for request in under_way:
                request.finish()
            await settle(limiter)
            new = first_hops(limiter, group, 10)
            await settle(limiter)
            assert sum(hop.running for hop in new) == 3
            end_all(new)

    async def test_shrinks_under_way(self, monkeypatch):
        """A request that got its thread in a stall doesn't keep it for good when that is over."""
        limiter, clock = make_limiter(monkeypatch, 2)
        async with requests(limiter) as group:
            under_way = [Request(limiter, group, hops=1) for _ in range(4)]
            await settle(limiter)
            hops = [request.hop() for request in under_way]
            await stall(limiter, clock, 5)
            assert limiter.borrowed_tokens == 4
            end_all(hops)
            await settle(limiter)
            for _ in range(50):  # nobody else is there: nothing but the limit ends their streak
                hops = [request.hop() for request in under_way]
                await settle(limiter)
                running = limiter.borrowed_tokens
                end_all(hops)
                await settle(limiter)
            for request in under_way:
                request.finish()
            assert running == 2

    async def test_limit_lowered(self, monkeypatch):
        """Lowering the limit while the pool is stuck doesn't keep it stuck."""
        limiter, clock = make_limiter(monkeypatch, 10)
        resource = anyio.Semaphore(1)
        async with requests(limiter) as group:
            holder = Request(limiter, group, hops=1)
            await settle(limiter)
            await resource.acquire()
            stuck = first_hops(limiter, group, 9)
            await stall(limiter, clock)
            limiter.total_tokens = 2
            hop = holder.hop()
            hop.end()
            holder.finish()
            await stall(limiter, clock, 5)
            assert hop.over
            end_all(stuck)


def next_look(clock):
    """Return the seconds until the stall watch looks again."""
    ((when, _),) = clock.timers
    return when - clock.now


async def look(limiter, clock):
    await settle(limiter)
    clock.advance(next_look(clock))
    await settle(limiter)


async def stall_and_end_it(limiter, clock, hops):
    """Let the pool stall once, which adds a thread, and the hop in that thread end the stall."""
    before = [hop for hop in hops if hop.running]
    await look(limiter, clock)
    (added,) = [hop for hop in hops if hop.running and hop not in before]
    added.end()
    await look(limiter, clock)


class TestHaste:
    async def test_stalls_in_a_row(self, monkeypatch):
        """The closer stalls follow each other, the sooner is the next one noticed."""
        limiter, clock = make_limiter(monkeypatch, 10)
        async with requests(limiter) as group:
            hops = await second_hops(limiter, group, 60)
            await look(limiter, clock)  # the hops before count as progress
            intervals = []
            for _ in range(8):
                await stall_and_end_it(limiter, clock, hops)
                intervals.append(next_look(clock) / STALL_SECONDS)
            assert intervals == [max(0.5**n, 1 / HASTE) for n in range(1, 9)]
            end_all(hops)

    async def test_nothing_finishes(self, monkeypatch):
        """While nothing finishes at all there is no haste: slow hops are not taken for blocked."""
        limiter, clock = make_limiter(monkeypatch, 10)
        async with requests(limiter) as group:
            hops = await second_hops(limiter, group, 60)
            await look(limiter, clock)
            for _ in range(3):
                await stall_and_end_it(limiter, clock, hops)
            intervals = []
            for _ in range(5):
                await look(limiter, clock)
                intervals.append(next_look(clock) / STALL_SECONDS)
            assert intervals == [0.125, 0.25, 0.5, 1, 1]
            end_all(hops)

    async def test_calm(self, monkeypatch):
        """After a time without stalls there is no haste any more."""
        limiter, clock = make_limiter(monkeypatch, 10)
        async with requests(limiter) as group:
            hops = await second_hops(limiter, group, 120)
            await look(limiter, clock)
            await stall_and_end_it(limiter, clock, hops)
            for _ in range(2 * CALM_LOOKS - 2):  # at half the interval; that look was one
                assert next_look(clock) == STALL_SECONDS / 2
                end_all([hop for hop in hops if hop.running][:2])  # the reserve's is one at most
                await look(limiter, clock)
            assert next_look(clock) == STALL_SECONDS
            end_all(hops)


class TestMaskedStall:
    @pytest.mark.parametrize(
        "pause",
        [0, 1, 10],
        ids=["busy", "sync", "pauses"],
    )
    async def test_barrier_beside_stream(self, monkeypatch, pause):
        """Threads that meet at a barrier get the reserve although a stream goes on beside them."""
        limiter, clock = make_limiter(monkeypatch, 4)
        async with requests(limiter) as group:
            stream = Stream(limiter, group, pause)
            await settle(limiter)
            meeting = first_hops(limiter, group, 4)
            for _ in range(2 * STARVED_LOOKS):
                await settle(limiter)
                clock.advance(STALL_SECONDS)
            assert all(hop.running for hop in meeting)
            end_all(meeting)
            stream.stopped = True


class TestHolderBeyondBound:
    async def test_youngest_of_many(self, monkeypatch):
        """Who holds what everybody waits for is served, even the youngest of very many waiters."""
        limiter, clock = make_limiter(monkeypatch, 4)
        resource = anyio.Semaphore(1)

        async def other():
            async with limiter:
                pass
            await start.wait()
            async with limiter, resource:
                pass

        start = anyio.Event()
        async with requests(limiter) as group:
            holder = Request(limiter, group, hops=1)
            await settle(limiter)
            await resource.acquire()
            for _ in range(10):
                group.start_soon(as_request, limiter, other)
            await settle(limiter)
            start.set()
            await settle(limiter)
            hop = holder.hop()
            hop.end()
            holder.finish()
            await stall(limiter, clock, 20)
            assert hop.over
            resource.release()
