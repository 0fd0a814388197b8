"""What somebody asks for: `stats()` and `is_saturated()`.

Called by apps, probes and exporters, from an event loop, its worker threads and other threads. It
must take no thread, wait for nothing that a hop may hold, and leave the pool as it is.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

from anyio import from_thread

from .. import _settings
from .._requests.lease_of_request import current_lease
from .._requests.limiters import all_loops as all_loops_of_process
from .._requests.limiters import current_limiter, live_pools
from .._threads.counters import Counters
from .._threads.pool import TokenPool
from .route_stats import RouteStats, route_stats


@dataclass(frozen=True)
class Stats:
    """What the thread pool of an event loop is doing now, and what it has done since it began.

    Taken without stopping the pool: read from another thread, numbers that belong together may be
    apart by the few hops that moved meanwhile.

    :ivar limit: threads that hops may use at once; math.inf for no limit
    :ivar reserve: threads of the limit that only requests under way may use
    :ivar threads_in_use: tokens taken: those with which a hop runs, and those that linger
    :ivar threads_lingering: of these, kept between two hops of one request
    :ivar threads_reserved: of these, taken from the reserve
    :ivar threads_beyond_limit: of these, given out in a stall or to a route that had none (or
        before the limit was lowered)
    :ivar threads_quiet: of these, given to a route that had none while all others were taken: two
        at most, which may be beyond the limit
    :ivar requests_held_back: requests that wait before they begin, for a connection of SQLAlchemy's
        or for the first request of their route
    :ivar waiting_first: first hops that wait for a thread: requests that hold nothing yet
    :ivar waiting_later: later hops that wait for a thread: requests under way
    :ivar longest_wait: seconds for which the one of them has waited that has waited longest
    :ivar stalled: somebody waits, and nothing has finished for FASTAPI_OVERFLOW_STALL_SECONDS
    :ivar peak_threads: most threads in use at once
    :ivar peak_waiting: most hops waiting at once
    :ivar hops: trips into a thread, begun; one that was cancelled in the very turn in which it got
        its thread counts too
    :ivar waits: hops that found no free thread
    :ivar seconds_waited: by all hops together, of waits that have ended
    :ivar reserve_used: threads of the reserve given out
    :ivar stalls: times that the pool has stalled; it is the same stall until hops have finished for
        20 times FASTAPI_OVERFLOW_STALL_SECONDS without a break, or nobody waits
    :ivar threads_grown: threads beyond the limit given out in stalls
    :ivar deadlocks_averted: stalls in which *every* thread that ran a hop was waiting for another
        thread (a connection of a pool, a condition, a semaphore), and which moved on when a hop to
        which a thread beyond the limit was lent had finished: within a second of it, and not
        before, the first of the blocked came free. anyio's limiter would have kept that hop waiting
        for them. Once for a stall, however many requests were in it. Too low rather than too high:
        what lease and reserve prevent never stalls and isn't counted, nor is a stall in which some
        thread was at work or waited for a bare lock or a row lock of the database
    :ivar quiet_used: threads given to routes that had none while all others were taken
    :ivar refused: requests turned away after they had waited for FASTAPI_OVERFLOW_MAX_WAIT
    :ivar routes: what the requests of each route are doing and have waited for, by method and path:
        "GET /orders/{id}"; what has been, in the whole process
    :ivar loops: event loops that are summed up here; of several, the peaks are the sums of peaks
        that need not have been at the same time, and the longest wait is the longest of all
    """

    limit: float = 0
    reserve: int = 0
    threads_in_use: int = 0
    threads_lingering: int = 0
    threads_reserved: int = 0
    threads_beyond_limit: int = 0
    threads_quiet: int = 0
    requests_held_back: int = 0
    waiting_first: int = 0
    waiting_later: int = 0
    longest_wait: float = 0.0
    stalled: bool = False
    peak_threads: int = 0
    peak_waiting: int = 0
    hops: int = 0
    waits: int = 0
    seconds_waited: float = 0.0
    reserve_used: int = 0
    stalls: int = 0
    threads_grown: int = 0
    deadlocks_averted: int = 0
    quiet_used: int = 0
    refused: int = 0
    loops: int = 0
    routes: Mapping[str, RouteStats] = field(default_factory=dict, hash=False)

    @property
    def waiting(self) -> int:
        """First and later hops that wait for a thread."""
        return self.waiting_first + self.waiting_later

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, where no limit is None."""
        values = asdict(self)
        if math.isinf(self.limit):
            values["limit"] = None
        return values


def stats(*, all_loops: bool = False) -> Stats:
    """Return what the thread pool is doing: whether threads are short, and what was prevented.

    Takes no thread and waits for nothing: call it in async and in sync endpoints alike. With
    FASTAPI_OVERFLOW_DISABLE set all is 0.

    :param all_loops: the sum over all event loops of this process, what only ever grows with that
        of loops which have ended; may be called in any thread
    :raises RuntimeError: in a thread that belongs to no event loop, without `all_loops`
    """
    if _settings.is_disabled():
        return Stats()
    pools = all_loops_of_process().look()[0] if all_loops else [_pool_here()]
    return replace(totals(all_loops=all_loops), routes=route_stats(pools))


def totals(*, all_loops: bool = False) -> Stats:
    """Return the same without the routes, which take longer: for metrics."""
    if _settings.is_disabled():
        return Stats()
    if all_loops:
        return _sum(*all_loops_of_process().look())
    return _of(_pool_here())


def is_saturated(for_seconds: float = 10) -> bool:
    """Tell whether this process has been out of threads for so long that it wants no new requests.

    True while every thread that new requests may use is taken and something has been waiting for
    one without a break. For readiness probes: the load balancer then sends requests elsewhere until
    the queue has been empty once. Never for liveness probes: they would kill a process that works.

    :param for_seconds: how long somebody must have been waiting, in seconds
    :raises RuntimeError: in a thread that belongs to no event loop
    """
    if _settings.is_disabled():
        return False
    pool = _pool_here()
    since = pool.counters.waiting_since
    # While anybody waits all threads that new requests may use are taken: the pool's invariant 4.
    return pool.waiting > 0 and time.monotonic() - since >= for_seconds


def _pool_here() -> TokenPool:
    """Return the pool of the event loop that runs here or that this is a worker thread of."""
    try:
        return current_limiter().pool
    except Exception:  # noqa: S110 - which one depends on the version of anyio: no loop runs here
        pass
    lease = current_lease.get()
    if lease is not None:
        return cast("TokenPool", lease.pool)
    # A callback of the loop, a hop outside any request.
    loops = (asyncio._get_running_loop(), getattr(threading.current_thread(), "loop", None))
    for pool in live_pools():
        if pool.loop is not None and pool.loop in loops:
            return pool
    try:
        # The same on trio. The loop answers between two turns, with no thread.
        return from_thread.run_sync(current_limiter).pool
    except RuntimeError:
        raise RuntimeError(
            "no event loop runs in this thread, and it is no worker thread of one: "
            "use stats(all_loops=True)"
        ) from None


def _of(pool: TokenPool) -> Stats:
    now, counters = pool.snapshot(), pool.counters
    finite = not math.isinf(now.limit)
    return Stats(
        limit=now.limit,
        reserve=int(now.limit - now.regular) if finite else 0,
        threads_in_use=now.taken,
        threads_lingering=now.lingering,
        threads_reserved=int(min(now.extra, now.limit - now.regular)) if finite else 0,
        threads_beyond_limit=int(max(now.taken - now.limit, 0)) if finite else 0,
        threads_quiet=now.quiet,
        requests_held_back=pool.held_back,
        waiting_first=now.waiting_first,
        waiting_later=now.waiting_later,
        longest_wait=0.0 if now.oldest_since is None else time.monotonic() - now.oldest_since,
        stalled=now.stalled,
        peak_threads=counters.peak_threads,
        peak_waiting=counters.peak_waiting,
        loops=1,
        **_totals(counters),
    )


def _totals(counters: Counters) -> dict[str, Any]:
    return {name: getattr(counters, name) for name in Counters.TOTALS}


def _sum(pools: list[TokenPool], ended: Counters) -> Stats:
    """Sum up the loops that are open, with the totals of those that were."""
    parts = [*map(_of, pools), Stats(**_totals(ended))]
    totals: dict[str, Any] = {
        each.name: sum(getattr(part, each.name) for part in parts)
        for each in fields(Stats)
        if each.name != "routes"
    }
    totals["longest_wait"] = max(part.longest_wait for part in parts)
    totals["stalled"] = any(part.stalled for part in parts)
    return Stats(**totals)
