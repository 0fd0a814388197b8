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
from . import route_times

current_lease: ContextVar[Lease | None] = ContextVar("fastapi_overflow_lease", default=None)

# Where requests wait for connections: the module of that name, once SQLAlchemy is loaded.
connections: Any = None

# In the scope, so that it survives a middleware which hands a copy of the scope on.
KEY = "fastapi_overflow.lease"


class _Send:
    """The server's `send`, which notes in the lease when the response has been sent.

    Not a function in a function: with its cells that is four objects for the garbage collector, for
    each request that waits. Nor a coroutine around a coroutine: it is called for every message.
    """

    __slots__ = ("_lease", "_send")

    def __init__(self, lease: Lease, send: Any) -> None:
        self._lease = lease
        self._send = send

    def __call__(self, message: Any) -> Any:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._lease.answered = True
        return self._send(message)


def lending(
    find_pool: Callable[[], TokenPool], call: Callable[..., Awaitable[None]]
) -> Callable[..., Awaitable[None]]:
    """Return what stands in the place of an app's `__call__`, and lends each request a lease.

    The one that the request has already, or a new one. Not a coroutine around a coroutine: each
    request comes this way.

    :param find_pool: returns the pool of the running event loop
    :param call: the app's own method, called with the app
    """

    async def __call__(  # noqa: PLR0912 - a call less for each request
        self: Any, scope: Any, receive: Any, send: Any
    ) -> None:
        try:
            is_request = scope["type"] in ("http", "websocket")
            pool = find_pool() if is_request else None
        except Exception:
            pool = None  # not what ASGI says, or no event loop that anyio knows: nothing hops here
        if pool is None:
            return await call(self, scope, receive, send)
        before = current_lease.get()
        around = before
        if before is not None:
            if before.closed or before.pool is not pool:
                around = None
            elif scope.get(KEY) is before:
                # An app inside the app: mounted, in a middleware.
                return await call(self, scope, receive, send)
        # Around this request another one is still open. It may call this app itself, by httpx's
        # ASGITransport, and hold something meanwhile. Or its response has been sent, and the server
        # has created this request's task in its context. In its own task it is its background
        # task's call.
        under_way = (
            around is not None
            and around.hops > 0
            and (not around.answered or pool.current_task() is around.task())
        )
        lease = pool.open_lease(under_way=under_way)
        try:
            scope[KEY] = lease
        except TypeError:
            pass  # a mapping of somebody's that can't be changed; an app inside is another request
        current_lease.set(lease)
        its_call = call
        if pool.patience is not None:
            from .overloaded import turning_away  # late: most operators don't ask for it

            its_call = turning_away(call, lease, pool.patience.seconds)

        try:
            if connections is not None:
                wait = connections.at_app(lease, self, around is not None or lease.hops > 0)
                if wait is not None:
                    await wait
            await its_call(self, scope, receive, _Send(lease, send))
        finally:
            pool.close_lease(lease)
            if connections is not None and (lease.holder is not None or lease.habits is not None):
                connections.ended(lease)
            elif lease.hops:
                route_times.add(lease)
            lease.reached = None  # it leads to the scope, and that to the lease
            # In httpx's ASGITransport and test clients scope and context are the caller's own. Not
            # by a token of the variable: one more object for each request that waits.
            if scope.get(KEY) is lease:
                del scope[KEY]
            if current_lease.get() is lease:  # else it ended in another context than it began
                current_lease.set(before)

    return __call__
