"""What the metrics are called and how they are read, for OpenTelemetry and Prometheus alike.

Called by the exporters. Values are read from `stats()` when somebody collects; the two times are
taken in each hop, and only while an exporter listens to the pools' observers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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
    Metric(
        "quiet.used",
        "quiet_used",
        "{thread}",
        True,
        "Threads given to routes that had none while all others were taken",
        _field("quiet_used"),
    ),
    Metric(
        "refused",
        "refused",
        "{request}",
        True,
        "Requests turned away after they had waited too long for their first thread",
        _field("refused"),
    ),
)

WAIT_TIME = "Time for which a hop waited for its thread"
USE_TIME = "Time for which a hop used its thread"
