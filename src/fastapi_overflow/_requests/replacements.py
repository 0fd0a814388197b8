"""The replacements: what runs for every request and every hop once the patch is on.

Called by Starlette, FastAPI, anyio's other users and the app. It must never change what the
functions it stands in for promise: names, signatures, contextvars, cancellation, exceptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast
from weakref import WeakSet, ref

from anyio import to_thread
from anyio.lowlevel import RunVar

from .. import _settings
from .._startup import disabled
from .._threads.lease import LINGERING, Lease, current_lease
from .._threads.pool import TokenPool
from .limiter import OverflowLimiter

P = ParamSpec("P")
T = TypeVar("T")

# anyio's own functions, whatever stands in their place later.
anyio_run_sync = to_thread.run_sync
anyio_current_default_thread_limiter = to_thread.current_default_thread_limiter

_limiters: RunVar[OverflowLimiter] = RunVar("fastapi_overflow_limiter")

# Those of all loops, for who looks; weak, as they go with their loop.
all_limiters: WeakSet[OverflowLimiter] = WeakSet()

# Another one while somebody listens to the metrics.
limiter_class: type[OverflowLimiter] = OverflowLimiter

STOCK_LIMIT = 40  # threads: anyio's default, and trio's

# The limiter last looked up, by any loop: mostly there is only one. Weak, not to outlive its loop.
_latest: Callable[[], OverflowLimiter | None] = lambda: None  # noqa: E731

OFF = disabled()

# What stands at anyio.to_thread.run_sync once it is patched, until somebody wraps it again.
patched_run_sync: Any = None


def current_limiter() -> OverflowLimiter:
    """Return the limiter of the running event loop, made at the first call in it."""
    try:
        return _limiters.get()
    except LookupError:
        limiter = _new_limiter()
        _limiters.set(limiter)
        all_limiters.add(limiter)
        return limiter


def _current_pool() -> TokenPool:
    """Return what `current_limiter` does, faster on asyncio."""
    lease = current_lease.get()
    if lease is not None and lease.pool.is_running_here():
        return lease.pool
    global _latest
    limiter = _latest()  # one look, other threads' loops write it too
    if limiter is None or not limiter.is_running_here():
        limiter = current_limiter()
        _latest = ref(limiter)
    return limiter


def _new_limiter() -> OverflowLimiter:
    settings = _settings.load()
    limit: float = settings.limit
    # What the app has set on anyio's own limiter before a late patch() stays in force.
    stock = anyio_current_default_thread_limiter().total_tokens
    if stock != STOCK_LIMIT:
        limit = stock
    if not OFF:
        from . import handover as _handover  # late: not at the cost of importing Starlette

        _handover.install()
    return limiter_class(
        limit,
        reserve=settings.reserve,
        stall_threads=settings.stall_threads,
        stall_seconds=settings.stall_seconds,
        gate=settings.gate,
    )


class _Hop(partial[Any]):
    """What a hop calls, and as `limiter=` of anyio's run_sync its way to the loop's limiter.

    A hop may be described outside any loop (`asyncio.run(to_thread.run_sync(f))`), so the limiter
    is looked up when it is made; once, hence an object for each hop. Entering leaves out the turn
    of the loop that a limiter's own `acquire` always gives up, as run_sync has just been through a
    checkpoint; but not while somebody waits. Hops that begin together then go to their threads one
    straight after another, in fewer switches: a busy server answered 4 % more requests so.
    """

    __slots__ = ("_pool",)
    _pool: TokenPool

    async def __aenter__(self) -> None:
        self._pool = pool = _current_pool()
        task = pool.current_task()
        waiter = pool.start_acquire(task, self)
        if waiter is not None:
            await pool.wait(waiter)
        elif pool.somebody_waits():
            try:
                await asyncio.sleep(0)  # trio doesn't come here
            except BaseException:
                pool.abandon(task)  # cancelled: to the next waiter
                raise

    async def __aexit__(self, *exc_info: object) -> None:
        pool = self._pool
        pool.finish(pool.current_task())

    def __getattr__(self, name: str) -> Any:
        # trio asks for acquire_on_behalf_of and release_on_behalf_of.
        return getattr(current_limiter(), name)


class _WithOwnLimiter:
    """As `limiter=` of anyio's run_sync the caller's own one, with the request's token kept beside.

    FastAPI leaves a sync dependency so. The caller's limiter alone decides when the hop runs; the
    token that lingers meanwhile stays with the lease until the hop ends. Let go, it would admit the
    next request, only for that to wait for the connection which this hop is about to give back:
    there were 55 threads instead of 44, and 4 % fewer requests a second.
    """

    __slots__ = ("_kept", "_lease", "_limiter")

    def __init__(self, limiter: Any, lease: Lease) -> None:
        self._limiter = limiter
        self._lease = lease
        self._kept = False

    async def __aenter__(self) -> None:
        lease = self._lease
        lease.pool.linger_anew(lease)
        await self._limiter.__aenter__()
        # Only now: a token must not be held while the hop waits for another limiter.
        self._kept = lease.pool.keep(self, lease)

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._limiter.__aexit__(*exc_info)
        finally:
            if self._kept:
                self._lease.pool.finish(self)

    def __getattr__(self, name: str) -> Any:
        # Who wraps anyio's backend may look at the limiter that it gets.
        return getattr(self._limiter, name)


async def run_in_threadpool(func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a worker thread without freezing the app when threads run out.

    What Starlette's function of that name does, with a thread of fastapi-overflow's limiter, be
    the app patched or not. With FASTAPI_OVERFLOW_DISABLE set it is Starlette's.

    :param func: called with the other arguments; its context variables are those of the caller
    :return: what `func` returns
    :raises RuntimeError: where `func` raises StopIteration
    :raises BaseException: whatever else `func` raises

    Cancellation while waiting for a thread ends the wait; once `func` runs it is awaited to its
    end, and only then is the cancellation raised. The thread is given back when `func` ends.
    """
    hop: Any = _Hop(func, *args, **kwargs)
    # Past our own wrapper, which has nothing to add; through those of others.
    run_sync = to_thread.run_sync
    run_sync = anyio_run_sync if run_sync is patched_run_sync else run_sync
    return cast("T", await run_sync(hop, limiter=None if OFF else hop))


async def iterate_in_threadpool(iterator: Iterable[T]) -> AsyncIterator[T]:
    """Iterate over a blocking iterable, a worker thread at a time for each item.

    No thread is held while the consumer of the items is busy. Cancellation and exceptions are as
    with `run_in_threadpool`.

    :param iterator: a (sync) iterator or iterable; `iter()` of it is taken in the event loop
    """
    as_iterator = iter(iterator)
    end: Any = object()  # `next` must not raise StopIteration into a future
    while (item := await run_in_threadpool(next, as_iterator, end)) is not end:
        yield item


# ---- wrapt wrappers: (wrapped, instance, args, kwargs)


def wrap_run_sync(wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
    """anyio.to_thread.run_sync: give hops without a limiter of their own ours."""
    limiter = kwargs.get("limiter")
    if limiter is not None:
        lease = None if type(limiter) is _Hop else current_lease.get()
        # Only on asyncio: trio asks more of a limiter, and its exits are too few to matter.
        if lease is not None and lease.token == LINGERING and lease.pool.is_running_here():
            kwargs["limiter"] = _WithOwnLimiter(limiter, lease)
    elif args:
        kwargs["limiter"] = _Hop(*args)
    return wrapped(*args, **kwargs)


def wrap_current_default_thread_limiter(
    wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any
) -> Any:
    """anyio.to_thread.current_default_thread_limiter: the one that hops really use."""
    return current_limiter()


def wrap_pass_through(wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
    """run_in_threadpool where somebody has wrapped it before: theirs runs, and makes our hop."""
    return wrapped(*args, **kwargs)


def wrap_run_in_threadpool(wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
    """starlette.concurrency.run_in_threadpool: straight to anyio with our limiter."""
    if not args or to_thread.run_sync is not patched_run_sync:
        # No function (Starlette's own error), or somebody else's wrapper around anyio's function.
        return wrapped(*args, **kwargs)
    hop: Any = _Hop(*args, **kwargs)
    return anyio_run_sync(hop, limiter=hop)


def wrap_starlette_call(wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
    """Starlette.__call__: open a lease for the request, in the outermost app only."""
    scope = args[0] if args else kwargs.get("scope")
    if scope is None or len(args) + len(kwargs) != 3 or scope["type"] not in ("http", "websocket"):
        # A call without arguments must raise its TypeError here and now, not when it is awaited:
        # that is how uvicorn tells an app from a factory of apps.
        return wrapped(*args, **kwargs)
    return _call_with_lease(wrapped, args, kwargs)


async def _call_with_lease(wrapped: Callable[..., Awaitable[None]], args: Any, kwargs: Any) -> None:
    pool = _current_pool()
    lease = current_lease.get()
    if lease is not None and not lease.closed and lease.pool is pool:
        return await wrapped(*args, **kwargs)
    before, lease = lease, pool.open_lease()
    current_lease.set(lease)
    try:
        await wrapped(*args, **kwargs)
    finally:
        pool.close_lease(lease)
        # In httpx's ASGITransport and test clients the context is the caller's own. Not by a token
        # of the variable: one more object for each request that waits.
        if current_lease.get() is lease:  # else it ended in another context than it began
            current_lease.set(before)


def wrap_iterate_in_threadpool(
    wrapped: Callable[..., AsyncIterator[Any]], _: Any, args: Any, kwargs: Any
) -> AsyncIterator[Any]:
    """starlette.concurrency.iterate_in_threadpool: a thread per item, not per stream."""
    return iterate_in_threadpool(*args, **kwargs)


# Wrappers that don't call what they wrap: only for functions that nobody else has wrapped.
SHORT_CUTS = frozenset({"wrap_run_in_threadpool", "wrap_iterate_in_threadpool"})
