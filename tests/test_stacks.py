"""What threads are seen to be doing."""

from __future__ import annotations

import gc
import sqlite3
import sys
import threading
import time
import weakref

import anyio
import pytest
from anyio import from_thread
from sqlalchemy.pool import QueuePool

import fastapi_overflow
from fastapi_overflow import run_in_threadpool
from fastapi_overflow._connections.sqlalchemy import LEDGER
from fastapi_overflow._requests.limiters import current_limiter
from fastapi_overflow._watching import stacks as _stacks
from fastapi_overflow._watching.advice import is_pinned, is_pinned_now
from observed import needs_stacks, until
from support import PATIENCE

fastapi_overflow.patch()  # for installations without the hook

pytestmark = pytest.mark.anyio


def sleep_until(looked):
    while not looked.is_set():
        time.sleep(0.01)


def wait_in_loop(looked):
    from_thread.run(until, looked.is_set, "a look at the thread")


@needs_stacks
class TestStacks:
    async def test_idle_threads_do_nothing(self):
        """A worker that waits for work runs no hop."""
        await run_in_threadpool(int)
        # Having told the loop of the result it goes back to waiting.
        await until(lambda: not _stacks.hop_frames(current_limiter().pool.loop), "an idle worker")

    async def test_only_of_this_loop(self, anyio_backend_name):
        """Threads of another loop are none of this one's business."""
        if anyio_backend_name == "trio":
            pytest.skip("trio's worker threads are the process's")
        before = len(_stacks.hop_frames())  # what other tests have left
        go_on = threading.Event()
        other = threading.Thread(
            target=lambda: anyio.run(lambda: anyio.to_thread.run_sync(go_on.wait, 20))
        )
        other.start()
        try:
            await until(lambda: len(_stacks.hop_frames()) > before, "the other loop's hop")
            assert _stacks.hop_frames(current_limiter().pool.loop) == []
        finally:
            go_on.set()
            await anyio.to_thread.run_sync(other.join)

    async def test_no_frame_is_kept(self):
        """What a thread's functions refer to goes when they end, looked at or not."""

        class Local:
            pass

        go_on = threading.Event()
        locals_alive = weakref.WeakSet()

        def wait():
            local = Local()  # goes with the frame
            locals_alive.add(local)
            go_on.wait(20)

        gc.collect()
        gc.disable()  # which would mend it, now and then
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(run_in_threadpool, wait)
                await until(lambda: len(locals_alive), "the thread waiting")
                _stacks.grouped(_stacks.hop_frames())
                go_on.set()
            assert not locals_alive
        finally:
            gc.enable()

    @pytest.mark.parametrize(
        ("wait", "waits"),
        [
            pytest.param(lambda looked: looked.wait(PATIENCE), True, id="event"),
            pytest.param(sleep_until, False, id="sleep"),
            pytest.param(wait_in_loop, False, id="loop"),
        ],
    )
    async def test_waits_for_thread(self, wait, waits):
        """Waiting for another thread is told from sleeping, working and waiting for the loop."""
        looked, seen = threading.Event(), set()
        async with anyio.create_task_group() as group:
            group.start_soon(run_in_threadpool, wait, looked)

            def look():
                frames = _stacks.hop_frames(current_limiter().pool.loop)
                seen.update(map(_stacks.waits_for_thread, frames))
                return waits in seen

            await until(look, "the thread seen waiting")
            looked.set()
        if waits is False:
            assert seen == {False}

    @pytest.mark.parametrize(
        ("asks", "where"),
        [
            pytest.param(False, "sqlalchemy/pool/impl.py _do_get", id="pool"),
            pytest.param(True, "fastapi_overflow/_connections/checkout.py wait", id="ours"),
        ],
    )
    async def test_connection_pool(self, asks, where):
        """A thread that waits for a connection is told as that, in the pool and in our queue."""
        pool = QueuePool(lambda: sqlite3.connect(":memory:"), pool_size=1, max_overflow=0)
        if not asks:
            pool.__dict__[LEDGER] = None  # as with FASTAPI_OVERFLOW_CONNECTIONS=0
        held = pool.connect()
        groups = []

        def look():
            frames = _stacks.hop_frames(current_limiter().pool.loop)
            groups[:] = _stacks.grouped(frames)
            if not (groups and groups[0].where == where):
                return False
            return all(map(_stacks.waits_for_thread, frames))

        async with anyio.create_task_group() as group:
            group.start_soon(run_in_threadpool, lambda: pool.connect().invalidate())
            try:
                await until(look, "a thread in the pool")
            finally:
                held.invalidate()
        assert "test_stacks.py" in groups[0].called_from
        assert is_pinned(groups, waiting_later=0)


class Untouchable:
    """Whatever is asked of it fails."""

    def fail(self, *args):
        raise AssertionError("code of the app was called")

    __getattribute__ = __hash__ = __eq__ = __str__ = __repr__ = __bool__ = fail
    __class__ = property(fail)


@needs_stacks
class TestNothingOfTheAppIsCalled:
    @pytest.mark.parametrize("kind", [Untouchable, int, lambda: None])
    async def test_module_name(self, kind):
        """A function's module may have anything for a name: it isn't looked at any closer."""
        go_on = threading.Event()
        names = {"__name__": kind(), "wait": go_on.wait}
        exec("def hop():\n    wait(20)\n", names)
        async with anyio.create_task_group() as group:
            group.start_soon(run_in_threadpool, names["hop"])
            loop = current_limiter().pool.loop
            try:
                await until(
                    lambda: any(map(_stacks.waits_for_thread, _stacks.hop_frames(loop))),
                    "the thread waiting",
                )
                (found,) = _stacks.grouped(_stacks.hop_frames(loop))
                assert found.threads == 1
            finally:
                go_on.set()

    async def test_threads(self):
        """A thread of the app's may be of any class: no attribute of it is read."""

        class Watchdog(threading.Thread):
            @property
            def loop(self):
                raise LookupError("not in a request")

        go_on = threading.Event()
        watchdog = Watchdog(target=go_on.wait, args=(20,))
        watchdog.start()
        try:
            assert _stacks.hop_frames(object()) == []
        finally:
            go_on.set()
            watchdog.join()


class TestWithoutTheGil:
    @pytest.fixture
    def gil(self, monkeypatch):
        """Have the interpreter say that the GIL is off, and fail where stacks are looked at."""

        def fail():
            raise AssertionError("stacks were looked at")

        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
        monkeypatch.setattr(sys, "_current_frames", fail)
        return monkeypatch

    async def test_stacks_are_not_looked_at(self, gil):
        """Where the GIL is off nothing is known of what threads do."""
        loop = current_limiter().pool.loop
        assert not _stacks.can_be_read()
        assert _stacks.hop_frames() == _stacks.hop_frames(loop) == []
        assert not is_pinned_now()

    async def test_gil_turned_on(self, gil):
        """It is asked each time: an extension module may turn the GIL on."""
        gil.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
        assert _stacks.can_be_read()

    async def test_no_stacks_at_all(self, monkeypatch):
        """An interpreter without `sys._current_frames` is as good as one without the GIL."""
        monkeypatch.delattr(sys, "_current_frames")
        assert not _stacks.can_be_read()
        assert _stacks.hop_frames() == []

    async def test_ordinary_python(self):
        """With the GIL stacks are read."""
        assert _stacks.can_be_read() is getattr(sys, "_is_gil_enabled", lambda: True)()
