"""What a hop is made with: its token, and the functions that make it.

Called by the replacements and by apps that use this package directly. It must never change what the
functions it stands in for promise: signatures, contextvars, cancellation, exceptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

from anyio import to_thread

from .. import _settings
from .._threads.lease import LINGERING, Lease
from .._threads.pool import TokenPool
from . import lease_of_request
from .lease_of_request import current_lease
from .limiter import CONTRACT
from .limiters import current_limiter, current_pool

P = ParamSpec("P")
T = TypeVar("T")

# anyio's own function, whatever stands in its place later.
anyio_run_sync = to_thread.run_sync

# Told of tasks that make hops outside of any request, once SQLAlchemy is loaded.
note_hop_outside: Callable[[Any], None] | None = None

# What stands at anyio.to_thread.run_sync once it is patched, until somebody wraps it again.
patched_run_sync: Any = None


class Hop(partial[Any]):
    """What a hop calls, and as `limiter=` of anyio's run_sync its way to the loop's limiter.

    A hop may be described outside any loop (`asyncio.run(to_thread.run_sync(f))`), so the limiter
    is looked up when it is made; once, hence an object for each hop. Entering leaves out the turn
    of the loop that a limiter's own `acquire` always gives up, as run_sync has just been through a
    checkpoint; but not while somebody waits. Hops that begin together then go to their threads one
    straight after another, in fewer switches: a busy server answered 4 % more requests so.

    :raises TypeError: for a function that can't be called
    """

    __slots__ = ("_holder", "_lease", "_pool")
    _holder: Any
    _lease: Lease | None
    _pool: TokenPool

    async def __aenter__(self) -> None:
        lease = current_lease.get()
        pool = lease.pool if lease is not None and lease.pool.is_running_here() else current_pool()
        self._pool = pool
        task = pool.current_task()
        self._lease = lease
        if lease is not None:
            self._holder = holder = lease.holder
            if holder is not None and holder.is_late:
                wait = lease_of_request.connections.before_hop(holder)
                if wait is not None:
                    await wait
            lease.running += 1
            if holder is not None:
                holder.begin_hop(lease.running)
        elif note_hop_outside is not None:
            note_hop_outside(task)
        try:
            waiter = pool.start_acquire(task, lease, self)
            if waiter is not None:
                await pool.wait(waiter)
            elif pool.somebody_waits():
                try:
                    await asyncio.sleep(0)  # trio doesn't come here
                except BaseException:
                    pool.abandon(task)  # cancelled: its token goes to the next waiter
                    raise
        except BaseException:
            if lease is not None:
                _end(lease, self._holder)
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        pool = self._pool
        pool.finish(pool.current_task())
        lease = self._lease
        if lease is not None:
            # One that is made in the middle of a hop is found in the lease, until that is closed.
            holder = self._holder or lease.holder
            lease.running -= 1
            if holder is None:
                return
            holder.end_hop(lease.running)
            if holder.is_late and exc_info[0] is None:
                wait = lease_of_request.connections.after_hop(holder)
                if wait is not None:
                    await wait  # it never raises, so what the hop has returned isn't lost

    def __getattr__(self, name: str) -> Any:
        # trio asks for acquire_on_behalf_of and release_on_behalf_of, who wraps anyio's backend for
        # whatever a limiter has. In its thread a hop is the function, and must look like stock's.
        if name in CONTRACT:
            return getattr(current_limiter(), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _end(lease: Lease, holder: Any) -> None:
    """Take note that a hop has ended, of a request that had this holder when it began."""
    lease.running -= 1
    holder = holder or lease.holder
    if holder is not None:
        holder.end_hop(lease.running)


class WithOwnLimiter:
    """As `limiter=` of anyio's run_sync the caller's own one, with the request's token kept beside.

    FastAPI leaves a sync dependency so. The caller's limiter alone decides when the hop runs; the
    token that lingers meanwhile stays with the lease until the hop ends. Let go, it would admit the
    next request, only for that to wait for the connection which this hop is about to give back:
    there were 55 threads instead of 44, and 4 % fewer requests a second. What the request has isn't
    idle meanwhile.
    """

    __slots__ = ("_holder", "_kept", "_lease", "_limiter")

    def __init__(self, limiter: Any, lease: Lease) -> None:
        self._limiter = limiter
        self._lease = lease
        self._kept = False

    async def __aenter__(self) -> None:
        lease = self._lease
        lease.pool.linger_anew(lease)
        self._holder = holder = lease.holder
        lease.running += 1
        if holder is not None:
            holder.begin_hop(lease.running)
        try:
            await self._limiter.__aenter__()
        except BaseException:
            _end(lease, holder)
            raise
        # Only now: a token must not be held while the hop waits for another limiter.
        self._kept = lease.pool.keep(self, lease)

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._limiter.__aexit__(*exc_info)
        finally:
            if self._kept:
                self._lease.pool.finish(self)
            _end(self._lease, self._holder)

    def __getattr__(self, name: str) -> Any:
        # Who wraps anyio's backend may look at the limiter that it gets.
        return getattr(self._limiter, name)


def keeps_something_beside(lease: Lease) -> bool:
    """Tell whether a request has a token that a hop with another limiter should keep, or accounts.

    Only on asyncio: trio asks more of a limiter, and its exits are too few to matter.
    """
    if lease.token != LINGERING and lease.holder is None and lease.habits is None:
        return False
    return bool(lease.pool.is_running_here())


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
    hop: Any = Hop(func, *args, **kwargs)
    # Past our own wrapper, which has nothing to add; through those of others.
    run_sync = to_thread.run_sync
    run_sync = anyio_run_sync if run_sync is patched_run_sync else run_sync
    return cast("T", await run_sync(hop, limiter=None if _settings.is_disabled() else hop))


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
