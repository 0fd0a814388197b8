"""Where a request begins and ends: its lease, and how its hops find it.

Called by the replacement of `Starlette.__call__` for every request. A request is its ASGI scope:
servers may create a request's task in the context of the request before, so the context variable
alone would make two of them one (uvicorn does after pipelining, and after a body above 64 kB).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from .._threads.lease import Lease
from .._threads.pool import TokenPool

current_lease: ContextVar[Lease | None] = ContextVar("fastapi_overflow_lease", default=None)

# In the scope, so that it survives a middleware which hands a copy of the scope on.
KEY = "fastapi_overflow.lease"


async def call_with_lease(
    find_pool: Callable[[], TokenPool],
    wrapped: Callable[..., Awaitable[None]],
    scope: Any,
    args: Any,
    kwargs: Any,
) -> None:
    """Call an app with a lease for the request: the one that it has already, or a new one.

    :param find_pool: returns the pool of the running event loop
    :param scope: among the arguments for `wrapped`
    """
    pool = find_pool()
    around = current_lease.get()
    if around is not None and (around.closed or around.pool is not pool):
        around = None
    if around is not None and scope.get(KEY) is around:
        return await wrapped(*args, **kwargs)  # an app inside the app: mounted, or in a middleware
    before = current_lease.get()
    # Around this request another one is still open: it may call this app itself and hold something
    # meanwhile (httpx's ASGITransport), or run a background task after its own response.
    lease = pool.open_lease(under_way=around is not None and around.hops > 0)
    try:
        scope[KEY] = lease
    except TypeError:
        pass  # a mapping of somebody's that can't be changed; an app inside is another request then
    current_lease.set(lease)
    try:
        await wrapped(*args, **kwargs)
    finally:
        pool.close_lease(lease)
        # In httpx's ASGITransport and test clients scope and context are the caller's own. Not by a
        # token of the variable: one more object for each request that waits.
        if scope.get(KEY) is lease:
            del scope[KEY]
        if current_lease.get() is lease:  # else it ended in another context than it began
            current_lease.set(before)
