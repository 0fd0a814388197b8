"""How the results of hops come back to the event loop.

Called by anyio's worker threads for each hop, in the place of their loop's `call_soon_threadsafe`,
and by the loop. Results that come while the loop is about to look at others don't wake it once
more. It must never lose one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any


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
        try:
            self._report_all()
        except BaseException:
            # The rest, up to the mark. If that is gone, it is a call too many, which does nothing.
            self._loop.call_soon(self._deliver)
            raise

    def _report_all(self) -> None:
        new = self.new
        while new and (entry := new.popleft()) is not None:
            report, args = entry
            report(*args)
        self.called = False
        # Marks alone are of two threads that called at once: those calls are to come anyway. A
        # copy, as another thread may add to it; without the GIL `not new` might be old news, too.
        if not any(new.copy()):
            return
        self.called = True
        new.append(None)
        self._loop.call_soon(self._deliver)


class LoopOfWorker:
    """What stands at `loop` of a worker thread: the event loop, but for results.

    :param worker: the thread
    :param queue: its `HopQueue`, which knows how to report the result of the hop that it runs
    :ivar loop: the event loop
    """

    __slots__ = ("_queue", "_report", "_results", "loop")

    def __init__(self, worker: Any, queue: Any) -> None:
        self.loop = worker.loop
        self._queue = queue
        self._report = worker._report_result
        self._results = queue.crew.results_of(self.loop)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        report = self._queue.report
        if report is None or callback != self._report:
            return self.loop.call_soon_threadsafe(callback, *args, context=context)
        self._queue.over()
        results = self._results
        results.new.append((report, args))
        if not results.called:
            results.call()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)
