"""How hops reach anyio's worker threads: the queue in C, and where anyio's own must stay."""

from __future__ import annotations

import queue
import sys
import threading
from types import SimpleNamespace

import pytest
import wrapt
from anyio import to_thread

import fastapi_overflow
from fastapi_overflow._requests import handover as _handover
from observed import until
from support import PATIENCE, run_python

fastapi_overflow.patch()  # for installations without the hook

LOOK = """
import asyncio, threading, fastapi_overflow
fastapi_overflow.patch()
import starlette.concurrency
async def main():
    thread = await starlette.concurrency.run_in_threadpool(threading.current_thread)
    print(type(thread.queue).__name__)
asyncio.run(main())
"""


METHODS = ("__init__", "_report_result", "run", "stop")


class Loop:
    """An event loop that calls at once."""

    def call_soon_threadsafe(self, callback, *args):
        callback(*args)


class AsAnyio:
    """A worker thread as anyio writes it, in what concerns its queue and its event loop."""

    def __init__(self):
        self.queue = queue.Queue(2)
        self.loop = Loop()

    def _report_result(self):
        pass

    def run(self):
        while (item := self.queue.get()) is not None:
            item()
            self.loop.call_soon_threadsafe(self._report_result)
            self.queue.task_done()

    def stop(self):
        self.queue.put_nowait(None)


def join(self):
    """Use more of the queue than anyio does."""
    self.queue.put_nowait(None)
    self.queue.join()


def use_simple_queue(self):
    self.queue = queue.SimpleQueue()


@pytest.fixture
def worker_thread():
    """A class like `AsAnyio`, of this test alone."""
    methods = {name: vars(AsAnyio)[name] for name in METHODS}
    return type("WorkerThread", (), methods)


def install(monkeypatch, worker_thread):
    backend = SimpleNamespace(WorkerThread=worker_thread)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "anyio._backends._asyncio", backend)
        _handover.install()


class TestWhere:
    def test_as_expected(self, monkeypatch, worker_thread):
        """Where anyio is as expected its threads wait in the queue in C, run hops and stop."""
        install(monkeypatch, worker_thread)
        worker = worker_thread()
        assert type(worker.queue) is _handover.HopQueue
        done = threading.Event()
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        worker.queue.put_nowait(done.set)
        worker.stop()
        thread.join(PATIENCE)
        assert done.is_set(), "the worker didn't run what it was given"
        assert not thread.is_alive(), "the worker didn't stop"

    def test_join_waits_until_all_is_done(self):
        """join() waits until all that was put is done."""
        hops, go, joined = _handover.HopQueue(), threading.Event(), threading.Event()
        worker = AsAnyio()
        worker.queue = hops
        hops.put_nowait(lambda: go.wait(PATIENCE))
        for run in (worker.run, lambda: (hops.join(), joined.set())):
            threading.Thread(target=run, daemon=True).start()
        assert not joined.wait(0.1), "it didn't wait for the hop that runs"
        go.set()
        assert joined.wait(PATIENCE), "it waits for ever"
        worker.stop()

    def test_wrapped_once(self, monkeypatch, worker_thread):
        """Installing twice wraps once."""
        install(monkeypatch, worker_thread)
        once = vars(worker_thread)["__init__"]
        install(monkeypatch, worker_thread)
        assert vars(worker_thread)["__init__"] is once

    def test_anyio_that_does_more_with_its_queue_is_left_alone(self, monkeypatch, worker_thread):
        """An anyio that uses more of its queue than the queue in C has keeps its own."""
        worker_thread.stop = join
        install(monkeypatch, worker_thread)
        assert not isinstance(vars(worker_thread)["__init__"], wrapt.ObjectProxy)

    @pytest.mark.parametrize("method", METHODS)
    def test_another_class_is_left_alone(self, monkeypatch, worker_thread, method):
        """So does one whose worker threads are of another make."""
        delattr(worker_thread, method)
        before = dict(vars(worker_thread))
        install(monkeypatch, worker_thread)
        assert dict(vars(worker_thread)) == before

    def test_a_subclass_with_a_run_of_its_own_is_left_alone(self, monkeypatch, worker_thread):
        """And somebody's subclass, which may use more of its queue; another subclass isn't."""
        install(monkeypatch, worker_thread)
        with_run = type("Mine", (worker_thread,), {"run": lambda self: self.queue.get(timeout=1)})
        assert type(with_run().queue) is queue.Queue
        assert type(type("Theirs", (worker_thread,), {})().queue) is _handover.HopQueue

    def test_another_queue_is_left_alone(self, monkeypatch, worker_thread):
        """And one that has another kind of queue."""
        worker_thread.__init__ = use_simple_queue
        install(monkeypatch, worker_thread)
        assert type(worker_thread().queue) is queue.SimpleQueue

    def test_green_threads_keep_a_queue_that_they_can_wait_in(self, monkeypatch, worker_thread):
        """Under gevent or eventlet theirs stays: in the one in C all green threads would wait."""
        monkeypatch.setattr(queue, "SimpleQueue", queue._PySimpleQueue)
        install(monkeypatch, worker_thread)
        assert type(worker_thread().queue) is queue.Queue

    def test_no_asyncio(self, monkeypatch):
        """Without anyio's asyncio backend nothing is done, and it isn't imported."""
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "anyio._backends._asyncio", raising=False)
            _handover.install()
            assert "anyio._backends._asyncio" not in sys.modules


class TestHops:
    @pytest.mark.anyio
    @pytest.mark.parametrize(
        "anyio_backend",
        [("asyncio", {"use_uvloop": uvloop}) for uvloop in (False, True)],
        ids=["asyncio", "uvloop"],
    )
    async def test_by_the_queue_in_c(self, anyio_backend):
        """Hops go through the queue in C, one after another to the same idle thread."""
        thread = await to_thread.run_sync(threading.current_thread)
        assert type(thread.queue) is _handover.HopQueue
        # The same thread, which waits there between its hops, and its errors reach the caller.
        await until(lambda: thread in thread.idle_workers, "the idle worker")
        with pytest.raises(ZeroDivisionError):
            await to_thread.run_sync(lambda: 1 / 0)
        assert await to_thread.run_sync(threading.current_thread) is thread

    @pytest.mark.parametrize(("disable", "expected"), [("", "HopQueue"), ("1", "Queue")])
    def test_disabled(self, disable, expected):
        """Patched, hops go through the queue in C; switched off, through anyio's own."""
        env = {"FASTAPI_OVERFLOW_DISABLE": disable}
        # That the child ends: its worker thread, which isn't a daemon, was told to.
        done = run_python(sys.executable, LOOK, env=env, timeout=PATIENCE, check=True)
        assert done.stdout.strip() == expected

    def test_hops_run_where_green_threads_have_their_own_queue(self):
        """Where SimpleQueue has been replaced, hops run by anyio's own queue."""
        code = f"import queue; queue.SimpleQueue = type('Theirs', (), {{}}){LOOK}"
        done = run_python(sys.executable, code, timeout=PATIENCE, check=True)
        assert done.stdout.strip() == "Queue"
