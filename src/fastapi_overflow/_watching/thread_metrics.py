"""The metrics of threads: a table.

Read by the exporters when somebody collects.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .metric import Metric, Reading, Value


def _threads(reading: Reading) -> list[Value]:
    s = reading.threads
    used: Value = (("used",), s.threads_in_use)
    if math.isinf(s.limit):
        return [used]
    return [used, (("idle",), max(s.limit - s.threads_in_use, 0))]


def _limit(reading: Reading) -> list[Value]:
    limit = reading.threads.limit
    return [] if math.isinf(limit) else [((), limit)]


def _pending(reading: Reading) -> list[Value]:
    s = reading.threads
    return [(("first",), s.waiting_first), (("later",), s.waiting_later)]


def _field(name: str) -> Callable[[Reading], list[Value]]:
    return lambda reading: [((), getattr(reading.threads, name))]


# The names follow OpenTelemetry's semantic conventions for pools of connections.
THREADS = (
    Metric(
        "fastapi_overflow.thread.count",
        "threads",
        "{thread}",
        False,
        "Threads that hops use, and those still free",
        _threads,
        ("state",),
    ),
    Metric(
        "fastapi_overflow.thread.limit",
        "thread_limit",
        "{thread}",
        False,
        "Threads that hops may use at once",
        _limit,
    ),
    Metric(
        "fastapi_overflow.thread.pending_requests",
        "pending_requests",
        "{request}",
        False,
        "Hops that wait for a thread: the first ones of requests, and later ones",
        _pending,
        ("hop",),
    ),
    Metric(
        "fastapi_overflow.hops", "hops", "{hop}", True, "Trips into a thread, begun", _field("hops")
    ),
    Metric(
        "fastapi_overflow.reserve.used",
        "reserve_used",
        "{thread}",
        True,
        "Threads of the reserve given out",
        _field("reserve_used"),
    ),
    Metric(
        "fastapi_overflow.stalls",
        "stalls",
        "{stall}",
        True,
        "Times that somebody waited and nothing finished for a while",
        _field("stalls"),
    ),
    Metric(
        "fastapi_overflow.thread.grown",
        "threads_grown",
        "{thread}",
        True,
        "Threads beyond the limit given out in stalls",
        _field("threads_grown"),
    ),
    Metric(
        "fastapi_overflow.deadlocks_averted",
        "deadlocks_averted",
        "{deadlock}",
        True,
        "Stalls of nothing but blocked threads that a thread beyond the limit ended",
        _field("deadlocks_averted"),
    ),
    Metric(
        "fastapi_overflow.quiet.used",
        "quiet_used",
        "{thread}",
        True,
        "Threads given to routes that had none while all others were taken",
        _field("quiet_used"),
    ),
    Metric(
        "fastapi_overflow.refused",
        "refused",
        "{request}",
        True,
        "Requests turned away after they had waited too long for their first thread",
        _field("refused"),
    ),
)
