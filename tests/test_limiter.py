"""The limiter keeps the contract of anyio's own: each claim is tested on both.

Run by pytest. Where a claim needs a newer anyio than the one installed, anyio's own is left out.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import anyio
import pytest
from anyio import CapacityLimiterStatistics, WouldBlock, to_thread
from anyio.lowlevel import checkpoint

from contract_tools import Waiting, both, ours, turns, waiting
from limiter_tools import requests, settle
from observed import Gate, until

pytestmark = pytest.mark.anyio

HOLDS = "^this borrower is already holding one of this CapacityLimiter's tokens$"
HOLDS_NONE = "^this borrower isn't holding any of this CapacityLimiter's tokens$"


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
        with pytest.raises(LookupError):
            async with limiter:
                raise LookupError
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
        """acquire_nowait() doesn't take a token already granted to a waiter that has yet to run."""
        limiter = make(1)
        async with anyio.create_task_group() as group:
            await limiter.acquire()
            (waiter,) = await waiting(limiter, group, 1)
            limiter.release()
            with pytest.raises(WouldBlock):
                limiter.acquire_nowait()
            waiter.release.set()

    async def test_in_order(self, make):
        """Waiters get tokens in the order in which they came."""
        limiter = make(1)
        async with anyio.create_task_group() as group:
            tasks = await waiting(limiter, group, 5)
            for served in range(5):
                assert [task.got for task in tasks] == [place <= served for place in range(5)]
                tasks[served].release.set()
                await turns()

    async def test_thread(self, make):
        """Both backends of run_sync take it as `limiter=`: one token while the function runs."""
        limiter = make(1)
        assert await to_thread.run_sync(lambda: limiter.borrowed_tokens, limiter=limiter) == 1
        assert limiter.borrowed_tokens == 0

    async def test_threads(self, make):
        """As many threads run as it has tokens, however many functions wait for one."""
        limiter = make(2)
        gate, begun = Gate(), []

        def work():
            begun.append(True)
            gate()

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(partial(to_thread.run_sync, work, limiter=limiter))
            await until(lambda: len(begun) == 2, "two functions that run")
            await until(lambda: limiter.statistics().tasks_waiting == 48, "the others waiting")
            assert len(begun) == 2
            gate.open()
        assert len(begun) == 50


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
        """Nor can a borrower other than the task."""
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
        """Nor one that another borrower holds."""
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


class TestStatistics:
    async def test_asked_in_another_thread(self):
        """Any thread may ask, even while the event loop's thread changes the borrowers."""
        limiter = ours(100)
        borrowers = [object() for _ in range(90)]

        def ask():
            return [limiter.statistics() for _ in range(3000)]

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask)
            while not asked.done():
                for borrower in borrowers:
                    limiter.acquire_on_behalf_of_nowait(borrower)
                for borrower in borrowers:
                    limiter.release_on_behalf_of(borrower)
        assert len(asked.result()) == 3000


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

    async def test_at_once(self):
        """With room for both, the second fails as if it came now; they don't share a token."""
        limiter = ours(2)
        async with requests(limiter) as group:
            firsts = [Waiting(limiter, group) for _ in range(2)]
            await settle(limiter)
            twin = Waiting(limiter, group, "twin")
            await settle(limiter)
            failed = anyio.Event()

            async def second():
                with pytest.raises(RuntimeError, match="this borrower is already holding one"):
                    await limiter.acquire_on_behalf_of("twin")
                failed.set()

            group.start_soon(second)
            await settle(limiter)
            for first in firsts:
                first.release.set()
            await settle(limiter)
            assert twin.got
            assert failed.is_set()
            assert limiter.borrowed_tokens == 1
            twin.release.set()
