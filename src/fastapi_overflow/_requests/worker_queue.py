"""How hops reach the worker threads of one event loop, and how their results come back.

Used by anyio's own threads, in the place of the queue that each of them waits in, and of the event
loop that each tells its results. It must never be where a hop waits although a thread is free.

A thread that is woken needs the interpreter's lock, which the event loop has: with a queue for each
thread, so many hops in a turn of the loop were so many threads that woke up to wait for it. Here
they wait in one line. One thread wakes, and wakes the next one before it runs what it has taken. If
that didn't block, it takes the next hop itself; so does whoever else comes back from one. And
results that come while the loop is about to look at others don't wake it once more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

try:  # whatever gevent or eventlet have put in its place in `queue`
    from _queue import SimpleQueue
except ImportError:  # an interpreter without the one in C
    from queue import SimpleQueue


_sleep: Callable[[SimpleQueue[Any]], None] = SimpleQueue.get


class Crew:
    """The worker threads of one event loop that share a line of hops.

    :ivar line: (queue that the hop was put to, how to report its result, hop), first come first
        served
    :ivar asleep: the queues of the threads that wait, the last one that has run a hop first: what
        it needs is still in the processor's cache
    """

    # Invariants:
    #   1. A thread takes itself for asleep before it looks at the line for the last time. Whoever
    #      lengthens the line looks for a thread that is asleep only then.
    #   2. Who takes a queue out of `asleep` puts exactly one call into it, or owns it and goes on.
    #   3. `called` is empty, or its thread has yet to look at the line.
    #   4. A thread that leaves somebody in the line has called another one, if any is asleep.
    # Therefore no hop waits beside a thread that is free: anyio lends as many threads as there are
    # hops under way, so one of them is asleep, or about to look.
    # Assumes: appending to a deque and taking from it are atomic, with and without the GIL.

    __slots__ = ("_results", "asleep", "called", "line")

    def __init__(self) -> None:
        self._results: Results | None = None
        self.line: deque[tuple[HopQueue, Callable[..., None] | None, Any]] = deque()
        self.asleep: deque[HopQueue] = deque()
        self.called: SimpleQueue[Any] = SimpleQueue()

    def call_one(self) -> None:
        """Wake a thread that is asleep. To be called if `called` is empty."""
        try:
            called = self.asleep.popleft()
        except IndexError:
            return  # all are awake, and look at the line before they sleep
        called.put(None)
        self.called = called

    def results_of(self, loop: Any) -> Results:
        """Return where the crew's threads put their results, all for one and the same loop."""
        results = self._results
        if results is None:  # two threads may both make one: both work
            results = self._results = Results(loop)
        return results


class HopQueue(SimpleQueue[Any]):
    """What stands at `queue` of one of anyio's worker threads.

    anyio puts a hop to the queue of a thread that it takes for idle. Any thread of the crew may
    run it, and anyio is told that the one which it was put to is idle again: so it counts right.

    :param worker: whose queue it is
    :param crew: None: a new one, with no other thread
    :ivar waiting: the hop that was put to it and that no thread has taken yet
    :ivar running: the hop that its own thread runs
    :ivar report: how to report the result of that hop
    """

    # Without slots: a method may be replaced on the object, as on anyio's.

    def __init__(self, worker: Any = None, crew: Crew | None = None) -> None:
        self.crew = crew or Crew()
        self.worker = worker
        self.waiting: Any = None
        self.running: Any = None
        self.report: Callable[..., None] | None = None
        self._ends = self._has_begun = False

    def put_nowait(self, item: Any) -> None:
        """Have a thread run a hop, or for None have this one's thread end. By the event loop."""
        crew = self.crew
        if item is None:
            self._end()
            return
        self.waiting = item
        worker = self.worker
        crew.line.append((self, None if worker is None else worker._report_result, item))
        if crew.called.empty():
            crew.call_one()

    def _end(self) -> None:
        self._ends = True
        try:
            self.crew.asleep.remove(self)
        except ValueError:
            return  # it is awake or about to be, and looks at `_ends` before it sleeps
        self.put(None)

    def get(self) -> Any:  # type: ignore[override]
        """Return the next hop for this queue's own thread, None for its end."""
        if not self._has_begun:
            self._begin()
        crew = self.crew
        line = crew.line
        while True:
            if line:
                try:
                    put_to, report, item = line.popleft()
                    break
                except IndexError:
                    pass  # another thread was faster
            if self._ends:
                self._forget_worker()
                return None
            asleep = crew.asleep
            asleep.appendleft(self)
            if line or self._ends:
                try:
                    asleep.remove(self)
                    continue
                except ValueError:
                    pass  # it is being called
            _sleep(self)
        self.report = report
        self.running = item
        put_to.waiting = None  # after `running`, so that who looks for the hop finds it
        if line and crew.called.empty():
            crew.call_one()
        return item

    def _begin(self) -> None:
        self._has_begun = True
        worker = self.worker
        if worker is not None:
            # Only now: before it calls this, anyio's thread tells from_thread.run its loop.
            worker.loop = LoopOfWorker(worker, self)

    def _forget_worker(self) -> None:
        """Leave no circles behind: the thread ends, and nothing may keep its loop."""
        crew = self.crew
        if crew.called is self:
            crew.called = SimpleQueue()
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.loop = worker.loop.loop

    def task_done(self) -> None:
        self.running = self.report = None

    def join(self) -> None:
        """Wait until all that was put is done. Nobody in anyio but its tests does, so it polls."""
        while self.waiting is not None or self.crew.line or self.running is not None:
            time.sleep(0.001)


class Results:
    """The results that threads have for their event loop, which one call makes it look at."""

    # Invariants:
    #   1. For each call of `_deliver` that is to come there is a mark (None) in `new`, put there
    #      before the call was asked for. A call delivers what is before the first mark.
    #   2. Something is in `new`: `called` is set, or is about to be by who has put it there.
    # Therefore a result comes after whatever its hop has told the loop by call_soon_threadsafe, as
    # without us: that was in the loop's queue before the result was before the mark.

    __slots__ = ("_loop", "called", "new")

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self.new: deque[tuple[Callable[..., None], Any] | None] = deque()
        self.called = False

    def call(self) -> None:
        """Have the loop look at the results. To be called if `called` is not set.

        :raises RuntimeError: if the loop is closed
        """
        self.called = True
        self.new.append(None)
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            self.new.clear()
            self.called = False
            raise

    def _deliver(self) -> None:
        new = self.new
        try:
            while (entry := new.popleft()) is not None:
                report, args = entry
                report(*args)
        except BaseException:
            self._loop.call_soon(self._deliver)  # the rest, up to the mark
            raise
        self.called = False
        if not new.copy():  # without the GIL `not new` might be old news
            return
        self.called = True
        new.append(None)
        self._loop.call_soon(self._deliver)


class LoopOfWorker:
    """What stands at `loop` of a worker thread: the event loop, but for results.

    :ivar loop: the event loop
    """

    __slots__ = ("_queue", "_report", "_results", "loop")

    def __init__(self, worker: Any, queue: HopQueue) -> None:
        self.loop = worker.loop
        self._queue = queue
        self._report = worker._report_result
        self._results = queue.crew.results_of(self.loop)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        report = self._queue.report
        if report is None or callback != self._report:
            return self.loop.call_soon_threadsafe(callback, *args, context=context)
        results = self._results
        results.new.append((report, args))
        if not results.called:
            results.call()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)
