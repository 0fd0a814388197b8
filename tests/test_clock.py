"""What the limiter needs of an event loop: turns, timers, wake-ups, the current task.

Run by pytest on each loop.
"""

import gc
import time
import weakref
from contextvars import ContextVar

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fastapi_overflow._threads.clock import current_clock
from support import PATIENCE

pytestmark = pytest.mark.anyio

variable = ContextVar("variable", default=None)


class Canary:
    """Something that a request has in hand."""


async def called(calls, number=1):
    with anyio.fail_after(PATIENCE):
        while len(calls) < number:
            await checkpoint()


class TestCurrentClock:
    async def test_task(self):
        """It knows the current task."""
        clock = current_clock()
        tasks = {clock.current_task()}

        async def other():
            tasks.add(clock.current_task())

        async with anyio.create_task_group() as group:
            group.start_soon(other)
        assert len(tasks) == 2
        assert clock.current_task() in tasks

    def test_no_loop(self):
        """Where no loop runs there is no clock."""
        with pytest.raises(RuntimeError):
            current_clock()


class TestTurns:
    async def test_once(self):
        """A callback is called once, not at once, and soon."""
        calls = []
        current_clock().call_soon(lambda: calls.append(1))
        assert calls == []
        await called(calls)
        await checkpoint()
        assert calls == [1]

    async def test_one_per_turn(self):
        """A callback that asks to be called again isn't, over and over, in the same turn."""
        clock, calls, turns = current_clock(), [], []

        def again():
            calls.append(len(turns))
            if len(calls) < 5:
                clock.call_soon(again)

        clock.call_soon(again)
        with anyio.fail_after(PATIENCE):
            while len(calls) < 5:
                turns.append(1)
                await checkpoint()
        # trio runs what is ready in random order, so two of its turns may pass for one here.
        assert max(map(calls.count, calls)) <= 2


class TestTimers:
    async def test_later(self):
        """A timer fires once its time has come, not before."""
        clock, calls = current_clock(), []
        start = time.monotonic()
        clock.call_later(0.02, lambda: calls.append(time.monotonic() - start))
        clock.call_later(3600, lambda: calls.append("in an hour"))
        await called(calls)
        assert len(calls) == 1
        assert calls[0] >= 0.019


class TestContexts:
    @pytest.mark.parametrize("way", ["call_soon", "call_later"])
    async def test_empty(self, way):
        """A callback runs in an empty context, and keeps nothing of the caller's alive."""
        clock, seen, alive = current_clock(), [], []

        async def request():
            canary = Canary()
            alive.append(weakref.ref(canary))
            variable.set(canary)
            if way == "call_soon":
                clock.call_soon(lambda: seen.append(variable.get()))
            else:
                clock.call_later(3600, lambda: None)

        async with anyio.create_task_group() as group:
            group.start_soon(request)
        if way == "call_soon":
            await called(seen)
            assert seen == [None]
        for _ in range(3):
            gc.collect()
        assert alive[0]() is None


class TestWakeUp:
    async def test_wakes(self):
        """Who awaits a wake-up goes on once it is set."""
        wake_up, woken = current_clock().wake_up(), []

        async def waits():
            await wake_up
            woken.append(True)

        async with anyio.create_task_group() as group:
            group.start_soon(waits)
            for _ in range(5):
                await checkpoint()
            assert not woken
            wake_up.set_result(None)
        assert woken

    async def test_cancelled(self):
        """Cancelled, it raises; to look whether it is done and set it is harmless then."""
        wake_up = current_clock().wake_up()

        async def waits():
            await wake_up
            pytest.fail("woken")

        async with anyio.create_task_group() as group:
            group.start_soon(waits)
            for _ in range(5):
                await checkpoint()
            group.cancel_scope.cancel()
        if not wake_up.done():
            wake_up.set_result(None)
