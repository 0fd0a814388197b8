"""Threads are shared between routes: by fair share, whatever their hops take.

Run by pytest, without threads: a hop here waits in the event loop, until a test ends it.
"""

import gc
from weakref import ref

import anyio
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastapi_overflow._requests.lease_of_request import current_lease
from fastapi_overflow._requests.limiter import OverflowLimiter
from fastapi_overflow._threads.lease import Lease, Waiter
from fastapi_overflow._threads.pool import TokenPool
from fastapi_overflow._threads.shares import FairQueue, Shares
from limiter_tools import STALL_SECONDS, Hop, ManualClock, make_limiter, requests, settle, stall
from test_model import FUNCTIONS

pytestmark = pytest.mark.anyio


class RoutedHop(Hop):
    """The first hop of a request to a route, or a later one."""

    def __init__(self, limiter, group, route, before=0, background=False, answered=False, made=0):
        super().__init__(limiter)
        self.route = route
        self._before = before
        self._made = made
        self._background = background
        self._answered = answered
        group.start_soon(self._request)

    async def _request(self):
        lease = self.limiter.pool.open_lease()
        lease.route = self.route
        lease.hops += self._made
        reset = current_lease.set(lease)
        try:
            for _ in range(self._before):
                async with self.limiter:
                    pass
            lease.answered = self._answered
            lease.in_background = self._background
            await self()
        finally:
            self.limiter.pool.close_lease(lease)
            current_lease.reset(reset)


def hops(limiter, group, route, number, **options):
    return [RoutedHop(limiter, group, route, **options) for _ in range(number)]


def end(*lists):
    for each in lists:
        for hop in each:
            hop.end()


def end_one(hops):
    next(hop for hop in hops if hop.running).end()


def running(hops):
    return sum(hop.running for hop in hops)


class TestFairShare:
    async def test_fewest_threads(self, monkeypatch):
        """The next free thread goes to the route that has fewest, not to who came first."""
        limiter, _ = make_limiter(monkeypatch, 3, reserve=0)
        async with requests(limiter) as group:
            busy = hops(limiter, group, "busy", 10)
            await settle(limiter)
            quiet = hops(limiter, group, "quiet", 2)
            await settle(limiter)
            assert (running(busy), running(quiet)) == (3, 0)
            end_one(busy)
            await settle(limiter)
            assert (running(busy), running(quiet)) == (2, 1)
            end(busy, quiet)

    async def test_alone(self, monkeypatch):
        """One busy route alone has the whole limit, in the order in which its requests came."""
        limiter, _ = make_limiter(monkeypatch, 4, reserve=0)
        async with requests(limiter) as group:
            busy = []
            for _ in range(8):
                busy += hops(limiter, group, "busy", 1)
                await settle(limiter)
            for ended in range(5):
                began = [hop.running or hop.over for hop in busy]
                assert began == [place < 4 + ended for place in range(8)]
                busy[ended].end()
                await settle(limiter)
            end(busy)

    async def test_lingering(self, monkeypatch):
        """A token that a request keeps between two hops counts as its route's."""
        limiter, _ = make_limiter(monkeypatch, 4, reserve=0)
        async with requests(limiter) as group:
            (request,) = hops(limiter, group, "one", 1, before=1)
            await settle(limiter)
            limiter.pool._dispatcher.count_shares()  # as when somebody is about to wait
            assert limiter.pool._dispatcher.shares.has_threads("one")
            end([request])
        assert len(limiter.pool._dispatcher.shares) == 0

    async def test_counted_while_somebody_waits(self, monkeypatch):
        """Nothing is counted while there is a thread for everybody, before and after a queue."""
        limiter, clock = make_limiter(monkeypatch, 2, reserve=0)
        shares = limiter.pool._dispatcher.shares
        counting = []
        async with requests(limiter) as group:
            running = hops(limiter, group, "one", 2)
            await settle(limiter)
            counting.append(shares.counting)
            waiting = hops(limiter, group, "one", 1)
            await settle(limiter)
            counting.append(shares.counting)
            end([*running, *waiting])
            await settle(limiter)
            clock.advance(STALL_SECONDS)
            await settle(limiter)
            counting.append(shares.counting)
        assert counting == [False, True, False]

    async def test_nothing_left(self, monkeypatch):
        """A route without threads and waiters leaves nothing behind."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            many = [hop for n in range(50) for hop in hops(limiter, group, object(), 1 + n % 3)]
            await settle(limiter)
            end(many)
        assert len(limiter.pool._dispatcher.shares) == 0

    async def test_given_up(self, monkeypatch):
        """Nor does one whose waiters have all been cancelled."""
        limiter, _ = make_limiter(monkeypatch, 3)
        async with requests(limiter) as group:
            busy = hops(limiter, group, "busy", 2)
            await settle(limiter)
            async with anyio.create_task_group() as others:
                for route in ("a", "b", "c"):
                    hops(limiter, others, route, 3)
                await settle(limiter)
                others.cancel_scope.cancel()
            await settle(limiter)
            assert len(limiter.pool._dispatcher.shares) == 1
            end(busy)

    async def test_later_hops(self, monkeypatch):
        """Requests under way keep their right of way."""
        limiter, _ = make_limiter(monkeypatch, 3, reserve=0)
        async with requests(limiter) as group:
            under_way = hops(limiter, group, "busy", 2, before=3)
            await settle(limiter)
            assert running(under_way) == 2
            busy = hops(limiter, group, "busy", 1)
            await settle(limiter)
            new = hops(limiter, group, "quiet", 1)
            end(busy)
            await settle(limiter)
            assert running(new) == 1
            end(under_way, new)

    async def test_after_the_response(self, monkeypatch):
        """So do those that have been answered: they may hold a connection until the next hop."""
        limiter, _ = make_limiter(monkeypatch, 3, reserve=0)
        async with requests(limiter) as group:
            busy = hops(limiter, group, "busy", 3)
            await settle(limiter)
            new = hops(limiter, group, "quiet", 3)
            leaving = hops(limiter, group, "busy", 3, made=3, answered=True)
            await settle(limiter)
            end(busy)
            await settle(limiter)
            assert (running(leaving), running(new)) == (3, 0)
            end(busy, leaving, new)


class TestQuietRoute:
    async def test_beyond_the_limit(self, monkeypatch):
        """A route that has no thread at all doesn't wait while all are with others."""
        limiter, _ = make_limiter(monkeypatch, 8)
        async with requests(limiter) as group:
            busy = hops(limiter, group, "busy", 20)
            await settle(limiter)
            quiet = hops(limiter, group, "quiet", 2)
            await settle(limiter)
            assert (running(busy), running(quiet)) == (7, 1)
            assert limiter.pool.counters.quiet_used == 1
            end(busy, quiet)

    async def test_two_at_most(self, monkeypatch):
        """There are two such threads, however many quiet routes there are."""
        limiter, _ = make_limiter(monkeypatch, 8)
        async with requests(limiter) as group:
            busy = hops(limiter, group, "busy", 20)
            await settle(limiter)
            quiet = [hop for n in range(5) for hop in hops(limiter, group, f"quiet {n}", 1)]
            await settle(limiter)
            assert (running(busy), running(quiet)) == (7, 2)
            end_one(quiet)
            await settle(limiter)
            assert running(quiet) == 2
            end(busy, quiet)

    async def test_small_limit(self, monkeypatch):
        """An app that has one sync function run at a time goes on to have one run at a time."""
        for limit in (1, 2, 3):
            limiter, _ = make_limiter(monkeypatch, limit, reserve=0)
            async with requests(limiter) as group:
                routes = [hop for n in range(9) for hop in hops(limiter, group, f"route {n}", 1)]
                await settle(limiter)
                assert running(routes) == limit
                end(routes)

    async def test_unknown_route(self, monkeypatch):
        """Hops of requests that have reached no route keep to the limit."""
        limiter, _ = make_limiter(monkeypatch, 8)
        async with requests(limiter) as group:
            busy = hops(limiter, group, "busy", 20)
            await settle(limiter)
            unknown = hops(limiter, group, None, 2)
            await settle(limiter)
            assert running(unknown) == 0
            end(busy, unknown)

    async def test_paid_back(self, monkeypatch):
        """The limit is exceeded for no longer than it takes the next hop to end."""
        limiter, _ = make_limiter(monkeypatch, 8)
        async with requests(limiter) as group:
            busy = hops(limiter, group, "busy", 20)
            await settle(limiter)
            slow = hops(limiter, group, "slow", 1)
            await settle(limiter)
            assert limiter.pool.snapshot().quiet == 1
            end_one(busy)
            await settle(limiter)
            assert limiter.pool.snapshot().quiet == 0
            assert (running(busy), running(slow)) == (6, 1)
            end(busy, slow)

    async def test_reserve(self, monkeypatch):
        """A quiet route takes nothing from requests under way."""
        limiter, _ = make_limiter(monkeypatch, 8)
        async with requests(limiter) as group:
            under_way = hops(limiter, group, "busy", 1, before=1)
            await settle(limiter)
            busy = hops(limiter, group, "busy", 20)
            await settle(limiter)
            quiet = [hop for n in range(2) for hop in hops(limiter, group, f"quiet {n}", 1)]
            await settle(limiter)
            assert running(quiet) == 2
            late = hops(limiter, group, "busy", 1)
            await settle(limiter)
            assert limiter.pool.snapshot().extra == 0
            assert limiter.pool._dispatcher.tokens.has_reserved()
            end(under_way, busy, quiet, late)

    async def test_behind_one_that_has_ended(self, monkeypatch):
        """A route gets it though the hop before it is of a request that has ended meanwhile."""
        pool, leases = pool_of(["busy"] * 8 + ["slow", "slower"], limit=8, reserve=0)
        waiters = []
        for route in ("ended", "quiet"):
            lease = pool.open_lease()
            lease.route = route
            waiters.append(pool.start_acquire(lease, lease))
        pool._close_lease(waiters[0].lease)
        pool._check()
        pool.finish(leases[-1])
        pool._close_lease(leases[-1])
        pool._check()
        assert [waiter.granted for waiter in waiters] == [False, True]
        for lease in leases[:3]:
            pool.finish(lease)
            pool._close_lease(lease)
            pool._check()
        assert waiters[0].granted

    async def test_hides_no_stall(self, monkeypatch):
        """Health checks that are answered don't keep a stalled pool from growing."""
        limiter, clock = make_limiter(monkeypatch, 8)
        go = anyio.Event()

        async def deep():
            lease = limiter.pool.open_lease()
            lease.route = "deep"
            current_lease.set(lease)
            async with limiter:
                pass
            await go.wait()
            async with limiter:
                await over.wait()
            limiter.pool.close_lease(lease)

        over = anyio.Event()
        async with requests(limiter) as group:
            for _ in range(20):
                group.start_soon(deep)
            await settle(limiter)
            go.set()
            await settle(limiter)
            await stall(limiter, clock)
            before = limiter.borrowed_tokens
            for _ in range(4):
                (health,) = hops(limiter, group, "health", 1)
                await settle(limiter)
                assert health.running
                health.end()
                await settle(limiter)
                await stall(limiter, clock)
            assert limiter.borrowed_tokens > before
            over.set()


class TestBackground:
    async def test_shares(self, monkeypatch):
        """What is left to do after the response has a share of its own."""
        limiter, _ = make_limiter(monkeypatch, 4, reserve=0)
        async with requests(limiter) as group:
            background = hops(limiter, group, "route", 20, background=True)
            await settle(limiter)
            new = hops(limiter, group, "route", 20)
            await settle(limiter)
            for _ in range(2):
                end_one(background)
                await settle(limiter)
            assert (running(background), running(new)) == (2, 2)
            end(background, new)

    @pytest.mark.parametrize("before", [0, 1])
    async def test_gives_its_token_up(self, monkeypatch, before):
        """A request under way that has been answered waits for its next thread by fair share."""
        limiter, _ = make_limiter(monkeypatch, 4, reserve=0)
        async with requests(limiter) as group:
            background = hops(limiter, group, "route", 20, before=before, background=True)
            await settle(limiter)
            new = hops(limiter, group, "other", 20)
            await settle(limiter)
            before_that = running(background), running(new)
            while running(new) < 2:
                end_one(background)
                await settle(limiter)
            assert (running(background), running(new)) == (2, 2), before_that
            end(background, new)

    async def test_no_quiet_token(self, monkeypatch):
        """Nobody waits for it: it gets no thread beyond the limit."""
        limiter, _ = make_limiter(monkeypatch, 8)
        async with requests(limiter) as group:
            busy = hops(limiter, group, "busy", 20)
            await settle(limiter)
            background = hops(limiter, group, "quiet", 2, background=True)
            await settle(limiter)
            assert running(background) == 0
            end(busy, background)

    async def test_reserve(self, monkeypatch):
        """It may hold a connection: where nothing else moves it gets the reserve."""
        limiter, _ = make_limiter(monkeypatch, 4)
        async with requests(limiter) as group:
            background = hops(limiter, group, "route", 1, before=1, background=True)
            await settle(limiter)
            busy = hops(limiter, group, "route", 20)
            await settle(limiter)
            assert running(background) == 1
            end(background, busy)

    @pytest.mark.parametrize("stall_threads", [0, None])
    async def test_holders(self, monkeypatch, stall_threads):
        """No freeze: requests wait for connections that answered ones give back at their end."""
        limiter, clock = make_limiter(monkeypatch, 4, stall_threads=stall_threads)
        connections = anyio.Semaphore(2)
        answered = 0

        async def request():
            nonlocal answered
            lease = limiter.pool.open_lease()
            lease.route = "route"
            current_lease.set(lease)
            async with limiter:
                await connections.acquire()
            lease.in_background = 1
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            async with limiter:
                pass
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            async with limiter:
                connections.release()
            answered += 1
            limiter.pool.close_lease(lease)

        async with requests(limiter) as group:
            for _ in range(50):
                group.start_soon(request)
            for _ in range(400):
                await settle(limiter)
                if answered == 50:
                    break
                clock.advance(0.5)
        assert answered == 50

    async def test_gives_a_quiet_token_up(self, monkeypatch):
        """It doesn't keep the thread beyond the limit of its first hop, even if nobody waits."""
        pool, leases = pool_of(["busy"] * 7 + ["route"], limit=8, reserve=1)
        assert pool.snapshot().quiet == 1
        lease = leases[-1]
        pool.finish(lease)
        lease.in_background = 1
        assert pool.start_acquire(lease, lease) is None
        pool._check()
        assert (pool.snapshot().quiet, pool.running) == (0, 8)

    async def test_leaves_its_route_without(self, monkeypatch):
        """When it takes its route's last thread along, the next request gets a quiet one."""
        pool, leases = pool_of(["busy"] * 7 + ["route"], limit=8, reserve=0)
        new = pool.open_lease()
        new.route = "route"
        waiter = pool.start_acquire(new, new)
        assert not waiter.granted
        pool.finish(leases[-1])
        leases[-1].in_background = 1
        assert pool.start_acquire(leases[-1], leases[-1]) is None
        pool._check()
        assert waiter.granted


def pool_of(routes, limit, reserve):
    """Return a pool, and the leases of requests to these routes whose first hops run."""
    pool = TokenPool(Virtual(), limit, reserve)
    leases = []
    for route in routes:
        lease = pool.open_lease()
        lease.route = route
        assert pool.start_acquire(lease, lease) is None
        leases.append(lease)
    return pool, leases


class TestFairQueue:
    def test_forgets_routes(self):
        """Routes of which nobody waits any longer leave nothing, whoever goes on to wait."""
        shares, queue = Shares(), FairQueue()
        waiters = []
        for number in range(1000):
            lease = Lease(None, 0, lambda: None)
            lease.route = lambda: None
            waiter = Waiter(None, lease, 0, Future(), None)
            waiter.arrival = number
            waiter.share = shares.of(lease, None)
            queue.add(waiter)
            waiters.append(waiter)
        route = ref(waiters[500].lease.route)
        while len(waiters) > 2:
            waiter = waiters.pop(1)
            queue.remove(waiter)
            shares.forget(waiter.share)
        queue.check()
        del waiter, lease
        gc.collect()
        assert route() is None
        assert queue.next() is waiters[0]


class TestHostileRoutes:
    @given(FUNCTIONS)
    async def test_any_object(self, make):
        """A route's endpoint and what a hop calls may be anything: neither is asked anything."""
        pool = TokenPool(Virtual(), 3, 0)
        for route in (None, make()):
            leases = [pool.open_lease() for _ in range(5)]
            for lease in leases:
                lease.route = route
                pool.start_acquire(lease, lease, make())
            pool._check()
            for lease in leases:
                pool.finish(lease)
                pool._check()
                pool._close_lease(lease)
            assert pool.running == 0


class Machine(RuleBasedStateMachine):
    """Routes that always have somebody waiting; hops end in whatever order."""

    @initialize(limit=st.integers(1, 12), routes=st.integers(1, 5))
    def make(self, limit, routes):
        self.clock = Virtual()
        self.pool = TokenPool(self.clock, limit, 0)
        self.limit = limit
        self.running = {route: [] for route in map(str, range(routes))}
        self.waiting = {route: [] for route in self.running}
        self.begun = 0
        for _ in range(limit + 2):
            for route in self.running:
                self.begin(route)

    def begin(self, route):
        lease = self.pool.open_lease()
        lease.route = route
        self.begun += 1
        waiter = self.pool.start_acquire(lease, lease)
        if waiter is None:
            self.running[route].append(lease)
        else:
            self.waiting[route].append(waiter)

    @rule(route=st.integers(0, 4), which=st.integers(0, 100))
    def ends(self, route, which):
        route = str(route % len(self.running))
        there = self.running[route]
        if not there:
            return
        lease = there.pop(which % len(there))
        self.pool.finish(lease)
        self.pool._close_lease(lease)
        self.sort()

    @rule(route=st.integers(0, 4), which=st.integers(0, 100))
    def gives_up(self, route, which):
        there = self.waiting[str(route % len(self.running))]
        if len(there) > 1:
            self.pool._dispatcher.leave_queue(there.pop(which % len(there)))

    def sort(self):
        for route, waiting in self.waiting.items():
            granted = [waiter for waiter in waiting if waiter.granted]
            assert granted == waiting[: len(granted)]  # by age in a route
            self.running[route] += [waiter.lease for waiter in granted]
            del waiting[: len(granted)]
            while len(waiting) < self.limit + 2:
                self.begin(route)

    @invariant()
    def holds(self):
        if not hasattr(self, "pool"):
            return
        self.pool._check()
        threads = [len(there) for there in self.running.values()]
        assert max(threads) - min(threads) <= 1 or self.just_begun()
        most = self.pool._dispatcher.tokens.most_quiet
        assert self.limit <= sum(threads) <= self.limit + most

    def just_begun(self):
        # Until each route has been served once, they have what they came first for.
        return any(
            len(there) > self.limit // len(self.running) + 1 for there in self.running.values()
        )


class Virtual(ManualClock):
    """A clock without a loop: nothing here waits."""

    def __init__(self):
        self.now = 0.0
        self.timers = []

    def current_task(self):
        return None

    def is_running_here(self):
        return True

    def loop(self):
        return None

    def call_soon(self, callback):
        pass

    def wake_up(self):
        return Future()


class Future:
    def done(self):
        return True


TestMachine = Machine.TestCase
TestMachine.settings = hypothesis_settings(max_examples=100, stateful_step_count=60, deadline=None)


def test_limiter_alone():
    """A limiter that is used by itself, outside any request, keeps to its limit."""

    async def main():
        limiter = OverflowLimiter(8, reserve=0)
        for n in range(8):
            limiter.acquire_on_behalf_of_nowait(n)
        with pytest.raises(anyio.WouldBlock):
            limiter.acquire_on_behalf_of_nowait(8)

    anyio.run(main)
