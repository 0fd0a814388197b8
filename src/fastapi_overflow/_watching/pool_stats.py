"""What each connection pool is doing now, and what it has done since it began.

Called by metrics and by the status page, in any thread. It must wait for nothing that a request may
hold, and look at pools only: never at all objects.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

from .._connections.holder import Account
from .connections_out import connections_of, pools

MOST_POOLS = 50  # that are told apart, by name: an app may make engines without end
OTHERS = "(others)"


@dataclass(frozen=True)
class PoolStats:
    """What a QueuePool of SQLAlchemy's is doing, and what it has done.

    What only ever grows includes waits and connections that have not ended: a freeze shows while it
    lasts.

    :ivar pool: the engine's URL, without password and query
    :ivar is_async: whether it is of an async engine
    :ivar capacity: connections that may be out: `pool_size` and `max_overflow`; math.inf for no
        bound
    :ivar size: connections that it keeps open while nobody needs them, at most: `pool_size`;
        math.inf for no bound
    :ivar ready: connections that are open, and not out
    :ivar out: connections that are out
    :ivar idle: of these, kept by requests that do nothing with them, or have ended
    :ivar waiting: requests and threads that wait for one
    :ivar longest_wait: seconds for which the one of them has waited that has waited longest
    :ivar checkouts: connections handed out
    :ivar timeouts: checkouts that have failed for want of a connection
    :ivar seconds_waited: by requests and checkouts, of whatever outcome
    :ivar seconds_held: for which requests, tasks and threads had a connection; of a sync engine two
        at once count once
    :ivar seconds_idle: of these, those in which nothing of the request was at work, as far as is
        known; of sync engines
    """

    pool: str
    is_async: bool
    capacity: float
    size: float
    ready: int
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
        return {name: None if value == math.inf else value for name, value in asdict(self).items()}


# Of these, pools of one name have done what each has.
GROWING = ("checkouts", "timeouts", "seconds_waited", "seconds_held", "seconds_idle")
SUMS = ("capacity", "size", "ready", "out", "idle", "waiting", *GROWING)


def pool_stats() -> list[PoolStats]:
    """Return those of all pools that have handed out a connection, or make somebody wait."""
    return [
        replace(stats, idle=sum(map(_is_idle, connections_of([pool])))) for pool, stats in _look()
    ]


def idle_by_name() -> Mapping[str, int]:
    """Return how many connections are out of pools of each name and not used."""
    idle = Counter(each.pool for each in connections_of(pools()) if _is_idle(each))
    found: Counter[str] = Counter()
    with _lock:
        for name, number in idle.items():
            found[name if name in _done else OTHERS] += number
    return found


def _is_idle(connection: Any) -> bool:
    return connection.doing in ("idle", "ended")


def _look() -> Iterator[tuple[Any, PoolStats]]:
    for pool in pools():
        try:
            if (pool.checkouts or pool.waiting_since()) and not pool.pool.is_gone():
                yield pool, _of(pool)
        except Exception:  # noqa: S112 - of a class of the app's, it may raise whatever it is asked
            continue


def _of(pool: Any) -> PoolStats:
    """Return what a pool does, but for what is idle: that takes a look at all threads."""
    # What is done first: what ends meanwhile is then left out for once, and not counted twice.
    waited, held, idled = pool.seconds_waited, pool.seconds_held, pool.seconds_idle
    checkouts, timeouts = pool.checkouts, pool.timeouts
    since = pool.waiting_since()
    taken = list(pool.out.values())  # in one step: other threads take and return connections
    now = time.monotonic()
    accounts = {id(each[0]): each[0] for each in taken}.values()
    return PoolStats(
        pool=pool.pool.name(),
        is_async=pool.pool.is_async(),
        capacity=pool.capacity,
        size=pool.pool.size(),
        ready=pool.pool.ready(),
        out=len(taken),
        idle=0,
        waiting=len(since),
        longest_wait=max(now - min(since), 0.0) if since else 0.0,
        checkouts=checkouts,
        timeouts=timeouts,
        seconds_waited=waited + sum(max(now - each, 0.0) for each in since),
        seconds_held=held + sum(max(now - each.filled, 0.0) for each in accounts),
        seconds_idle=idled + sum(_idle_seconds(each, now) for each in accounts),
    )


def _idle_seconds(account: Any, now: float) -> float:
    """Return for how long an account has kept unused what it has still."""
    if not isinstance(account, Account):
        return 0.0  # of an async engine
    since = account.holder.idle_since
    unused = account.unused - account.idled
    return max(unused, 0.0) + (max(now - max(since, account.filled), 0.0) if since else 0.0)


# ---- by name, for metrics

# By name: what its pools have done, those included that are gone. A counter must not fall.
_done: dict[str, dict[str, float]] = {}
_seen: WeakKeyDictionary[Any, dict[str, float]] = WeakKeyDictionary()  # of each pool, at the last
_lock = RLock()


def _start_over() -> None:
    """Begin anew in the child of a fork: nothing of it has happened here."""
    global _lock
    _lock = RLock()  # another thread of the parent's may have had it
    _done.clear()
    _seen.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)


def stats_by_name() -> dict[str, PoolStats]:
    """Return what the pools of each name do together, `idle` left out; at most 50 and "(others)".

    What only ever grows never falls, be pools dropped. What a pool does that is gone before the
    first look isn't known.
    """
    with _lock:
        now: dict[str, list[PoolStats]] = {name: [] for name in _done}
        for pool, stats in _look():
            name = stats.pool
            if name not in _done and len(_done) >= MOST_POOLS:
                name = OTHERS
            done = _done.setdefault(name, dict.fromkeys(GROWING, 0))
            seen = _seen.setdefault(pool, dict.fromkeys(GROWING, 0))
            for each in GROWING:
                value = getattr(stats, each)
                if value > seen[each]:
                    done[each] += value - seen[each]
                    seen[each] = value
            now.setdefault(name, []).append(stats)
        return {name: _together(name, stats, _done[name]) for name, stats in now.items()}


def _together(name: str, stats: list[PoolStats], done: Mapping[str, float]) -> PoolStats:
    sums: dict[str, Any] = {each: sum(getattr(s, each) for s in stats) for each in SUMS}
    return PoolStats(
        pool=name,
        is_async=bool(stats) and all(each.is_async for each in stats),
        longest_wait=max((each.longest_wait for each in stats), default=0.0),
        **{**sums, **done},
    )
