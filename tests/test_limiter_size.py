"""The limit may be set to anything at any time, and statistics() tells the truth about it.

Run by pytest, like test_limiter.py on anyio's limiter and on ours.
"""

import math

import anyio
import pytest
from anyio import CapacityLimiterStatistics, WouldBlock

from contract_tools import both, turns, waiting
from fastapi_overflow._requests.limiter import OverflowLimiter
from limiter_tools import Request, end_all, first_hops, make_limiter, requests, settle

pytestmark = pytest.mark.anyio

NEGATIVE = r"^total_tokens must be >= 0$"
WRONG_TYPE = "total_tokens must be an int or math.inf"


class TestTotalTokens:
    @both()
    async def test_raised(self, make):
        """Raising the limit wakes as many as there is room for."""
        limiter = make(1)
        async with anyio.create_task_group() as group:
            tasks = await waiting(limiter, group, 5)
            limiter.total_tokens = 3
            await turns()
            assert [task.got for task in tasks] == [True, True, True, False, False]
            for task in tasks:
                task.release.set()

    @both()
    async def test_lowered(self, make):
        """Lowering it interrupts nobody; the next one starts once there is room again."""
        limiter = make(3)
        async with anyio.create_task_group() as group:
            tasks = await waiting(limiter, group, 4)
            limiter.total_tokens = 1
            assert (limiter.borrowed_tokens, limiter.available_tokens) == (3, -2)
            for place in range(2):
                tasks[place].release.set()
                await turns()
                assert not tasks[3].got
            tasks[2].release.set()
            await turns()
            assert tasks[3].got
            tasks[3].release.set()

    @both(anyio_since=(4, 15))
    async def test_lowered_and_raised(self, make):
        """Lowered and raised again while tokens are out, it never gives out one too many."""
        limiter = make(3)
        async with anyio.create_task_group() as group:
            tasks = await waiting(limiter, group, 8)
            limiter.total_tokens = 1
            limiter.total_tokens = 2
            limiter.total_tokens = 3
            await turns()
            assert sum(task.got for task in tasks) == 3
            limiter.total_tokens = 4
            await turns()
            assert sum(task.got for task in tasks) == 4
            for task in tasks:
                task.release.set()

    @both(anyio_since=(4, 12))
    async def test_zero(self, make):
        """With a limit of 0 everybody waits until it is raised."""
        limiter = make(0)
        async with anyio.create_task_group() as group:
            (task,) = await waiting(limiter, group, 1)
            assert not task.got
            with pytest.raises(WouldBlock):
                limiter.acquire_nowait()
            limiter.total_tokens = 1
            await turns()
            assert task.got
            task.release.set()

    @both(anyio_since=(4, 12))
    async def test_zero_while_busy(self, make):
        """Set to 0, it lets running hops finish and starts no others."""
        limiter = make(1)
        async with anyio.create_task_group() as group:
            first, second = await waiting(limiter, group, 2)
            limiter.total_tokens = 0
            first.release.set()
            await turns()
            assert (limiter.borrowed_tokens, second.got) == (0, False)
            limiter.total_tokens = 1
            second.release.set()

    @both()
    async def test_infinite(self, make):
        """With math.inf nobody waits."""
        limiter = make(1)
        async with anyio.create_task_group() as group:
            tasks = await waiting(limiter, group, 10)
            limiter.total_tokens = math.inf
            await turns()
            assert all(task.got for task in tasks)
            assert limiter.available_tokens == math.inf
            for task in tasks:
                task.release.set()

    @both()
    @pytest.mark.parametrize("value", [1.5, math.nan])
    async def test_wrong_type(self, make, value):
        """Anything but a whole number or math.inf raises TypeError, at once or set later."""
        with pytest.raises(TypeError, match=WRONG_TYPE):
            make(value)
        limiter = make(1)
        with pytest.raises(TypeError, match=WRONG_TYPE):
            limiter.total_tokens = value
        assert limiter.total_tokens == 1

    @both()
    @pytest.mark.parametrize("value", ["2", None])
    async def test_no_number(self, make, value):
        """So does anything that isn't a number."""
        limiter = make(1)
        with pytest.raises(TypeError):
            limiter.total_tokens = value
        assert limiter.total_tokens == 1

    @both(anyio_since=(4, 12))
    async def test_negative(self, make):
        """A negative number raises ValueError, at once or set later."""
        with pytest.raises(ValueError, match=NEGATIVE):
            make(-1)
        limiter = make(1)
        with pytest.raises(ValueError, match=NEGATIVE):
            limiter.total_tokens = -1
        assert limiter.total_tokens == 1


@both()
class TestStatistics:
    async def test_at_any_moment(self, make):
        """statistics() has the limit, the tokens out, who has them and how many wait."""
        limiter = make(2)
        assert limiter.statistics() == CapacityLimiterStatistics(0, 2, (), 0)
        async with anyio.create_task_group() as group:
            tasks = await waiting(limiter, group, 5)
            found = limiter.statistics()
            assert (found.borrowed_tokens, found.total_tokens, found.tasks_waiting) == (2, 2, 3)
            assert set(found.borrowers) == {tasks[0], tasks[1]}
            tasks[0].release.set()
            await turns()
            found = limiter.statistics()
            assert (found.borrowed_tokens, found.tasks_waiting) == (2, 2)
            assert set(found.borrowers) == {tasks[1], tasks[2]}
            for task in tasks:
                task.release.set()
        assert limiter.statistics() == CapacityLimiterStatistics(0, 2, (), 0)

    async def test_snapshot(self, make):
        """It is a snapshot: later changes don't show in it."""
        limiter = make(1)
        before = limiter.statistics()
        async with limiter:
            assert before == CapacityLimiterStatistics(0, 1, (), 0)


@both()
class TestIdentity:
    async def test_is_a_limiter(self, make):
        """It is an anyio.CapacityLimiter."""
        assert isinstance(make(1), anyio.CapacityLimiter)

    async def test_truthy(self, make):
        """It is true even when used up or of size 0: anyio writes `limiter or default`."""
        limiter = make(1)
        assert limiter
        async with limiter:
            assert limiter

    async def test_hashable(self, make):
        """It can be a key, and is equal to itself alone."""
        one, other = make(1), make(1)
        assert {one: 1, other: 2}[one] == 1
        assert one != other


class TestWithReserve:
    @pytest.mark.parametrize(("total", "reserve"), [(1, 1), (1, 5), (2, 5)])
    async def test_last_token(self, total, reserve):
        """The reserve never takes the last token."""
        limiter = OverflowLimiter(total, reserve=reserve)
        async with requests(limiter) as group:
            (hop,) = first_hops(limiter, group, 1)
            await settle(limiter)
            assert hop.running
            hop.end()

    async def test_idle_leases(self, monkeypatch):
        """acquire_nowait() finds a token while no hop runs, whoever had them last."""
        limiter, _ = make_limiter(monkeypatch, 4)
        async with requests(limiter) as group:
            idle = [Request(limiter, group, hops=1) for _ in range(4)]
            await settle(limiter)
            for hop in [request.hop() for request in idle]:
                hop.end()
            await settle(limiter)
            assert limiter.borrowed_tokens == 0
            try:
                limiter.acquire_nowait()
                limiter.release()
            finally:
                for request in idle:
                    request.finish()

    async def test_lowered_to_one(self, monkeypatch):
        """Lowered to 1, nobody starts before the last hop has ended, whatever its token."""
        started = []
        for last in range(3):
            limiter, _ = make_limiter(monkeypatch, 3)
            async with requests(limiter) as group:
                busy = [Request(limiter, group, hops=1) for _ in range(3)]
                await settle(limiter)
                hops = [request.hop() for request in busy]
                for request in busy:
                    request.finish()
                await settle(limiter)
                assert all(hop.running for hop in hops)
                (new,) = first_hops(limiter, group, 1)
                limiter.total_tokens = 1
                end_all([hop for hop in hops if hop is not hops[last]])
                await settle(limiter)
                started.append(new.running)
                end_all([*hops, new])
        assert not any(started)

    async def test_reserve_lowered(self, monkeypatch):
        """A smaller reserve in a full pool gives no token beyond the limit."""
        limiter, _ = make_limiter(monkeypatch, 6, reserve=4)
        async with requests(limiter) as group:
            busy = [Request(limiter, group, hops=1) for _ in range(6)]
            await settle(limiter)
            hops = [request.hop() for request in busy]
            for request in busy:
                request.finish()
            await settle(limiter)
            assert limiter.borrowed_tokens == 6
            hops += first_hops(limiter, group, 5)
            await settle(limiter)
            limiter.pool.resize(6, 1)
            await settle(limiter)
            running = limiter.borrowed_tokens
            end_all(hops)
            assert running == 6

    async def test_lowered_while_the_reserve_is_used(self, monkeypatch):
        """A hop that ends with the reserve's token doesn't hide that there are too many others."""
        limiter, _ = make_limiter(monkeypatch, 3, stall_threads=0)
        pool = limiter.pool
        first, second, deep = pool.open_lease(), pool.open_lease(), pool.open_lease(under_way=True)
        leases = {"first": first, "second": second, "deep": deep}
        for name, lease in leases.items():
            assert pool.start_acquire(name, lease) is None
        limiter.total_tokens = 2
        pool.finish("deep")
        pool.finish("first")
        running = 1 + sum(pool.acquire_nowait(name, leases[name]) for name in ("deep", "first"))
        assert running == 2

    async def test_lowered_under_way(self, monkeypatch):
        """A lowered limit holds for the next hops of requests that are under way."""
        limiter, _ = make_limiter(monkeypatch, 5)
        async with requests(limiter) as group:
            busy = [Request(limiter, group) for _ in range(4)]
            hops = [request.hop() for request in busy]
            await settle(limiter)
            limiter.total_tokens = 1
            for hop in hops:
                hop.end()
            await settle(limiter)
            hops = [request.hop() for request in busy]
            await settle(limiter)
            running = limiter.borrowed_tokens
            for request in busy:
                request.finish()
            end_all(hops)
            assert running == 1
