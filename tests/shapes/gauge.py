"""Counts threads: installed by load.py before any hop is made.

It must never change what a hop does.
"""

from __future__ import annotations

import threading
from collections import Counter
from importlib import import_module
from typing import Any

# The thread that writes the package's log, once there is something to say: on a slow machine that
# is how long somebody has waited for a connection.
LOG = "fastapi_overflow log"


class Gauge:
    """The most threads at once, exactly: seen at every moment at which their number can grow.

    Worker threads are kept when idle, so `threads` may be above what ever ran at the same time,
    never below. FastAPI runs the exit code of a dependency with a limiter of its own for each, of
    one token: those hops are in no limit, and counted apart, from before they ask for a thread
    until after they have given it back. Everything else runs under the default limiter.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.baseline = 0  # threads that are no workers
        self.running = Counter[str]()
        self.peak = Counter[str]()

    def count(self, what: str, change: int) -> None:
        with self.lock:
            self.running[what] += change
            self.peak[what] = max(self.peak[what], self.running[what])

    def reset(self, baseline: int) -> None:
        """Begin anew, with so many threads that are no workers."""
        for thread in threading.enumerate():
            if thread.name == "AnyIO worker thread":
                thread.join(10)  # of the event loop before, which has told it to end
        self.peak.clear()
        self.baseline = baseline

    def install(self) -> None:
        start = threading.Thread.start

        def counted_start(thread: threading.Thread) -> None:
            start(thread)
            with self.lock:
                names = [each.name for each in threading.enumerate()]
                alive = len(names) - names.count(LOG) - self.baseline
                self.peak["threads"] = max(self.peak["threads"], alive)

        threading.Thread.start = counted_start  # type: ignore[method-assign]
        for module, backend in (("_asyncio", "AsyncIOBackend"), ("_trio", "TrioBackend")):
            try:
                found = import_module(f"anyio._backends.{module}")
            except ImportError:
                continue  # trio isn't there
            self.instrument(getattr(found, backend, found))  # anyio 3 has functions, no class

    def instrument(self, backend: Any) -> None:
        """Wrap the function that every hop, of whatever limiter, goes through."""
        original = backend.run_sync_in_worker_thread

        async def run_sync_in_worker_thread(func: Any, *args: Any, **kwargs: Any) -> Any:
            limiter = kwargs.get("limiter")
            if limiter is not None and limiter.total_tokens == 1:
                self.count("exits", +1)
                try:
                    return await original(func, *args, **kwargs)
                finally:
                    self.count("exits", -1)

            def counted(*args: Any) -> Any:
                self.count("hops", +1)
                try:
                    return func(*args)
                finally:
                    self.count("hops", -1)

            return await original(counted, *args, **kwargs)

        backend.run_sync_in_worker_thread = run_sync_in_worker_thread
