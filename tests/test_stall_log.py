"""The log: what an operator is told without asking."""

from __future__ import annotations

import logging
import math
import queue
import threading

import anyio
import pytest

from fastapi_overflow import run_in_threadpool, set_thread_limit, stats
from fastapi_overflow._requests.limiters import current_limiter
from fastapi_overflow._watching import episodes as _episode
from fastapi_overflow._watching import stacks as _stacks
from fastapi_overflow._watching import stall_log as _stall_log
from observed import (
    busy,
    calm,
    deadlock,
    finish_something,
    lose_token,
    needs_stacks,
    request,
    until,
)
from support import PATIENCE, run_python

pytestmark = pytest.mark.anyio


@pytest.fixture
def told(caplog):
    """The records of the package's logger, by their event."""
    caplog.set_level(logging.INFO, logger="fastapi_overflow")

    def records(event: str) -> list[logging.LogRecord]:
        return [record for record in caplog.records if getattr(record, "event", None) == event]

    return records


@pytest.fixture
def at_once(monkeypatch):
    """Each stall is worth telling, however short."""
    monkeypatch.setattr(_episode, "TELL_AFTER", 0.0)


class TestWhatIsTold:
    @needs_stacks
    async def test_deadlock_at_once(self, told, monkeypatch):
        """Blocked threads, and requests under way that wait: told with the first thread added."""
        monkeypatch.setattr(_episode, "TELL_AFTER", math.inf)
        monkeypatch.setattr(_episode, "TELL_GROWN", math.inf)
        set_thread_limit(3)
        await deadlock()
        (record,) = told("stall_begin")
        assert record.waiting_later > 0

    async def test_brief_is_not(self, told, monkeypatch):
        """A short stall in which only new requests wait is counted, and not told."""
        monkeypatch.setattr(_episode, "TELL_AFTER", 2 * PATIENCE)  # however slow the machine
        set_thread_limit(3)
        async with busy(4):
            await until(lambda: stats().stalled, "a stall")
        await until(lambda: not stats().stalled, "its end")
        assert stats().stalls == 1
        assert told("stall_begin") == told("stall_end") == []

    async def test_lasting(self, told):
        """Once nothing has finished for a second, it is told whatever it is."""
        set_thread_limit(3)
        async with busy(4):
            await until(lambda: told("stall_begin"), "the warning")
        (record,) = told("stall_begin")
        assert record.seconds >= _episode.TELL_AFTER

    @pytest.mark.parametrize(("tell_grown", "times"), [(0, 1), (math.inf, 0)])
    async def test_many_threads(self, told, monkeypatch, tell_grown, times):
        """So is one in which more than a few threads were added, though the threads are at work."""
        monkeypatch.setattr(_episode, "TELL_AFTER", math.inf)
        monkeypatch.setattr(_episode, "TELL_GROWN", tell_grown)
        set_thread_limit(3)
        go_on = anyio.Event()
        at_work = threading.Lock()  # a bare lock: from outside, as good as work
        begun = 0

        def work():
            assert at_work.acquire(timeout=2 * PATIENCE)
            at_work.release()

        async def under_way():
            nonlocal begun
            await run_in_threadpool(int)
            begun += 1
            await go_on.wait()
            await run_in_threadpool(work)

        with at_work:
            async with anyio.create_task_group() as group:
                for _ in range(7):
                    group.start_soon(request, under_way)
                await until(lambda: begun == 7, "requests under way")
                await lose_token()
                go_on.set()
                await until(lambda: stats().threads_grown == 3, "all threads that may be added")
                looks = current_limiter().pool.observer._episodes
                grown_at_last_look = stats().threads_grown
                await until(lambda: looks._grown == grown_at_last_look, "one more look")
                at_work.release()
            at_work.acquire()
        assert len(told("stall_begin")) == times

    async def test_pauses(self, told, at_once):
        """A stall that moves for a moment and goes on is one, with one end."""
        set_thread_limit(3)
        async with busy(4):
            for _ in range(2):
                await until(lambda: stats().stalled, "a stall")
                finish_something()
                await until(lambda: not stats().stalled, "a pause")
            assert not stats().stalled
            assert told("stall_end") == []
        await until(lambda: told("stall_end"), "its end")
        assert stats().stalls == len(told("stall_begin")) == len(told("stall_end")) == 1

    async def test_calm(self, told, at_once, monkeypatch):
        """Once hops have finished for a second, it is over although somebody waits."""
        set_thread_limit(3)
        async with busy(4):
            await until(lambda: stats().stalled, "a stall")

            def moves():
                finish_something()
                return told("stall_end")

            await until(moves, "its end")
            await until(lambda: stats().stalls == 2, "another stall")


class TestStacksRead:
    async def test_not_at_each_look(self, monkeypatch):
        """However often a stalled pool is looked at, the stacks are read at long intervals."""
        calm(3)
        episodes = _episode.Episodes(current_limiter().pool)
        read = []
        monkeypatch.setattr(_stacks, "hop_frames", lambda loop: read.append(loop) or [])
        async with busy(3):
            for _ in range(5):
                episodes.stalled_look(0.001)
                episodes.grown()
            episodes.moved()
            episodes.over()
        assert len(read) == 1


class TestStallBegins:
    async def test_warning(self, told, at_once):
        """One warning when a stall begins, with how many threads and waiters there are."""
        set_thread_limit(3)
        async with busy(4):
            await until(lambda: stats().stalled, "a stall")
        (record,) = told("stall_begin")
        assert record.levelname == "WARNING"
        assert (record.threads, record.limit) == (2, 3)
        assert (record.waiting_first, record.waiting_later) == (2, 0)
        assert "2 threads are taken, 2 hops wait for one" in record.getMessage()

    @needs_stacks
    async def test_what_threads_do(self, told, at_once):
        """It says what the threads are blocked in: the code outside of the standard library."""
        set_thread_limit(3)
        async with busy(4):
            await until(lambda: stats().stalled, "a stall")
        (record,) = told("stall_begin")
        (group,) = record.stacks
        assert group["threads"] == 2
        assert group["where"].endswith("__call__")
        assert "observed.py" in group["where"]
        assert f"2 in {group['where']}" in record.getMessage()

    async def test_stacks_not_read(self, told, at_once, monkeypatch):
        """Where stacks can't be read, it says so in their place."""
        monkeypatch.setattr(_stacks, "can_be_read", lambda: False)
        set_thread_limit(3)
        async with busy(4):
            await until(lambda: stats().stalled, "a stall")
        (record,) = told("stall_begin")
        assert record.stacks == []
        assert f"The threads: {_stacks.NOT_READ}." in record.getMessage()

    @needs_stacks
    async def test_groups(self, told, at_once):
        """Threads are grouped by what they are blocked in, the most first."""
        set_thread_limit(5)
        handed_on: queue.Queue[None] = queue.Queue()

        def other():
            handed_on.get(timeout=2 * PATIENCE)

        async with busy(3) as (_, group):
            for _ in range(3):
                group.start_soon(run_in_threadpool, other)
            await until(lambda: stats().stalled, "a stall")
            for _ in range(3):
                handed_on.put(None)
        (record,) = told("stall_begin")
        assert [found["threads"] for found in record.stacks] == [3, 1]
        assert "other" in record.stacks[1]["where"]

    async def test_threads_are_added_before(self, told, at_once):
        """The pool has grown by when the warning is written: a handler may block."""
        set_thread_limit(3)
        grown: list[int] = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if getattr(record, "event", None) == "stall_begin":
                    grown.append(stats().threads_grown)

        handler = Handler()
        logging.getLogger("fastapi_overflow").addHandler(handler)
        try:
            await deadlock()
        finally:
            logging.getLogger("fastapi_overflow").removeHandler(handler)
        assert grown == [1]

    async def test_never_raises(self, told):
        """A handler that raises doesn't keep the pool from going on."""

        class Handler(logging.Handler):
            def handle(self, record: logging.LogRecord) -> bool:
                raise RuntimeError("the handler's fault")

        set_thread_limit(3)
        handler = Handler()
        logging.getLogger("fastapi_overflow").addHandler(handler)
        try:
            await deadlock()
        finally:
            logging.getLogger("fastapi_overflow").removeHandler(handler)
        assert stats().stalls > 0


class TestStallEnds:
    async def test_info(self, told, at_once):
        """One line when it is over: how long it took, how many threads were added."""
        set_thread_limit(3)
        await deadlock()
        await until(lambda: told("stall_end"), "the end of the stall")
        (record,) = told("stall_end")
        assert record.levelname == "INFO"
        assert record.seconds >= 0
        assert record.threads_grown >= 1
        assert f"with {record.threads_grown} threads beyond the limit" in record.getMessage()

    async def test_no_deadlock_no_threads(self, told, at_once):
        """A stall that ended by itself says so: no threads beyond the limit."""
        set_thread_limit(3)
        async with busy(4):
            await until(lambda: stats().stalled, "a stall")
        await until(lambda: told("stall_end"), "its end")
        (record,) = told("stall_end")
        assert record.threads_grown == 0


class TestRate:
    async def stall(self):
        async with busy(4):
            await until(lambda: stats().stalled, "a stall")
        await until(lambda: not stats().stalled, "its end")

    async def test_one_pair_a_minute(self, told, at_once):
        """However often the pool stalls in a minute, it is told once."""
        set_thread_limit(3)
        for _ in range(3):
            await self.stall()
        assert stats().stalls == 3
        assert (len(told("stall_begin")), len(told("stall_end"))) == (1, 1)

    async def test_suppressed_are_counted(self, told, at_once, monkeypatch):
        """The next that is told says how many were not."""
        set_thread_limit(3)
        for _ in range(3):
            await self.stall()
        monkeypatch.setattr(_episode, "TELL_AFTER", math.inf)
        await self.stall()  # a brief one wouldn't have been told anyway
        monkeypatch.setattr(_episode, "TELL_AFTER", 0.0)
        monkeypatch.setattr(_stall_log, "SECONDS_BETWEEN", 0.0)
        await self.stall()
        first, second = told("stall_begin")
        assert (first.suppressed, second.suppressed) == (0, 2)
        assert "2 stalls before this one were not logged" in second.getMessage()


class TestPatched:
    def test_one_line(self, wheel_python):
        """One line says that the app is protected, with the limits in force."""
        code = (
            "import logging, sys; logging.basicConfig(level='INFO', stream=sys.stdout)\n"
            "import fastapi, starlette.applications, fastapi_overflow; fastapi_overflow.patch()"
        )
        env = {"FASTAPI_OVERFLOW_LIMIT": "12"}
        done = run_python(wheel_python, code, timeout=60, env=env, check=True)
        (line,) = done.stdout.splitlines()
        assert line.startswith("INFO:fastapi_overflow:fastapi-overflow ")
        assert line.endswith("protects this app: 12 threads per event loop, 1 of them in reserve")

    def test_silent_by_default(self, wheel_python):
        """Nothing is printed where logging isn't set up."""
        done = run_python(wheel_python, "import fastapi", timeout=60, check=True)
        assert (done.stdout, done.stderr) == ("", "")
