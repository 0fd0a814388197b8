"""The replacements: what stands in the place of Starlette's, FastAPI's and anyio's functions.

wrapt's wrappers, called with (wrapped, instance, args, kwargs) for every request and every hop once
the patch is on; and what makes a plain function for what each request comes through. They must
never change what the functions promise: names, signatures, contextvars, cancellation, exceptions,
and when each of these is raised.
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
from .lease_of_request import current_lease, lending
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
    except Exception:
        return wrapped(*args, **kwargs)  # Starlette's own error, when it is awaited
    return _lend(wrapped, scope, receive, send)


def _call(app: Callable[..., Any], scope: Any, receive: Any, send: Any) -> Any:
    return app(scope, receive, send)


_lend = lending(current_pool, _call)


def plain_starlette_call(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same for a plain function."""
    return lending(current_pool, original)


def wrap_route_handle(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
    """Route.handle, WebSocketRoute.handle: note which route a request has reached.

    What a request does is known by its route. A route around another one, in an app that is a
    route's endpoint, is left behind for that.
    """
    lease = current_lease.get()
    if lease is not None and not lease.closed:
        wait = _reach(lease, instance, args[0] if args else kwargs.get("scope"))
        if lease.refusal is not None and len(args) == 3:
            args = (args[0], args[1], _noting_answer(lease, args[2]))
        if wait is not None:
            return _after(wait, wrapped, args, kwargs)
    return wrapped(*args, **kwargs)


def plain_route_handle(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same for a plain function."""

    async def handle(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        lease = current_lease.get()
        if lease is not None and not lease.closed:
            reached = lease.reached
            # FastAPI's method calls Starlette's.
            if reached is None or reached[0] is not self or reached[1] is not scope:
                wait = _reach(lease, self, scope)
                if wait is not None:
                    await wait
            if lease.refusal is not None:
                send = _noting_answer(lease, send)
        return await original(self, scope, receive, send)

    return handle


def _reach(lease: Lease, route: Any, scope: Any) -> Awaitable[None] | None:
    """Note what a request has reached; return what it has to await there."""
    try:
        lease.route = scope["endpoint"]
        lease.reached = route, scope
    except Exception:
        lease.route = lease.reached = None  # not what Starlette's router hands on
    connections = lease_of_request.connections
    if connections is None or (lease.holder is None and lease.habits is None):
        return None
    wait: Awaitable[None] | None = connections.at_route(lease)
    return wait


def _noting_answer(lease: Lease, send: Any) -> Any:
    from .overloaded import noting_answer  # late: most operators don't ask for it

    return noting_answer(lease, send)


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

# What stands in the place of a plain function: an object of wrapt's for each call takes as long as
# all that these two do. Others' wrappers are called as before: they may look at how.
PLAIN = {"wrap_starlette_call": plain_starlette_call, "wrap_route_handle": plain_route_handle}
