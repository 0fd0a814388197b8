"""Whose hop is it? First and later hops, hops side by side, outside a request and after it.

Run by pytest, without threads: a hop here waits in the event loop.
"""

import anyio
import pytest
from anyio.lowlevel import checkpoint

from limiter_tools import (
    Hop,
    Request,
    as_request,
    end_all,
    first_hops,
    make_limiter,
    requests,
    settle,
)

pytestmark = pytest.mark.anyio


class Bare:
    """A task outside any request that makes hop after hop, when told."""

    def __init__(self, limiter, group):
        self.limiter = limiter
        self.hops = []
        self.wake = anyio.Event()
        group.start_soon(self.run)

    async def run(self):
        while True:
            await self.wake.wait()
            self.wake = anyio.Event()
            if not self.hops:
                return
            await self.hops[-1]()

    def hop(self):
        self.hops.append(Hop(self.limiter))
        self.wake.set()
        return self.hops[-1]

    def finish(self):
        self.hops.clear()
        self.wake.set()


async def started(limiter, group, number):
    """Start first hops, one after another."""
    hops = []
    for _ in range(number):
        hops += first_hops(limiter, group, 1)
        await settle(limiter)
    return hops


class TestSideBySide:
    async def test_promoted(self, monkeypatch):
        """If hops begin a request side by side and one gets a thread, the others are later."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            blocked = await started(limiter, group, 2)
            hops = [Hop(limiter) for _ in range(3)]

            async def app():
                async with anyio.create_task_group() as inner:
                    for hop in hops:
                        inner.start_soon(hop)

            group.start_soon(as_request, limiter, app)
            await settle(limiter)
            assert not any(hop.running for hop in hops)
            blocked[0].end()
            await settle(limiter)
            assert sum(hop.running for hop in hops) == 2  # a regular one and the reserve
            end_all([*blocked, *hops])

    async def test_cancelled_while_waiting(self, monkeypatch):
        """Those that have been cancelled by then are forgotten."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            blocked = await started(limiter, group, 2)
            hops = [Hop(limiter) for _ in range(3)]
            scopes = [anyio.CancelScope() for _ in hops]

            async def in_scope(scope, hop):
                with scope:
                    await hop()

            async def app():
                async with anyio.create_task_group() as inner:
                    for pair in zip(scopes, hops, strict=True):
                        inner.start_soon(in_scope, *pair)

            group.start_soon(as_request, limiter, app)
            await settle(limiter)
            scopes[1].cancel()
            await settle(limiter)
            assert limiter.statistics().tasks_waiting == 2
            blocked[0].end()
            await settle(limiter)
            assert [hop.running for hop in hops] == [True, False, True]
            end_all([*blocked, *hops])

    async def test_own_tokens(self, monkeypatch):
        """Each has its own token; all but one go back as soon as the hop ends."""
        limiter, _ = make_limiter(monkeypatch, 4, reserve=0)
        async with requests(limiter) as group:
            hops = [Hop(limiter) for _ in range(3)]
            over = anyio.Event()

            async def app():
                async with anyio.create_task_group() as inner:
                    for hop in hops:
                        inner.start_soon(hop)
                await over.wait()

            group.start_soon(as_request, limiter, app)
            await settle(limiter)
            assert limiter.borrowed_tokens == 3
            end_all(hops)
            await settle(limiter)
            assert (limiter.borrowed_tokens, limiter.pool.snapshot().lingering) == (0, 1)
            over.set()


class TestOutsideRequests:
    async def test_gives_back(self, monkeypatch):
        """A hop outside any request gives its token back at once."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with limiter:
            pass
        assert (limiter.borrowed_tokens, limiter.pool.snapshot().lingering) == (0, 0)

    async def test_first_and_later(self, monkeypatch):
        """A task's first hop is a first hop; the ones after it may use the reserve."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            hopped, new = Bare(limiter, group), Bare(limiter, group)
            hopped.hop().end()
            await settle(limiter)
            blocked = await started(limiter, group, 2)
            first = new.hop()
            await settle(limiter)
            assert not first.running
            later = hopped.hop()
            await settle(limiter)
            assert later.running
            end_all([*blocked, first, later])
            await settle(limiter)
            hopped.finish()
            new.finish()

    async def test_not_inherited(self, monkeypatch):
        """A task doesn't pass that on: the tasks it starts begin with a first hop."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            async with limiter:
                pass
            blocked = await started(limiter, group, 2)
            hop = Hop(limiter)
            group.start_soon(hop)
            await settle(limiter)
            assert not hop.running
            end_all([*blocked, hop])

    async def test_request_of_hopped_task(self, monkeypatch):
        """If a middleware around the app has made a hop, the app's first hop is a later one."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            hop = Hop(limiter)
            go = anyio.Event()

            async def middleware():
                async with limiter:
                    pass
                await go.wait()
                await as_request(limiter, hop)

            group.start_soon(middleware)
            await settle(limiter)
            blocked = await started(limiter, group, 2)
            go.set()
            await settle(limiter)
            assert hop.running
            end_all([*blocked, hop])

    async def test_after_the_request(self, monkeypatch):
        """What the middleware does after the app has answered is a later hop too."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            hop, inner = Hop(limiter), Hop(limiter)
            go = anyio.Event()

            async def middleware():
                await as_request(limiter, inner)
                await go.wait()
                await hop()

            group.start_soon(middleware)
            inner.end()
            await settle(limiter)
            blocked = await started(limiter, group, 2)
            go.set()
            await settle(limiter)
            assert hop.running
            end_all([*blocked, hop])


class TestOutlivesRequest:
    async def test_task(self, monkeypatch):
        """A task that outlives its request counts as nobody: a first hop, no lease."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            hop = Hop(limiter)
            go = anyio.Event()

            async def outlives():
                await go.wait()
                await hop()

            async def app():
                async with limiter:
                    group.start_soon(outlives)

            await as_request(limiter, app)
            blocked = await started(limiter, group, 2)
            go.set()
            await settle(limiter)
            assert not hop.running
            end_all(blocked)
            hop.end()
            await settle(limiter)
            assert hop.over
            assert limiter.pool.snapshot().lingering == 0

    async def test_hop(self, monkeypatch):
        """The token of a hop that outlives its request comes back when the hop ends."""
        limiter, _ = make_limiter(monkeypatch, 1)
        async with requests(limiter) as group:
            hop = Hop(limiter)

            async def app():
                group.start_soon(hop)
                while not hop.running:
                    await checkpoint()

            await as_request(limiter, app)
            (waiting,) = await started(limiter, group, 1)
            assert (hop.running, waiting.running) == (True, False)
            hop.end()
            await settle(limiter)
            assert waiting.running
            waiting.end()

    async def test_waiting(self, monkeypatch):
        """A hop that still waits when its request ends is served all the same."""
        limiter, _ = make_limiter(monkeypatch, 1)
        async with requests(limiter) as group:
            blocked = await started(limiter, group, 1)
            hop = Hop(limiter)

            async def app():
                group.start_soon(hop)
                await settle(limiter)

            await as_request(limiter, app)
            end_all(blocked)
            await settle(limiter)
            assert hop.running
            hop.end()
            await settle(limiter)
            assert limiter.pool.snapshot().lingering == 0


class TestOtherLimiter:
    async def test_foreign_lease(self, monkeypatch):
        """A limiter ignores the lease of another event loop's limiter."""
        limiter, _ = make_limiter(monkeypatch, 3)
        other, _ = make_limiter(monkeypatch, 3)
        async with requests(other) as group:
            request = Request(limiter, group, hops=1)
            await settle(limiter)

            async def app():
                async with other:
                    pass

            await as_request(limiter, app)
            assert (other.pool.snapshot().lingering, limiter.pool.snapshot().lingering) == (0, 1)
            request.finish()
