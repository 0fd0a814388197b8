"""A thread that writes to the log, for those who must not wait for the app's log handlers.

Called by the log of connections: in any thread, on event loops, and by the garbage collector in the
middle of whatever it interrupts. It must keep nobody waiting, and lose nothing but by a process
that is killed, or whose handlers block when it ends.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event, RLock, Thread
from typing import Any

from .._requests.faults import never_raises

# Seconds for which the end of the interpreter waits for what is still to be written. A guess.
SECONDS_AT_EXIT = 1.0

Work = tuple[Callable[..., object], tuple[Any, ...]]


class Writer:
    """Calls functions, one after another, in a thread that begins with the first of them."""

    def __init__(self) -> None:
        self._start_over()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start_over)
        # Later than `logging`, so that it is called before handlers are closed.
        atexit.register(self.flush, SECONDS_AT_EXIT)

    def _start_over(self) -> None:
        """Begin anew in the child of a fork: what is to be written is the parent's."""
        self._lock = RLock()  # another thread of the parent's may have had it
        # It may be put to in the middle of itself.
        self._work: SimpleQueue[Work] = SimpleQueue()
        self._thread: Thread | None = None

    def write(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called after those before it: here, where there can't be a thread."""
        self._work.put((function, args))
        if not self.start():
            self._call_waiting()

    def write_by_collector(self, function: Callable[..., object], *args: Any) -> None:
        """Do the same where the garbage collector may be at work.

        It may be in the middle of whatever a new thread or a handler needs. So this waits for a
        thread that `start` has begun.
        """
        self._work.put((function, args))

    def start(self) -> bool:
        """Begin the thread if it isn't there; tell whether it is now."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return True
            try:
                thread = Thread(target=self._run, name="fastapi_overflow log", daemon=True)
                thread.start()
            except RuntimeError:
                return False  # no more threads, or the interpreter ends
            self._thread = thread
            return True

    def flush(self, seconds: float) -> bool:
        """Wait until what has come so far is written; tell whether it is."""
        thread, done = self._thread, Event()
        if thread is None or not thread.is_alive():
            self._call_waiting()
            return True
        self._work.put((done.set, ()))
        return done.wait(seconds)

    def _run(self) -> None:
        work = self._work
        while True:
            _call(*work.get())

    def _call_waiting(self) -> None:
        while True:
            try:
                function, args = self._work.get_nowait()
            except Empty:
                return
            _call(function, args)


@never_raises
def _call(function: Callable[..., object], args: tuple[Any, ...]) -> None:
    function(*args)
