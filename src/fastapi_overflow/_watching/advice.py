"""`advise()`: what of an app keeps requests waiting for threads or connections, and what to change.

Called by apps and by `doctor --app`, and once at the first stall, in a thread of its own. It must
never run a second time unless asked: the search goes through all objects of the process.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

from .. import _settings
from .._log import logger
from .._requests.limiters import STOCK_LIMIT, live_pools
from . import stacks
from .connection_pools import ConnectionPool, connection_pools
from .health_advice import health_routes
from .live_objects import instances_of
from .loop_advice import on_the_loop
from .reading.dependencies import Dependencies
from .routes import found_routes, outermost
from .seen import seen
from .session_advice import kept_by_streams, kept_by_websockets, nested
from .stats import stats

PINNED = (
    "all threads wait for a connection and no request under way waits for a thread: the holders of"
    " the connections are waiting for something else, such as a slow client, an open WebSocket or"
    " an await in async code. More threads can't help."
    ' Depends(get_db, scope="function") gives a connection back before the response is sent; in a'
    " WebSocket, open a session for each message instead of one for as long as it is open"
)


def advise(app: Any = None) -> list[str]:
    """Find out why requests wait for threads or connections, and what to change.

    Return a text for each problem, with file and line of the function concerned, or an empty list.
    Named are async functions that use a sync session of SQLAlchemy's, routes that take two
    connections at once, WebSockets and streams that keep one, health checks that need a thread, and
    pools that threads can only wait for. The app's code is read for that, and not called. A stalled
    pool that is short of connections, not threads, is named too, and what has been seen in this
    process. Don't call it for every request: it goes through all objects of the process, which
    takes a while in a large one.

    :param app: the Starlette or FastAPI app whose routes to examine; None: all in this process
    """
    limit, reserve = limits()
    pools = connection_pools()
    advice = [text for pool in pools if (text := compare(pool, limit, reserve))]
    if is_pinned_now():
        advice.append(PINNED)
    starlette = sys.modules.get("starlette.applications")
    apps = [app] if app is not None else instances_of(getattr(starlette, "Starlette", None))
    found = [route for each in outermost(apps) for route in found_routes(each)]
    dependencies = Dependencies()
    return [
        *advice,
        *on_the_loop(found, dependencies),
        *nested(found, dependencies, limit, pools),
        *kept_by_websockets(found, dependencies),
        *kept_by_streams(found, dependencies),
        *health_routes(found, dependencies.sources),
        *seen(),
    ]


def limits() -> tuple[float, int]:
    """Return limit and reserve of the running event loop, or else of the next one."""
    try:
        now = stats()
        if now.loops:
            return now.limit, now.reserve
    except RuntimeError:
        pass
    settings = _settings.current()
    if settings.disabled:
        return STOCK_LIMIT, 0
    return settings.limit, settings.reserve


def compare(pool: ConnectionPool, limit: float, reserve: int) -> str | None:
    """Return advice if threads can only wait for a connection pool, else None.

    They can't where the pool is governed: a request that is about to take a connection is held back
    before it takes a thread.
    """
    fitting = pool.capacity + reserve + 1  # one more thread, for requests without a connection
    if pool.is_governed or not pool.has_bound or limit <= fitting:
        return None
    size = f"{pool.size:g}+{pool.overflow:g}" if pool.overflow else f"{pool.size:g}"
    would_do = f"FASTAPI_OVERFLOW_LIMIT={max(fitting, 3):g} would serve the same load"
    if limit == math.inf:
        return (
            f"no limit, {pool.name} {size}: where all requests use it, all threads but"
            f" {pool.capacity:g} can only ever wait. {would_do}"
        )
    return (
        f"limit {limit:g}, {pool.name} {size}: where all requests use it, {limit - pool.capacity:g}"
        f" threads can only ever wait. {would_do};"
        f" so would {pool.settings} for {limit:g} connections, if the database has them"
    )


# ---- in a stall


def is_pinned(groups: list[stacks.Group], waiting_later: int) -> bool:
    """Tell whether connections are short in a way that more threads can't help.

    In a deadlock, a request under way holds a connection and waits for a thread. Here no request
    under way waits for a thread, and every hop that runs waits for a connection. So the holders of
    the connections don't need a thread.
    """
    return (
        bool(groups)
        and not waiting_later
        and all(g.where.startswith(stacks.CHECKOUT) for g in groups)
    )


def is_pinned_now() -> bool:
    """Tell whether a stalled pool of this process is short of connections, not threads."""
    for pool in live_pools():
        if pool.snapshot().stalled:
            groups = stacks.grouped(stacks.hop_frames(pool.loop))
            if is_pinned(groups, pool.snapshot().waiting_later):
                return True
    return False


_advised = threading.Lock()  # acquired by the first call, and never released


def log_advice_once(limit: float, reserve: int) -> None:
    """Compare the limit with the connection pools, once in a process, and log the advice.

    This runs in a thread of its own, as the search would block the event loop.
    """
    if not _advised.acquire(blocking=False):
        return

    def compare_all() -> None:
        try:
            for pool in connection_pools():
                if text := compare(pool, limit, reserve):
                    logger.warning("%s.", text, extra={"event": "advice"})
        except Exception:
            logger.debug("No advice on connection pools", exc_info=True)

    threading.Thread(target=compare_all, name="fastapi-overflow advice", daemon=True).start()
