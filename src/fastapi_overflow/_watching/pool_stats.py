"""What each connection pool is doing now, and what it has done since it began.

Called by metrics and by the status page, in any thread. It must wait for nothing.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from .connections_out import connections_of, pools


@dataclass(frozen=True)
class PoolStats:
    """What a QueuePool of SQLAlchemy's is doing, and what it has done.

    :ivar pool: the engine's URL, without password and query
    :ivar capacity: connections that may be out: `pool_size` and `max_overflow`; math.inf for no
        bound
    :ivar out: connections that are
    :ivar idle: of these, kept by requests that do nothing with them, or have ended
    :ivar waiting: requests and threads that wait for one
    :ivar longest_wait: seconds for which the one of them has waited that has waited longest
    :ivar checkouts: connections handed out
    :ivar timeouts: checkouts that have failed for want of a connection; of sync engines
    :ivar seconds_waited: by those who wait no longer
    :ivar seconds_held: for which requests had a connection
    :ivar seconds_idle: of these, those in which nothing of the request was at work; of sync engines
    """

    pool: str
    capacity: float
    out: int
    idle: int
    waiting: int
    longest_wait: float
    checkouts: int
    timeouts: int
    seconds_waited: float
    seconds_held: float
    seconds_idle: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, where no bound is None."""
        values = asdict(self)
        if math.isinf(self.capacity):
            values["capacity"] = None
        return values


def pool_stats() -> list[PoolStats]:
    """Return those of all pools that have handed out a connection, or make somebody wait."""
    found = []
    for pool in pools():
        since = pool.waiting_since()
        if not (pool.checkouts or since):
            continue
        out = connections_of([pool])
        found.append(
            PoolStats(
                pool=pool.pool.name(),
                capacity=pool.capacity,
                out=len(out),
                idle=sum(each.doing in ("idle", "ended") for each in out),
                waiting=len(since),
                longest_wait=time.monotonic() - min(since) if since else 0.0,
                checkouts=pool.checkouts,
                timeouts=pool.timeouts,
                seconds_waited=pool.seconds_waited,
                seconds_held=pool.seconds_held,
                seconds_idle=pool.seconds_idle,
            )
        )
    return found
