"""Hops that share the threads of their event loop: none waits beside a free one, and all come back.

The queues are looked at one by one where that shows something, else in a loop with anyio's threads.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
from types import SimpleNamespace
from weakref import ref

import anyio
import pytest
from anyio import from_thread, to_thread

import fastapi_overflow
from fastapi_overflow._requests import worker_queue
from fastapi_overflow._requests.worker_queue import Crew, HopQueue
from fastapi_overflow._requests.worker_results import LoopOfWorker, Results
from observed import until
from support import PATIENCE

fastapi_overflow.patch()  # for installations without the hook

HOPS = 20

on_both_loops = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": uvloop}) for uvloop in (False, True)],
    ids=["asyncio", "uvloop"],
)


class Thread:
    """A thread that gets hops by a queue of the crew, and says what it got."""

    def __init__(self, crew):
        self.queue = HopQueue(crew=crew)
        self.got = queue.SimpleQueue()
        self.go_on = threading.Semaphore(0)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            while (item := self.queue.get()) is not None:
                self.got.put(item)
                self.go_on.acquire(timeout=PATIENCE)
                self.queue.task_done()
        except ZeroDivisionError:
            self.got.put("died")

    def sleeps(self):
        return self.queue in self.queue.crew.asleep


@pytest.fixture
async def crew():
    """Three threads of one crew, all asleep."""
    crew = Crew()
    threads = [Thread(crew) for _ in range(3)]
    await until(lambda: all(thread.sleeps() for thread in threads), "sleep")
    yield threads
    for thread in threads:
        thread.queue.put_nowait(None)
        thread.go_on.release(9)
    for thread in threads:
        thread.thread.join(PATIENCE)
        assert not thread.thread.is_alive(), "it doesn't end"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestCrew:
    async def test_as_many_hops_as_threads_run_at_once(self, crew):
        """Hops that block don't hold each other up, whichever threads they were put to."""
        for item in ("a", "b", "c"):
            crew[0].queue.put_nowait(item)
        assert {thread.got.get(timeout=PATIENCE) for thread in crew} == {"a", "b", "c"}

    async def test_the_thread_that_comes_back_takes_the_next(self, crew):
        """With all threads at work, whichever comes back first takes the hop that waits."""
        for item in "abc":
            crew[0].queue.put_nowait(item)
        for thread in crew:
            thread.got.get(timeout=PATIENCE)
        crew[0].queue.put_nowait("d")
        crew[2].go_on.release()
        assert crew[2].got.get(timeout=PATIENCE) == "d"

    async def test_the_last_one_to_fall_asleep_is_called(self, crew):
        """One hop after another goes to the same thread."""
        hot = crew[0].queue.crew.asleep[0]
        (thread,) = (thread for thread in crew if thread.queue is hot)
        for item in "ab":
            crew[0].queue.put_nowait(item)
            assert thread.got.get(timeout=PATIENCE) == item
            thread.go_on.release()
            await until(thread.sleeps, "sleep")

    async def test_only_the_one_that_is_told_ends(self, crew):
        """A thread that has been idle for too long ends, and the others run hops."""
        crew[1].queue.put_nowait(None)
        crew[1].thread.join(PATIENCE)
        assert not crew[1].thread.is_alive()
        for item in "ab":
            crew[1].queue.put_nowait(item)
        assert crew[0].got.get(timeout=PATIENCE) + crew[2].got.get(timeout=PATIENCE) in ("ab", "ba")

    async def test_one_whose_call_was_interrupted_ends(self, crew):
        """A thread sleeps on where a signal's handler raised as it was called; not at the end."""
        first, *_ = crew
        first.queue.crew.asleep.remove(first.queue)
        first.queue.put_nowait(None)
        await until(lambda: not first.thread.is_alive(), "end")

    async def test_hops_that_wait_run_before_the_end(self, crew):
        """What was put before the end is run."""
        for item in "abcd":
            crew[0].queue.put_nowait(item)
        for thread in crew:
            thread.got.get(timeout=PATIENCE)
            thread.queue.put_nowait(None)
        crew[1].go_on.release()
        assert crew[1].got.get(timeout=PATIENCE) == "d"

    async def test_one_whose_hop_runs_elsewhere_stays_for_that_long(self, crew):
        """Anyio ends the threads of a task that ends: while the hop runs, another one has its own.

        Else the thread that runs it, which anyio takes for idle, would be all that there is.
        """
        asleep = crew[0].queue.crew.asleep
        runs, third, ended = sorted(crew, key=lambda thread: asleep.index(thread.queue))
        ended.queue.put_nowait("blocks")
        assert runs.got.get(timeout=PATIENCE) == "blocks"
        third.queue.put_nowait("blocks as well")
        assert third.got.get(timeout=PATIENCE) == "blocks as well"
        ended.queue.put_nowait(None)
        ended.thread.join(0.2)  # the time to end, where it would
        runs.queue.put_nowait("quick")
        assert ended.got.get(timeout=PATIENCE) == "quick"
        runs.go_on.release()
        ended.go_on.release(2)
        ended.thread.join(PATIENCE)
        assert not ended.thread.is_alive()

    async def test_a_thread_that_dies_in_its_sleep_hands_its_call_on(self, crew, monkeypatch):
        """An exception thrown into a thread that was called for a hop doesn't lose the hop."""
        sleep = worker_queue._sleep

        def dies(queue):
            sleep(queue)
            raise ZeroDivisionError

        # The next to fall asleep.
        dead = next(t for t in crew if t.queue is crew[0].queue.crew.asleep[0])
        crew[0].queue.put_nowait("a")
        assert dead.got.get(timeout=PATIENCE) == "a"
        monkeypatch.setattr(worker_queue, "_sleep", dies)
        dead.go_on.release()
        await until(dead.sleeps, "sleep")
        monkeypatch.undo()
        crew[0].queue.put_nowait("b")
        assert dead.got.get(timeout=PATIENCE) == "died"
        await until(lambda: any(not t.got.empty() for t in crew), "the hop")

    async def test_what_a_hop_is_at_can_be_seen(self, crew):
        """A hop is seen at the thread that it was put to until it is seen at the one it runs in."""
        queues = [thread.queue for thread in crew]
        for item in "abc":
            queues[0].put_nowait(item)
        for thread in crew:
            thread.got.get(timeout=PATIENCE)
        queues[1].put_nowait("d")
        assert queues[1].waiting == "d"
        assert sorted(each.running for each in queues) == ["a", "b", "c"]


class TestCalls:
    @pytest.mark.parametrize(("hops", "calls"), [(1, 1), (7, 1), (8, 2), (16, 3)])
    def test_a_long_line_calls_more_threads(self, hops, calls):
        """One thread is woken for a few hops, and some more where the line gets long."""
        crew = Crew()
        queues = [HopQueue(crew=crew) for _ in range(5)]
        crew.asleep.extend(queues)
        for n in range(hops):
            queues[0].put_nowait(n)
        assert sum(not queue.empty() for queue in queues) == calls


class LoopByHand:
    """An event loop whose turns are made by the test."""

    def __init__(self):
        self.ready = []
        self.woken = 0

    def call_soon(self, callback):
        self.ready.append(callback)

    def call_soon_threadsafe(self, callback):
        self.woken += 1
        self.ready.append(callback)

    def turn(self):
        ready, self.ready = self.ready, []
        for callback in ready:
            callback()


class TestResults:
    def add(self, results, report, *args):
        results.new.append((report, args))
        if not results.called:
            results.call()

    def test_results_share_a_wake_up(self):
        """Results that come while the loop is about to look don't wake it once more."""
        loop, seen = LoopByHand(), []
        results = Results(loop)
        for n in range(3):
            self.add(results, seen.append, n)
        loop.turn()
        loop.turn()
        assert seen == [0, 1, 2]
        assert loop.woken == 1
        assert not loop.ready

    def test_a_result_comes_after_what_its_hop_told_the_loop(self):
        """A hop calls the loop and returns while others' results wait: the call comes first."""
        loop, seen = LoopByHand(), []
        results = Results(loop)
        self.add(results, seen.append, "another's result")
        loop.call_soon_threadsafe(lambda: seen.append("call"))
        self.add(results, seen.append, "result")
        loop.turn()
        loop.turn()
        assert seen == ["another's result", "call", "result"]

    def test_a_call_too_many_does_nothing(self):
        """As after an interruption that has come right after the last result."""
        loop, seen = LoopByHand(), []
        results = Results(loop)
        self.add(results, seen.append, 1)
        loop.call_soon(results._deliver)
        for _ in range(4):
            loop.turn()
        assert seen == [1]
        assert not loop.ready

    def test_a_report_that_fails_holds_up_no_other(self):
        """Where a result can't be reported, the others are."""
        loop, seen = LoopByHand(), []
        results = Results(loop)
        self.add(results, seen.append, 1)
        self.add(results, lambda: 1 / 0)
        self.add(results, seen.append, 2)
        loop.turn()
        with pytest.raises(ZeroDivisionError):
            loop.turn()
        loop.turn()
        assert seen == [1, 2]

    def test_a_closed_loop_says_so_to_each(self):
        """A loop that is closed raises for each result, and keeps none."""
        loop = asyncio.new_event_loop()
        loop.close()
        results = Results(loop)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="closed"):
                self.add(results, print)
        assert not results.new

    def test_what_isnt_a_result_goes_to_the_loop(self):
        """Whoever calls the loop by the thread's attribute calls the loop."""
        calls = []
        loop = SimpleNamespace(call_soon_threadsafe=lambda *args, context: calls.append(args), x=1)
        worker = SimpleNamespace(loop=loop, _report_result=print)
        instead = LoopOfWorker(worker, HopQueue(worker))
        instead.call_soon_threadsafe(len, ())
        assert calls == [(len, ())]
        assert instead.x == 1


@pytest.mark.anyio
@on_both_loops
class TestHops:
    async def test_hops_that_wait_for_each_other(self, anyio_backend):
        """Hops that meet at a barrier all get a thread, round after round."""
        barrier = threading.Barrier(HOPS)
        for _ in range(50):
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as group:
                    for _ in range(HOPS):
                        group.start_soon(to_thread.run_sync, barrier.wait, PATIENCE)

    async def test_a_result_comes_after_what_its_hop_told_the_loop(self, anyio_backend):
        """What a hop tells the loop by call_soon_threadsafe has happened when its result comes."""
        loop, told = asyncio.get_running_loop(), set()

        def tell(n):
            loop.call_soon_threadsafe(told.add, n)

        async def hops(first):
            for n in range(first, first + 50):
                await to_thread.run_sync(tell, n)
                assert n in told

        async with anyio.create_task_group() as group:
            for n in range(HOPS):
                group.start_soon(hops, 1000 * n)

    async def test_each_thread_is_idle_once(self, anyio_backend):
        """Whichever thread ran which hop, anyio takes each for idle once when all have ended."""
        barrier = threading.Barrier(HOPS)
        for function in (lambda: barrier.wait(PATIENCE), int, int):
            async with anyio.create_task_group() as group:
                for _ in range(HOPS):
                    group.start_soon(to_thread.run_sync, function)
        thread = await to_thread.run_sync(threading.current_thread)
        await until(lambda: thread in thread.idle_workers, "the last result")
        assert len(thread.idle_workers) == len(thread.workers)
        assert set(thread.idle_workers) == thread.workers

    async def test_all_threads_of_a_loop_share_the_hops(self, anyio_backend):
        """The threads of a loop are one crew."""
        barrier = threading.Barrier(3)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(to_thread.run_sync, barrier.wait, PATIENCE)
        thread = await to_thread.run_sync(threading.current_thread)
        assert len({worker.queue.crew for worker in thread.workers}) == 1

    async def test_back_to_the_loop(self, anyio_backend):
        """from_thread reaches the loop, whichever thread runs the hop."""

        async def in_loop():
            return asyncio.get_running_loop()

        loops = [await to_thread.run_sync(from_thread.run, in_loop) for _ in range(3)]
        assert set(loops) == {asyncio.get_running_loop()}


@pytest.mark.parametrize("again", range(3))
def test_no_loop_is_kept(again):
    """When a loop has ended its threads do, and neither they nor their queues keep it."""

    async def main():
        thread = await to_thread.run_sync(threading.current_thread)
        return ref(asyncio.get_running_loop()), thread

    loop, thread = asyncio.run(main())
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert type(thread.loop) is not LoopOfWorker
    assert thread.queue.worker is None
    del thread
    gc.collect()
    assert loop() is None

    def test_two_threads_may_wake_the_loop_at_once(self):
        """Then it looks twice, and has nothing more to do."""
        loop, seen = LoopByHand(), []
        results = Results(loop)
        results.new.extend((seen.append, (n,)) for n in range(2))
        results.call()
        results.call()  # a thread that looked at `called` before that
        for _ in range(5):
            loop.turn()
        assert seen == [0, 1]
        assert not loop.ready
        self.add(results, seen.append, 2)
        loop.turn()
        loop.turn()
        assert seen == [0, 1, 2]
