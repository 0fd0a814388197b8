"""stats() and is_saturated(): what an app can ask about its thread pool."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import gc
import json
import math
import sys
import threading
import time
from functools import partial

import anyio
import pytest
from anyio import to_thread

import fastapi_overflow
from fastapi_overflow import Stats, run_in_threadpool, set_thread_limit, stats
from fastapi_overflow._requests.limiters import current_limiter
from fastapi_overflow._watching import episodes as _episode
from observed import Gate, busy, calm, deadlock, lose_token, needs_stacks, request, until
from support import PATIENCE, run_python

pytestmark = pytest.mark.anyio


class TestNow:
    async def test_idle(self):
        """A fresh event loop has its limit and reserve, and nothing in use."""
        calm(7, 2)
        assert stats() == Stats(limit=7, reserve=2, loops=1)

    async def test_running(self):
        """A hop that runs uses a thread."""
        async with busy(2):
            now = stats()
        assert (now.threads_in_use, now.threads_lingering, now.hops) == (2, 0, 2)

    async def test_lingering(self):
        """A thread that a request keeps between two hops is in use, and told apart."""

        async def endpoint():
            await run_in_threadpool(int)
            between.append(stats())

        between: list[Stats] = []
        await request(endpoint)
        (now,) = between
        assert (now.threads_in_use, now.threads_lingering) == (1, 1)

    async def test_waiting_first(self):
        """Requests that wait for their first thread are counted apart from those under way."""
        calm(3)
        async with busy(5):
            now = stats()
        assert (now.waiting_first, now.waiting_later, now.waiting) == (3, 0, 3)

    async def test_reserved_and_waiting_later(self):
        """A request under way may use the reserve; the next one waits, as a later hop."""
        calm(4)
        started = 0
        go_on = anyio.Event()

        async def endpoint():
            nonlocal started
            await run_in_threadpool(int)
            started += 1
            await go_on.wait()
            await run_in_threadpool(gate)

        async with anyio.create_task_group() as under_way:
            for _ in range(2):
                under_way.start_soon(request, endpoint)
            await until(lambda: started == 2, "two requests under way")
            async with busy(3) as (gate, _):
                # Somebody waits, so the two have lost the tokens that they had kept.
                await until(lambda: not stats().waiting, "three other requests in a hop")
                go_on.set()
                await until(lambda: stats().waiting_later == 1, "a later hop that waits")
                now = stats()
        assert (now.threads_in_use, now.threads_reserved, now.threads_beyond_limit) == (4, 1, 0)
        assert (now.reserve_used, now.waiting_first) == (1, 0)

    async def test_beyond_limit(self):
        """Threads beyond the limit are told apart."""
        calm(5, 1)
        async with busy(4):
            calm(3, 1)
            now = stats()
        assert (now.threads_in_use, now.threads_beyond_limit, now.threads_reserved) == (4, 1, 0)

    async def test_longest_wait(self):
        """The longest wait grows while somebody waits, and is 0 again afterwards."""
        calm(3)
        async with busy(3):
            first = stats().longest_wait
            await until(lambda: stats().longest_wait > first, "a longer wait")
        assert first > 0
        assert stats().longest_wait == 0

    async def test_no_limit(self):
        """A limiter without a limit is told as such, for JSON as null."""
        current_limiter().total_tokens = math.inf
        now = stats()
        assert (now.limit, now.reserve, now.threads_beyond_limit) == (math.inf, 0, 0)
        assert json.loads(json.dumps(now.as_dict(), allow_nan=False))["limit"] is None


class TestTotals:
    async def test_waits(self):
        """Hops that had to wait are counted, and for how long all of them waited."""
        calm(3)
        async with busy(5):
            begun = stats().longest_wait  # all three wait by now
            await until(lambda: stats().longest_wait > begun + 0.01, "a longer wait")
        now = stats()
        assert (now.hops, now.waits, now.peak_waiting, now.peak_threads) == (5, 3, 3, 2)
        assert now.seconds_waited > 3 * 0.01

    async def test_cancelled_wait(self):
        """A wait that is cancelled was a wait; the hop never was one."""
        calm(3)
        async with busy(2):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(run_in_threadpool, int)
                    await until(lambda: stats().waiting == 1, "a waiter")
                    scope.cancel()
            now = stats()
        assert (now.waits, now.waiting, now.hops) == (1, 0, 2)
        assert now.seconds_waited > 0

    async def test_nothing_counted_in_passing(self):
        """Hops that find a thread leave nothing but their number and the most at once."""
        for _ in range(3):
            await run_in_threadpool(int)
        assert dataclasses.replace(stats(), hops=0, peak_threads=0) == Stats(
            limit=40, reserve=1, loops=1
        )
        assert (stats().hops, stats().peak_threads) == (3, 1)

    async def test_stall(self):
        """A stall is counted once, with the threads that were added in it."""
        set_thread_limit(3)
        await deadlock()
        now = stats()
        assert now.stalls > 0
        assert now.threads_grown > 0
        assert now.peak_threads > 3

    async def test_frozen(self):
        """What was read can't be changed by mistake."""
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats().hops = 1  # type: ignore[misc]

    def test_documented(self):
        """Each field is explained."""
        for field in dataclasses.fields(Stats):
            assert f":ivar {field.name}:" in (Stats.__doc__ or ""), field.name


class TestDeadlocksAverted:
    @needs_stacks
    async def test_counted(self):
        """Threads that all waited for what a waiting request held: a deadlock averted."""
        set_thread_limit(3)
        await deadlock()
        assert 1 <= stats().deadlocks_averted <= stats().stalls

    async def test_overload_is_none(self):
        """Slow work in all threads is a stall and no deadlock, though others went ahead."""
        set_thread_limit(3)
        done = anyio.Event()
        slow = threading.Lock()  # a bare lock: from outside, as good as work

        def work():
            assert slow.acquire(timeout=2 * PATIENCE)
            slow.release()

        async def under_way():
            await run_in_threadpool(int)
            await waiting.wait()
            await run_in_threadpool(int)
            done.set()

        waiting = anyio.Event()
        slow.acquire()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(request, under_way)
                await until(lambda: stats().hops == 1, "a request under way")
                await lose_token()
                for _ in range(4):  # two regular tokens, the rest is given out by the stall
                    group.start_soon(run_in_threadpool, work)
                await until(lambda: stats().threads_in_use == 3, "all threads at work")
                waiting.set()
                await done.wait()  # it was given a thread in the stall
                slow.release()
        finally:
            if slow.locked():
                slow.release()
        assert stats().stalls > 0
        assert stats().deadlocks_averted == 0

    async def test_moved_by_itself_is_none(self):
        """A stall in which the blocked threads came free by themselves is no deadlock."""
        set_thread_limit(3)
        async with busy(3):
            await until(lambda: stats().stalled, "a stall")
        assert stats().stalls == 1
        assert stats().deadlocks_averted == 0

    @pytest.mark.parametrize("first", ["blocked", "lent"])
    async def test_moved_by_something_else_is_none(self, first, monkeypatch):
        """Blocked threads that came free long before or after those that were lent one."""
        monkeypatch.setattr(_episode, "FREED_AFTER", 0.0)
        set_thread_limit(3)
        later = Gate()
        begun, go_on = 0, anyio.Event()

        def finished():
            return stats().hops - current_limiter().borrowed_tokens

        def has_ended(hops):
            return finished() == hops

        async def under_way():
            nonlocal begun
            await run_in_threadpool(int)
            begun += 1
            await go_on.wait()
            await run_in_threadpool(wait)

        async with anyio.create_task_group() as group:
            try:
                for _ in range(2):
                    group.start_soon(request, under_way)
                await until(lambda: begun == 2, "two requests under way")
                async with busy(2) as (gate, _):
                    gates = iter((gate, later))  # one goes in the reserve, the other is lent one

                    def wait():
                        next(gates)()

                    await until(lambda: not stats().waiting, "two other requests in a hop")
                    go_on.set()
                    await until(lambda: stats().threads_grown == 1, "a thread beyond the limit")
                    await until(lambda: not stats().stalled, "the end of the stall")
                    for each in (gate, later) if first == "blocked" else (later, gate):
                        ended = finished() + (3 if each is gate else 1)
                        each.open()
                        await until(partial(has_ended, ended), "the end of the hops at the gate")
                        # The time that must lie between the two for them to have no connection.
                        await anyio.sleep(2 * current_limiter().pool.stall_seconds)
            finally:
                later.open()
        assert stats().deadlocks_averted == 0

    async def test_costs_no_hop_afterwards(self):
        """Once the verdict is in, the pool no longer reports its hops."""
        set_thread_limit(3)
        await deadlock()
        assert not current_limiter().pool._dispatcher.reports_hops

    @pytest.mark.skipif(sys.platform == "win32", reason="process groups")
    @needs_stacks
    def test_stock_deadlocks(self, wheel_python):
        """What is counted as averted is a deadlock without the package, and none with it."""
        without = run_python(
            wheel_python, DEADLOCK, timeout=60, env={"FASTAPI_OVERFLOW_DISABLE": "1"}, check=True
        )
        with_it = run_python(
            wheel_python, DEADLOCK, timeout=60, env={"FASTAPI_OVERFLOW_LIMIT": "3"}, check=True
        )
        assert without.stdout.split() == ["deadlock", "0"]
        finished, averted = with_it.stdout.split()
        assert finished == "finished"
        assert int(averted) >= 1


# The requests of observed.deadlock() in a Starlette app, at three threads.
DEADLOCK = """
import os, sys, threading
import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route
import fastapi_overflow

REQUESTS, THREADS = 6, 3
pool = threading.BoundedSemaphore(1)
begun, wanted, got, answered = [], [], [], []

def check_out():
    wanted.append(True)
    pool.acquire()
    got.append(True)

def threads_are_blocked():
    return len(wanted) - len(got) >= min(THREADS, REQUESTS - len(answered) - 1)

async def until(condition):
    while not condition():
        await anyio.sleep(0.001)

async def endpoint(request):
    await run_in_threadpool(int)
    begun.append(True)
    await until(lambda: len(begun) == REQUESTS)
    await run_in_threadpool(check_out)
    await until(threads_are_blocked)
    await run_in_threadpool(pool.release)
    answered.append(True)
    return Response()

app = Starlette(routes=[Route("/", endpoint)])

async def get():
    async def receive():
        return {"type": "http.request", "body": b""}
    async def send(message):
        pass
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    await app(scope, receive, send)

async def main():
    patched = fastapi_overflow.patched()
    limiter = to_thread.current_default_thread_limiter()
    if not patched:
        limiter.total_tokens = THREADS
    async with anyio.create_task_group() as group:
        for _ in range(REQUESTS):
            group.start_soon(get)
        if not patched:
            # The threads wait for the connection, and the request that has it for a thread.
            await until(lambda: limiter.borrowed_tokens == THREADS and threads_are_blocked()
                and limiter.statistics().tasks_waiting == REQUESTS - THREADS)
            print("deadlock", fastapi_overflow.stats(all_loops=True).deadlocks_averted, flush=True)
            os._exit(0)
    print("finished", fastapi_overflow.stats(all_loops=True).deadlocks_averted, flush=True)

anyio.run(main)
"""


class TestFromAnywhere:
    async def test_worker_thread_of_a_request(self):
        """A sync endpoint reads the statistics of its own loop."""
        set_thread_limit(9)
        seen: list[Stats] = []

        async def endpoint():
            await run_in_threadpool(lambda: seen.append(stats()))

        await request(endpoint)
        assert (seen[0].limit, seen[0].threads_in_use) == (9, 1)

    async def test_worker_thread_outside_a_request(self):
        """So does any other function in a worker thread of the loop."""
        set_thread_limit(9)
        assert (await run_in_threadpool(stats)).limit == 9

    async def test_callback_of_the_loop(self, anyio_backend_name):
        """So does a callback, which is in no task."""
        if anyio_backend_name == "trio":
            pytest.skip("trio has none")
        set_thread_limit(9)
        seen = []
        asyncio.get_running_loop().call_soon(
            lambda: seen.append(stats()), context=contextvars.Context()
        )
        await until(lambda: seen, "the callback")
        assert seen[0].limit == 9

    async def test_while_stuck(self):
        """No thread is needed to read them: it works when there is none."""
        set_thread_limit(3)
        async with busy(9):
            await until(lambda: stats().stalled, "a stall")
            now = stats()
        assert now.threads_in_use == 3
        assert now.waiting == 6

    def test_nowhere(self):
        """Where no loop is near, the error names what works."""
        with pytest.raises(RuntimeError, match=r"stats\(all_loops=True\)"):
            stats()

    def test_disabled(self, wheel_python):
        """With FASTAPI_OVERFLOW_DISABLE set, all is 0 and nothing fails."""
        code = "import fastapi_overflow as f; print(f.stats() == f.Stats(), f.is_saturated())"
        env = {"FASTAPI_OVERFLOW_DISABLE": "1"}
        assert run_python(wheel_python, code, timeout=PATIENCE, env=env).stdout.split() == [
            "True",
            "False",
        ]


class TestAllLoops:
    async def test_sum(self):
        """The numbers of all loops are added up, from any thread."""
        gc.collect()  # the loops of other tests
        assert stats().loops == 1
        before = stats(all_loops=True)

        def other_loop():
            async def main():
                set_thread_limit(11)
                await run_in_threadpool(int)
                totals.append(stats(all_loops=True))

            anyio.run(main)

        totals: list[Stats] = []
        await to_thread.run_sync(other_loop, limiter=anyio.CapacityLimiter(1))
        (now,) = totals
        assert now.loops - before.loops == 1
        assert now.limit - before.limit == 11
        assert now.hops - before.hops == 1

    def test_dead_loops_are_not_kept(self):
        """A loop that has ended is gone from the sum: statistics keep no loop alive."""

        async def main():
            stats()
            counted.append(stats(all_loops=True).loops)

        counted = []
        gc.collect()
        before = stats(all_loops=True).loops
        for _ in range(3):
            anyio.run(main)
        assert counted[0] == before + 1
        gc.collect()
        assert stats(all_loops=True).loops <= before

    async def test_read_while_it_changes(self):
        """Another thread may read them at any moment."""
        set_thread_limit(3)
        stop = threading.Event()
        errors: list[BaseException] = []

        def reader():
            try:
                while not stop.is_set():
                    stats(all_loops=True)
            except BaseException as exc:
                errors.append(exc)

        thread = threading.Thread(target=reader)
        thread.start()
        try:
            async with anyio.create_task_group() as group:
                for _ in range(300):
                    group.start_soon(run_in_threadpool, int)
        finally:
            stop.set()
            thread.join(PATIENCE)
        assert errors == []


class TestIsSaturated:
    async def test_idle(self):
        """A pool that nobody waits for isn't saturated."""
        calm(3)
        async with busy(2):
            assert not fastapi_overflow.is_saturated(for_seconds=0)

    async def test_waiting_long_enough(self):
        """It is once every thread is taken and somebody has waited for so long."""
        calm(3)
        async with busy(4):
            assert not fastapi_overflow.is_saturated(for_seconds=60)
            await until(lambda: fastapi_overflow.is_saturated(for_seconds=0.01), "saturation")
        assert not fastapi_overflow.is_saturated(for_seconds=0)

    async def test_break(self):
        """A moment in which nobody waited starts the time anew."""
        began = time.monotonic()
        calm(3)
        async with busy(3):
            await until(lambda: fastapi_overflow.is_saturated(for_seconds=0.01), "saturation")
        async with busy(4):
            assert fastapi_overflow.is_saturated(for_seconds=0)
            assert not fastapi_overflow.is_saturated(for_seconds=time.monotonic() - began)

    async def test_queue_that_moves(self):
        """That others got a thread meanwhile is no break, as long as somebody went on waiting."""
        calm(3)
        async with busy(4) as (_, group):
            await until(lambda: stats().longest_wait > 0.01, "a wait")
            before = stats().longest_wait
            group.start_soon(run_in_threadpool, int)
            await until(lambda: stats().waiting == 3, "one more waiter")
            assert fastapi_overflow.is_saturated(for_seconds=before)

    async def test_from_a_worker_thread(self):
        """A sync readiness probe may ask."""
        assert not await run_in_threadpool(fastapi_overflow.is_saturated)
