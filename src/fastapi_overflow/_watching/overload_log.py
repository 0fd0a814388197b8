"""Tell the operator that requests are turned away since they have waited for too long.

Called for each of them, in the event loop's thread. It must never say more than a line a minute.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .._log import warn

if TYPE_CHECKING:
    from .._threads.pool import TokenPool

SECONDS_BETWEEN = 60.0


class OverloadLog:
    """The requests of one pool that are turned away, for the log."""

    def __init__(self) -> None:
        self._last: float | None = None  # time.monotonic() of the last line
        self._told = 0  # requests that were turned away until then

    def refused(self, pool: TokenPool, seconds: float) -> None:
        now = time.monotonic()
        if self._last is not None and now - self._last < SECONDS_BETWEEN:
            return
        self._last = now
        refused = pool.counters.refused
        since, self._told = refused - self._told, refused
        warn(
            "Overload: a request has waited %.3g s for its first thread and is answered 503"
            " (FASTAPI_OVERFLOW_MAX_WAIT). %d threads are taken, %d hops wait for one, %d requests"
            " were turned away since this was last told.",
            seconds,
            pool.snapshot().taken,
            pool.waiting,
            since,
            extra={
                "event": "overload",
                "threads": pool.snapshot().taken,
                "limit": pool.limit,
                "waiting": pool.waiting,
                "seconds": round(seconds, 3),
                "refused": since,
            },
        )
