"""The thread that writes the log of connections: in order, in each process, to the last.

Run by pytest. Each test has a writer of its own; those of forks and of exits run in children.
"""

from __future__ import annotations

import threading
from threading import Event, Thread

import pytest

from child_tools import run_child
from fastapi_overflow._watching.writer import Writer
from pool_tools import PATIENCE, in_thread

FORK = """
import json, os, threading
from child_tools import PATIENCE, in_fork
from fastapi_overflow._watching.writer import Writer

writer = Writer()
written = []
{before}

def child():
    done = threading.Event()
    writer.write(written.append, "child's")
    writer.write(done.set)
    return [done.wait(PATIENCE), written]

print(json.dumps(in_fork(child)), flush=True)
os._exit(0)
"""

BUSY = """
hold, begun = threading.Event(), threading.Event()
writer.write(begun.set)
writer.write(hold.wait)
writer.write(written.append, "parent's")
assert begun.wait(PATIENCE)
"""

STARTING = """
held = threading.Event()

def hold():
    writer._lock.acquire()
    held.set()
    threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
assert held.wait(PATIENCE)
"""

EXIT = """
import logging, time
from fastapi_overflow._log import warn
from fastapi_overflow._watching.writer import Writer

class Slow(logging.Handler):
    def emit(self, record):
        time.sleep(0.05)
        print(record.getMessage(), flush=True)

logging.getLogger("fastapi_overflow").addHandler(Slow())
writer = Writer()
for number in range(5):
    writer.write(warn, str(number))
"""

BLOCKED_AT_EXIT = """
import threading
from fastapi_overflow._watching import writer
writer.SECONDS_AT_EXIT = 0.1
begun = threading.Event()

def block():
    begun.set()
    threading.Event().wait()

writer = writer.Writer()
writer.write(block)
assert begun.wait(20)
print("true")
"""


@pytest.fixture
def writer():
    return Writer()


def no_threads(*_):
    raise RuntimeError("can't start new thread")


class TestWriter:
    def test_order(self, writer):
        """What is told first is written first, by one thread that isn't the teller's."""
        written, threads = [], set()

        def note(number):
            written.append(number)
            threads.add(threading.get_ident())

        for number in range(100):
            writer.write(note, number)
        assert writer.flush(PATIENCE)
        assert written == list(range(100))
        assert len(threads) == 1
        assert threads != {threading.get_ident()}

    def test_by_the_collector(self, writer, monkeypatch):
        """What the garbage collector finds out is written without a new thread."""
        written = []
        assert writer.start()
        monkeypatch.setattr(Thread, "start", no_threads)
        writer.write_by_collector(written.append, 1)
        assert writer.flush(PATIENCE)
        assert written == [1]

    def test_fault(self, writer):
        """One that can't be written costs no other."""
        written = []
        writer.write(int, "no number")
        writer.write(written.append, 1)
        assert writer.flush(PATIENCE)
        assert written == [1]

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_handler_that_ends_the_thread(self, writer):
        """A handler that ends its thread is no reason for silence ever after."""

        def end():
            raise SystemExit

        writer.start()
        thread = writer._thread
        writer.write(end)
        thread.join(PATIENCE)
        written = []
        writer.write(written.append, 1)
        assert writer.flush(PATIENCE)
        assert written == [1]

    def test_no_threads(self, writer, monkeypatch):
        """Where no thread can be started, all that is to be written is, at once."""
        written = []
        writer.write_by_collector(written.append, 1)
        monkeypatch.setattr(Thread, "start", no_threads)
        writer.write(written.append, 2)
        assert written == [1, 2]

    def test_threads_again(self, writer, monkeypatch):
        """It is in a thread again as soon as there may be one."""
        threads = []
        with monkeypatch.context() as patch:
            patch.setattr(Thread, "start", no_threads)
            writer.write(lambda: threads.append(threading.get_ident()))
        writer.write(lambda: threads.append(threading.get_ident()))
        assert writer.flush(PATIENCE)
        assert len(set(threads)) == 2

    def test_handler_that_blocks(self, writer):
        """Who waits for all to be written waits in vain for a handler, but not for ever."""
        unblock = Event()
        writer.write(unblock.wait, PATIENCE)
        try:
            assert in_thread(lambda: writer.flush(0.01)) is False
        finally:
            unblock.set()


class TestFork:
    def test_child(self):
        """The child of a fork writes its own, although the thread is the parent's."""
        before = "writer.write(int); assert writer.flush(PATIENCE)"
        assert run_child(FORK.format(before=before)) == [True, ["child's"]]

    def test_what_the_parent_has_not_written(self):
        """What the parent hasn't written yet isn't the child's to write."""
        assert run_child(FORK.format(before=BUSY)) == [True, ["child's"]]

    def test_lock(self):
        """It writes although another thread of the parent's was about to begin the thread."""
        assert run_child(FORK.format(before=STARTING)) == [True, ["child's"]]


class TestExit:
    def test_last_records(self):
        """What was told just before the end is written, be the handlers slow."""
        assert run_child(EXIT) == 4

    def test_handler_that_blocks(self):
        """One that blocks doesn't keep the process from ending."""
        assert run_child(BLOCKED_AT_EXIT, timeout=30) is True
