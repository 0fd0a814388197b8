"""The replacements: what stands in the place of Starlette's, FastAPI's and anyio's functions.

wrapt's wrappers, called with (wrapped, instance, args, kwargs) for every request and every hop once
the patch is on. They must never change what the functions promise: names, signatures, contextvars,
cancellation, exceptions, and when each of these is raised.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from anyio import to_thread

from .._threads.lease import Lease
from . import hops, lease_of_request
from .hops import (
    Hop,
    WithOwnLimiter,
    anyio_run_sync,
    iterate_in_threadpool,
    keeps_something_beside,
)
from .lease_of_request import call_with_lease, current_lease
from .limiters import current_limiter, current_pool


def wrap_run_sync(wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
    """anyio.to_thread.run_sync: give hops without a limiter of their own ours.

    Files, uploads and what apps run in threads themselves come this way.
    """
    limiter = kwargs.get("limiter")
    if limiter is not None:
        lease = None if type(limiter) is Hop else current_lease.get()
        if lease is not None:
            lease.refusal = None  # sync code of the app's own runs for it now
            if keeps_something_beside(lease):
                kwargs["limiter"] = WithOwnLimiter(limiter, lease)
    else:
        try:
            kwargs["limiter"] = Hop(*args) if args else Hop(kwargs["func"])
        except (TypeError, KeyError):
            pass  # no function, or one that can't be called: anyio's own error, when it is awaited
    return wrapped(*args, **kwargs)


def wrap_current_default_thread_limiter(
    wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any
) -> Any:
    """anyio.to_thread.current_default_thread_limiter: the one that hops really use.

    Apps set its `total_tokens` and read its statistics.
    """
    return current_limiter()


def wrap_pass_through(wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
    """run_in_threadpool where somebody has wrapped it before: theirs runs, and makes our hop."""
    return wrapped(*args, **kwargs)


def wrap_run_in_threadpool(wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
    """starlette.concurrency.run_in_threadpool: straight to anyio with our limiter.

    Everything sync in Starlette and FastAPI comes this way.
    """
    if to_thread.run_sync is not hops.patched_run_sync:
        return wrapped(*args, **kwargs)  # somebody else's wrapper around anyio's function
    try:
        hop: Any = Hop(*args, **kwargs)
    except TypeError:  # no function, or one that can't be called: Starlette's own error
        return wrapped(*args, **kwargs)
    return anyio_run_sync(hop, limiter=hop)


def wrap_iterate_in_threadpool(
    wrapped: Callable[..., AsyncIterator[Any]], _: Any, args: Any, kwargs: Any
) -> AsyncIterator[Any]:
    """starlette.concurrency.iterate_in_threadpool: a thread per item, not per stream."""
    return iterate_in_threadpool(*args, **kwargs)


def wrap_starlette_call(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
    """Starlette.__call__: open a lease for the request, in the outermost app only."""
    if len(args) + len(kwargs) != 3:
        # A call without arguments must raise its TypeError here and now, not when it is awaited:
        # that is how uvicorn tells an app from a factory of apps.
        return wrapped(*args, **kwargs)
    try:
        scope, receive, send = args if len(args) == 3 else _asgi_arguments(*args, **kwargs)
        is_request = scope["type"] in ("http", "websocket")
    except Exception:
        is_request = False  # not what ASGI says: Starlette's own error, when it is awaited
    if not is_request:
        return wrapped(*args, **kwargs)
    return call_with_lease(current_pool, wrapped, scope, receive, send)


def wrap_route_handle(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
    """Route.handle, WebSocketRoute.handle: note which route a request has reached.

    What a request does is known by its route. A route around another one, in an app that is a
    route's endpoint, is left behind for that.
    """
    lease = current_lease.get()
    if lease is not None and not lease.closed:
        try:
            scope = args[0] if args else kwargs["scope"]
            lease.route = scope["endpoint"]
            lease.reached = instance, scope
        except Exception:
            lease.route = lease.reached = None  # not what Starlette's router hands on
        if lease.refusal is not None and len(args) == 3:
            from .overloaded import noting_answer  # late: most operators don't ask for it

            args = (args[0], args[1], noting_answer(lease, args[2]))
        connections = lease_of_request.connections
        if connections is not None and (lease.holder is not None or lease.habits is not None):
            wait = connections.at_route(lease)
            if wait is not None:
                return _after(wait, wrapped, args, kwargs)
    return wrapped(*args, **kwargs)


async def _after(wait: Awaitable[None], wrapped: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    await wait
    return await wrapped(*args, **kwargs)


def wrap_background_task(wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
    """BackgroundTask.__call__: note that no client waits for what the request does now."""
    work = wrapped(*args, **kwargs)
    lease = current_lease.get()
    return work if lease is None or lease.closed else _in_background(lease, work)


async def _in_background(lease: Lease, work: Awaitable[None]) -> None:
    lease.in_background += 1  # a number, as an app may run several side by side
    try:
        await work
    finally:
        lease.in_background -= 1


def _asgi_arguments(scope: Any, receive: Any, send: Any) -> tuple[Any, Any, Any]:
    return scope, receive, send


# Wrappers that don't call what they wrap: only for functions that nobody else has wrapped.
SHORT_CUTS = frozenset({"wrap_run_in_threadpool", "wrap_iterate_in_threadpool"})
