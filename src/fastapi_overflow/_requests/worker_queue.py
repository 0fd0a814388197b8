"""How hops reach the worker threads of one event loop.

Used by anyio's own threads, in the place of the queue that each of them waits in. It must never be
where a hop waits although a thread is free.

A thread that is woken needs the interpreter's lock, which the event loop has: with a queue for each
thread, so many hops in a turn of the loop were so many threads that woke up to wait for it. Here
they wait in one line. One thread wakes, and wakes the next one before it runs what it has taken. If
that didn't block, it takes the next hop itself; so does whoever else comes back from one. A long
line wakes a few.
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

from .worker_results import LoopOfWorker, Results

_sleep: Callable[[SimpleQueue[Any]], None] = SimpleQueue.get


# So many hops in the line call one more thread each. The one that has been called may have to wait
# for a processor, on a machine with too few; then the whole line would. A guess: with 8, a busy
# machine answered 1.1 times as many plain requests as without the crew, with one call only 0.8.
HOPS_FOR_ANOTHER = 8


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
    # anyio may end a thread while the hop that was put to it runs, in another thread maybe. It ends
    # once that hop is over: until then it takes the place of the one that runs it.
    # Assumes: appending to a deque and taking from it are atomic, with and without the GIL.

    __slots__ = ("_results", "asleep", "called", "line")

    def __init__(self) -> None:
        self._results: Results | None = None
        self.line: deque[tuple[HopQueue, Callable[..., None] | None, Any]] = deque()
        self.asleep: deque[HopQueue] = deque()
        self.called: SimpleQueue[Any] = SimpleQueue()

    def call_one(self) -> None:
        """Wake a thread that is asleep. To be called if `called` is empty, or for a long line."""
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
        self._under_way: Any = None
        self._put_to: HopQueue | None = None
        self._ends = self._has_begun = False

    def put_nowait(self, item: Any) -> None:
        """Have a thread run a hop, or for None have this one's thread end. By the event loop."""
        crew = self.crew
        if item is None:
            self._end()
            return
        self.waiting = self._under_way = item
        worker = self.worker
        crew.line.append((self, None if worker is None else worker._report_result, item))
        if crew.called.empty() or not len(crew.line) % HOPS_FOR_ANOTHER:
            crew.call_one()

    def _end(self) -> None:
        self._ends = True
        self._wake()

    def _wake(self) -> None:
        try:
            self.crew.asleep.remove(self)
        except ValueError:
            # It is awake or about to be, and looks at `_ends` before it sleeps; unless a signal's
            # handler has raised where it was being called. Where it ends, a call more is harmless.
            if self._under_way is not None:
                return
        self.put(None)

    def get(self) -> Any:  # type: ignore[override]
        """Return the next hop for this queue's own thread, None for its end."""
        if not self._has_begun:
            self._begin()
        crew = self.crew
        line = crew.line
        try:
            while True:
                if line:
                    try:
                        put_to, self.report, self.running = line.popleft()
                        self._put_to = put_to
                        break
                    except IndexError:
                        pass  # another thread was faster
                if self._ends and self._under_way is None:
                    self._forget_worker()
                    return None
                asleep = crew.asleep
                asleep.appendleft(self)
                # A copy: without the GIL `line` might be old news.
                if line.copy() or (self._ends and self._under_way is None):
                    try:
                        asleep.remove(self)
                        continue
                    except ValueError:
                        pass  # it is being called
                _sleep(self)
        except (
            BaseException
        ):  # thrown into the thread, which ends by it: its call is the next one's
            self._die()
            raise
        put_to.waiting = None  # after `running`, so that who looks for the hop finds it
        if line and crew.called.empty():
            crew.call_one()
        return self.running

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

    def _die(self) -> None:
        crew = self.crew
        try:
            crew.asleep.remove(self)
        except ValueError:
            pass
        self._forget_worker()
        if crew.line and crew.called.empty():
            crew.call_one()

    def over(self) -> None:
        """Let the thread end that the hop was put to, if it is to. Before anyio may put another."""
        put_to, self._put_to = self._put_to, None
        if put_to is not None:
            put_to._under_way = None
            if put_to._ends:
                put_to._wake()

    def task_done(self) -> None:
        self.over()  # for a result that didn't go by `LoopOfWorker`
        self.running = self.report = None

    def join(self) -> None:
        """Wait until all that was put is done. Nobody in anyio but its tests does, so it polls."""
        while self.waiting is not None or self.crew.line or self.running is not None:
            time.sleep(0.001)
