"""What the metrics are called and how they are read, for OpenTelemetry and Prometheus alike.

Called by the exporters. Values are read from `stats()` when somebody collects; the two times are
taken in each hop, and only once a listener is there: until then hops run in a class that knows
nothing of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from .._requests import replacements as _hops
from .._requests.limiter import OverflowLimiter
from .._threads.lease import Lease
from .._threads.queue import Waiter, copied
from .stats import Stats

# Seconds. A hop that finds a thread takes well below a millisecond, a starving one half a minute.
BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Value = tuple[dict[str, str], float]


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    :ivar name: for OpenTelemetry, after "fastapi_overflow."
    :ivar prometheus: after "fastapi_overflow_"; of counters without the "_total"
    :ivar unit: of OpenTelemetry
    :ivar total: whether it only ever grows
    :ivar read: returns the values, each with its attributes
    """

    name: str
    prometheus: str
    unit: str
    total: bool
    description: str
    read: Callable[[Stats], list[Value]]


def _threads(s: Stats) -> list[Value]:
    used: Value = ({"state": "used"}, s.threads_in_use)
    if math.isinf(s.limit):
        return [used]
    return [used, ({"state": "idle"}, max(s.limit - s.threads_in_use, 0))]


def _field(name: str) -> Callable[[Stats], list[Value]]:
    return lambda s: [({}, getattr(s, name))]


# The names follow OpenTelemetry's semantic conventions for pools (db.client.connection.*).
METRICS = (
    Metric(
        "thread.count",
        "threads",
        "{thread}",
        False,
        "Threads that hops use, and those still free",
        _threads,
    ),
    Metric(
        "thread.limit",
        "thread_limit",
        "{thread}",
        False,
        "Threads that hops may use at once",
        lambda s: [] if math.isinf(s.limit) else [({}, s.limit)],
    ),
    Metric(
        "thread.pending_requests",
        "pending_requests",
        "{request}",
        False,
        "Hops that wait for a thread: the first ones of requests, and later ones",
        lambda s: [({"hop": "first"}, s.waiting_first), ({"hop": "later"}, s.waiting_later)],
    ),
    Metric(
        "thread.held_back",
        "threads_held_back",
        "{thread}",
        False,
        "Threads that new requests are kept from while others wait for connections",
        _field("threads_held_back"),
    ),
    Metric("hops", "hops", "{hop}", True, "Trips into a thread, begun", _field("hops")),
    Metric(
        "reserve.used",
        "reserve_used",
        "{thread}",
        True,
        "Threads of the reserve given out",
        _field("reserve_used"),
    ),
    Metric(
        "stalls",
        "stalls",
        "{stall}",
        True,
        "Times that somebody waited and nothing finished for a while",
        _field("stalls"),
    ),
    Metric(
        "thread.grown",
        "threads_grown",
        "{thread}",
        True,
        "Threads beyond the limit given out in stalls",
        _field("threads_grown"),
    ),
    Metric(
        "deadlocks_averted",
        "deadlocks_averted",
        "{deadlock}",
        True,
        "Stalls of nothing but blocked threads that a thread beyond the limit ended",
        _field("deadlocks_averted"),
    ),
)

WAIT_TIME = "Time for which a hop waited for its thread"
USE_TIME = "Time for which a hop used its thread"


class Listener(Protocol):
    """Who is told of each hop, in its event loop's thread; seconds."""

    def waited(self, seconds: float) -> None: ...
    def used(self, seconds: float) -> None: ...


class MeasuredLimiter(OverflowLimiter):
    """The limiter while somebody listens."""

    _started: dict[object, float]  # whose hops run, and since when

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._started = {}
        super().__init__(*args, **kwargs)

    def _take(self, borrower: object, lease: Lease | None, depth: int) -> bool:
        if not super()._take(borrower, lease, depth):
            return False
        self._started[borrower] = time.monotonic()
        for listener in _listeners:
            listener.waited(0.0)
        return True

    def _admit(self, waiter: Waiter, extra: bool = False) -> None:
        super()._admit(waiter, extra)
        if waiter.granted:
            now = self._started[waiter.borrower] = time.monotonic()
            for listener in _listeners:
                listener.waited(now - waiter.since)

    def finish(self, borrower: object) -> None:
        super().finish(borrower)
        started = self._started.pop(borrower, None)
        if started is not None:  # or else it began before anybody listened
            seconds = time.monotonic() - started
            for listener in _listeners:
                listener.used(seconds)

    def abandon(self, borrower: object) -> None:
        self._started.pop(borrower, None)
        super().abandon(borrower)


_listeners: tuple[Listener, ...] = ()


def listen(listener: Listener) -> None:
    """Tell `listener` of each hop from now on, in the loops that are and those to come."""
    global _listeners
    _listeners = (*_listeners, listener)
    _hops.limiter_class = MeasuredLimiter
    for limiter in _limiters():
        if not isinstance(limiter, MeasuredLimiter):
            vars(limiter)["_started"] = {}
            limiter.__class__ = MeasuredLimiter


def ignore(listener: Listener) -> None:
    """Tell `listener` no longer; after the last one hops run as if there had been none."""
    global _listeners
    _listeners = tuple(each for each in _listeners if each is not listener)
    if not _listeners:
        _hops.limiter_class = OverflowLimiter
        for limiter in _limiters():
            limiter.__class__ = OverflowLimiter


def _limiters() -> Iterator[OverflowLimiter]:
    return iter(copied(_hops.all_limiters))
