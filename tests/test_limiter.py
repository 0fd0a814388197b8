"""The limiter keeps the contract of anyio's own: each claim is tried on both.

Run by pytest. Where a claim needs a newer anyio than the one installed, anyio's own is left out.
"""

import math
from importlib.metadata import version

import anyio
import pytest
from anyio import CapacityLimiterStatistics, WouldBlock, to_thread
from anyio.lowlevel import checkpoint
from limiter_tools import Request, first_hops, make_limiter, requests, settle

from fastapi_overflow._limiter import OverflowLimiter

pytestmark = pytest.mark.anyio

ANYIO = tuple(int(part) for part in version("anyio").split(".")[:2])

HOLDS = "^this borrower is already holding one of this CapacityLimiter's tokens$"
HOLDS_NONE = "^this borrower isn't holding any of this CapacityLimiter's tokens$"
WRONG_TYPE = "total_tokens must be an int or math.inf"


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


@both()
class TestTokens:
    async def test_async_with(self, make):
        """`async with` takes a token for the task and gives it back."""
        limiter = make(2)
        async with limiter as result:
            assert result is None
            assert (limiter.borrowed_tokens, limiter.available_tokens) == (1, 1)
        assert (limiter.borrowed_tokens, limiter.available_tokens) == (0, 2)

    async def test_exception(self, make):
        """An exception inside `async with` comes through, and the token is given back."""
        limiter = make(1)
        with pytest.raises(ZeroDivisionError):
            async with limiter:
                1 / 0
        assert limiter.borrowed_tokens == 0

    async def test_task(self, make):
        """acquire() and release() are for the current task."""
        limiter = make(1)
        await limiter.acquire()
        assert limiter.borrowed_tokens == 1
        limiter.release()
        assert limiter.borrowed_tokens == 0

    async def test_on_behalf_of(self, make):
        """Anything hashable may be the borrower."""
        limiter = make(3)
        borrowers = [object(), "name", 1]
        for borrower in borrowers:
            await limiter.acquire_on_behalf_of(borrower)
        assert set(limiter.statistics().borrowers) == set(borrowers)
        for borrower in borrowers:
            limiter.release_on_behalf_of(borrower)
        assert limiter.borrowed_tokens == 0

    async def test_nowait(self, make):
        """acquire_nowait() takes a token, or raises WouldBlock where it would have to wait."""
        limiter = make(1)
        limiter.acquire_nowait()
        with pytest.raises(WouldBlock):
            limiter.acquire_on_behalf_of_nowait(object())
        assert limiter.borrowed_tokens == 1
        limiter.release()
        limiter.acquire_on_behalf_of_nowait("another")
        limiter.release_on_behalf_of("another")

    async def test_nowait_behind_others(self, make):
        """acquire_nowait() takes no token that was given to a waiter who has not run since."""
        limiter = make(1)
        async with anyio.create_task_group() as group:
            await limiter.acquire()
            (waiter,) = await waiting(limiter, group, 1)
            limiter.release()
            with pytest.raises(WouldBlock):
                limiter.acquire_nowait()
            waiter.release.set()

    async def test_in_order(self, make):
        """Tokens go to those who wait in the order in which they came."""
        limiter = make(1)
        async with anyio.create_task_group() as group:
            tasks = await waiting(limiter, group, 5)
            for served in range(5):
                assert [task.got for task in tasks] == [place <= served for place in range(5)]
                tasks[served].release.set()
                await turns()

    async def test_thread(self, make):
        """anyio's run_sync takes it as `limiter=`: one token while the function runs."""
        limiter = make(1)
        assert await to_thread.run_sync(lambda: limiter.borrowed_tokens, limiter=limiter) == 1
        assert limiter.borrowed_tokens == 0

    async def test_threads(self, make):
        """No more threads run than it has tokens."""
        limiter = make(2)
        running, peak = set(), []

        def work(number):
            running.add(number)
            peak.append(len(running))
            running.discard(number)

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(lambda n=number: to_thread.run_sync(work, n, limiter=limiter))
        assert len(peak) == 50
        assert max(peak) <= 2


@both()
class TestBorrowerRules:
    async def test_twice(self, make):
        """Nobody can hold two tokens: anyio's RuntimeError, waiting or not."""
        limiter = make(2)
        async with limiter:
            with pytest.raises(RuntimeError, match=HOLDS):
                await limiter.acquire()
            with pytest.raises(RuntimeError, match=HOLDS):
                limiter.acquire_nowait()
        assert limiter.borrowed_tokens == 0

    async def test_twice_on_behalf(self, make):
        """Nor can another borrower than the task."""
        limiter = make(2)
        limiter.acquire_on_behalf_of_nowait("x")
        with pytest.raises(RuntimeError, match=HOLDS):
            await limiter.acquire_on_behalf_of("x")
        with pytest.raises(RuntimeError, match=HOLDS):
            limiter.acquire_on_behalf_of_nowait("x")
        limiter.release_on_behalf_of("x")

    async def test_release_without(self, make):
        """Nobody can give back a token that it doesn't hold: anyio's RuntimeError."""
        limiter = make(1)
        with pytest.raises(RuntimeError, match=HOLDS_NONE):
            limiter.release()
        with pytest.raises(RuntimeError, match=HOLDS_NONE):
            limiter.release_on_behalf_of("x")

    async def test_release_of_another(self, make):
        """Nor one that somebody else holds."""
        limiter = make(1)
        limiter.acquire_on_behalf_of_nowait("x")
        with pytest.raises(RuntimeError, match=HOLDS_NONE):
            limiter.release()
        assert limiter.borrowed_tokens == 1
        limiter.release_on_behalf_of("x")


@both()
class TestCheckpoint:
    async def test_others_run(self, make):
        """acquire() lets other tasks run even when a token is free."""
        limiter = make(1)
        ran = []

        async def other():
            ran.append(True)

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            for _ in range(2):  # trio runs what is ready in one turn in random order
                async with limiter:
                    pass
            assert ran

    async def test_cancelled_before(self, make):
        """acquire() in a cancelled scope raises, and takes no token."""
        limiter = make(1)
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with limiter:
                pytest.fail("entered")
        assert scope.cancelled_caught
        assert limiter.borrowed_tokens == 0

    async def test_cancelled_waiting(self, make):
        """A cancelled waiter leaves the queue; the next in line gets the token."""
        limiter = make(1)
        async with anyio.create_task_group() as group:
            first, second, third = await waiting(limiter, group, 3)
            assert limiter.statistics().tasks_waiting == 2
            second.scope.cancel()
            await turns()
            assert limiter.statistics().tasks_waiting == 1
            first.release.set()
            await turns()
            assert (second.got, third.got) == (False, True)
            third.release.set()
        assert limiter.borrowed_tokens == 0

    @pytest.mark.parametrize("after", range(4))
    async def test_cancelled_when_granted(self, make, after):
        """A waiter cancelled in the very turn in which it was granted a token doesn't keep it."""
        limiter = make(1)
        async with anyio.create_task_group() as group:
            first, second, third = await waiting(limiter, group, 3)
            first.release.set()
            await turns(after)
            second.scope.cancel()
            await turns()
            assert third.got
            assert limiter.borrowed_tokens == 1
            third.release.set()
        assert limiter.borrowed_tokens == 0

    async def test_cancelled_both(self, make):
        """Waiters cancelled one after another hand the token on to whoever is left."""
        limiter = make(1)
        async with anyio.create_task_group() as group:
            first, *middle, last = await waiting(limiter, group, 6)
            first.release.set()
            for task in middle:
                task.scope.cancel()
                await checkpoint()
            await turns()
            assert last.got
            last.release.set()
        assert limiter.statistics() == CapacityLimiterStatistics(0, 1, (), 0)


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
        """Lowering it ends nobody's turn; the next starts once there is room again."""
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
        """Lowered and raised again with tokens out, it gives no token too many."""
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
        """Set to 0 it lets those who run finish, and nobody start."""
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
        """What is neither a whole number nor math.inf is a TypeError, at once and later."""
        with pytest.raises(TypeError, match=WRONG_TYPE):
            make(value)
        limiter = make(1)
        with pytest.raises(TypeError, match=WRONG_TYPE):
            limiter.total_tokens = value
        assert limiter.total_tokens == 1

    @both()
    @pytest.mark.parametrize("value", ["2", None])
    async def test_no_number(self, make, value):
        """What is no number is a TypeError too."""
        limiter = make(1)
        with pytest.raises(TypeError):
            limiter.total_tokens = value
        assert limiter.total_tokens == 1

    @both(anyio_since=(4, 12))
    async def test_negative(self, make):
        """A negative number is a ValueError, at once and later."""
        with pytest.raises(ValueError, match="^total_tokens must be >= 0$"):
            make(-1)
        limiter = make(1)
        with pytest.raises(ValueError, match="^total_tokens must be >= 0$"):
            limiter.total_tokens = -1
        assert limiter.total_tokens == 1


@both()
class TestStatistics:
    async def test_at_any_moment(self, make):
        """statistics() tells limit, tokens out, who has them and how many wait."""
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
        """It is true, used up or of size 0: anyio says `limiter or default`."""
        limiter = make(1)
        assert limiter
        async with limiter:
            assert limiter

    async def test_hashable(self, make):
        """It can be a key, and is equal to itself alone."""
        one, other = make(1), make(1)
        assert {one: 1, other: 2}[one] == 1
        assert one != other


class TestOneBorrowerWaitsTwice:
    async def test_in_turn(self):
        """Two that wait under one name are both served, one after the other."""
        limiter = ours(1)
        async with requests(limiter) as group:
            first = Waiting(limiter, group)
            await settle(limiter)
            twins = [Waiting(limiter, group, "twin") for _ in range(2)]
            await settle(limiter)
            first.release.set()
            await settle(limiter)
            assert sum(twin.got for twin in twins) == 1
            for twin in twins:
                twin.release.set()
            await settle(limiter)
            assert all(twin.got for twin in twins)

    @pytest.mark.xfail(strict=True, reason="the second grant overwrites the first")
    async def test_at_once(self):
        """With room for both they don't share one token."""
        limiter = ours(2)
        async with requests(limiter) as group:
            firsts = [Waiting(limiter, group) for _ in range(2)]
            await settle(limiter)
            twins = [Waiting(limiter, group, "twin") for _ in range(2)]
            await settle(limiter)
            for first in firsts:
                first.release.set()
            await settle(limiter)
            assert limiter.borrowed_tokens == sum(twin.got for twin in twins)
            for twin in twins:
                twin.release.set()


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

    @pytest.mark.xfail(strict=True, reason="only one idle token is taken back")
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

    @pytest.mark.xfail(strict=True, reason="a lease keeps a token beyond the limit")
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
            for hop in hops:
                hop.end()
            assert running == 1
