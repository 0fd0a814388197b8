"""What somebody asks for: `advise()`, whether the thread limit fits the connection pools.

Called by apps, by `doctor --app` and once at the first stall, in a thread of its own. It must never
import the packages it looks for: what isn't loaded can't be in use. The search goes through all
objects of the process, so it never runs unasked a second time.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

from .. import _settings
from .._settings import logger
from . import stacks as _stacks
from .connection_pools import ConnectionPool, connection_pools
from .live_objects import instances_of
from .routes import health_routes, outermost, pinning_routes

PINNED = (
    "all threads wait for a connection and no request under way waits for a thread: whoever has the"
    " connections is waiting for something else, such as a slow client, an open WebSocket or an"
    " await in async code. More threads can't help."
    ' Depends(get_db, scope="function") gives a connection back before the response is sent; in a'
    " WebSocket, open a session for each message and not for the connection's whole life"
)


def advise(app: Any = None) -> list[str]:
    """Return what to change so that threads and connections fit, an empty list where they do.

    Compares the thread limit with each connection pool of SQLAlchemy and psycopg_pool in this
    process, says what the threads of a stalled pool are short of, and names health routes that need
    a thread and WebSockets that keep a connection. Takes a while in a big process, as it goes
    through all objects: not for every request.

    :param app: whose routes to look at, a Starlette or FastAPI app; None: all in this process
    """
    limit, reserve = limits()
    advice = [text for pool in connection_pools() if (text := compare(pool, limit, reserve))]
    if is_pinned_now():
        advice.append(PINNED)
    starlette = sys.modules.get("starlette.applications")
    found = [app] if app is not None else instances_of(getattr(starlette, "Starlette", None))
    for each in outermost(found):
        advice += health_routes(each) + pinning_routes(each)
    return advice


def limits() -> tuple[float, int]:
    """Return limit and reserve: of the running loop, else what the next one will have."""
    from .._requests import replacements as _hops  # late: the pool's own modules import this one
    from .stats import stats

    try:
        now = stats()
        if now.loops:
            return now.limit, now.reserve
    except RuntimeError:
        pass
    if _hops.OFF:
        return _hops.STOCK_LIMIT, 0
    settings = _settings.load()
    return settings.limit, settings.reserve


def compare(pool: ConnectionPool, limit: float, reserve: int) -> str | None:
    """Return what is out of proportion between a connection pool and the thread limit."""
    fitting = pool.capacity + reserve + 1  # one more thread for who needs no connection
    if pool.capacity == math.inf or limit <= fitting:
        return None
    size = f"{pool.size:g}+{pool.overflow:g}" if pool.overflow else f"{pool.size:g}"
    return (
        f"limit {limit:g}, {pool.name} {size}: where all requests use it, {limit - pool.capacity:g}"
        f" threads can only ever wait. FASTAPI_OVERFLOW_LIMIT={max(fitting, 3):g} would serve the"
        f" same load; so would {pool.settings} for {limit:g} connections, if the database has them"
    )


# ---- in a stall


def is_pinned(groups: list[_stacks.Group], waiting_later: int) -> bool:
    """Tell a lack of connections that threads can't help from a deadlock.

    In a deadlock some request under way has a connection and waits for a thread. Here nobody under
    way waits, and all that run wait for a connection: so it is held by who needs no thread.
    """
    return (
        bool(groups)
        and not waiting_later
        and all(g.where.startswith(_stacks.CHECKOUT) for g in groups)
    )


def is_pinned_now() -> bool:
    from .stats import live_pools

    for pool in live_pools():
        if pool.stalled:
            groups = _stacks.grouped(_stacks.hop_frames(pool.loop))
            if is_pinned(groups, pool.view().waiting_later):
                return True
    return False


_advised = threading.Lock()  # held for good once the log has the advice


def log_advice_once(limit: float, reserve: int) -> None:
    """Compare limit and connection pools, once in a process, and log what doesn't fit.

    In a thread of its own, as the search would hold up the event loop.
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
