"""Requests without threads: what the tests of the limiter drive it with.

Called by tests. A hop is `async with limiter` around an await, so that a blocked thread is a task
that waits, a deadlock is a loop with nothing to do, and time passes when a test says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fastapi_overflow._requests import hops, limiters
from fastapi_overflow._requests.lease_of_request import current_lease
from fastapi_overflow._requests.limiter import OverflowLimiter
from fastapi_overflow._threads.clock import current_clock
from fastapi_overflow._watching.observer import PoolObserver
from support import PATIENCE

STALL_SECONDS = 1.0  # of the manual clock
TURNS = 40  # more than anything here needs from its cause to its effect


class ManualClock:
    """The clock of the running loop, but for its timers: those fire when `advance` says so."""

    def __init__(self) -> None:
        real = current_clock()
        self.current_task = real.current_task
        self.is_running_here = real.is_running_here
        self.call_soon = real.call_soon
        self.wake_up = real.wake_up
        self.loop = real.loop
        self.is_over = real.is_over
        self.is_in_task = real.is_in_task
        self.call_soon_threadsafe = real.call_soon_threadsafe
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.timers.append((self.now + seconds, callback))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [callback for when, callback in self.timers if when <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for callback in due:
            callback()


def make_limiter(
    monkeypatch: Any, total: float, default: bool = False, **options: Any
) -> tuple[Any, ManualClock]:
    """Return a limiter whose stalls come when its clock, returned too, is advanced.

    :param default: whether it is the one of the running event loop, which each `hop` takes
    """
    clock = ManualClock()
    observer = PoolObserver()
    limiter = OverflowLimiter(
        total, stall_seconds=STALL_SECONDS, clock=clock, observer=observer, **options
    )
    observer.attach(limiter.pool)
    if default:
        limiters._limiters.set(limiter)
    return limiter, clock


def hop(func: Callable[..., Any]) -> AbstractAsyncContextManager[None]:
    """Return what anyio enters, once patched, for a hop that calls `func`; nothing is called."""
    return hops.Hop(func)


def without_leases(monkeypatch: Any) -> None:
    """Take the lease out: no token is kept from one hop to the next while somebody waits."""
    monkeypatch.setattr("fastapi_overflow._threads.dispatcher.MANY_HOPS", 0)


async def settle(limiter: Any) -> None:
    """Let everything happen that happens without time passing, with the invariants checked."""
    for _ in range(TURNS):
        await checkpoint()
        limiter.pool._check()


async def stall(limiter: Any, clock: ManualClock, times: int = 1) -> None:
    """Let time pass for the stall watch to look so many times."""
    for _ in range(times):
        clock.advance(STALL_SECONDS)
        await settle(limiter)


@asynccontextmanager
async def requests(limiter: Any):
    """A task group for requests; when it ends all of them are over, and all tokens are back."""
    with anyio.move_on_after(2 * PATIENCE) as deadline:
        async with anyio.create_task_group() as group:
            try:
                yield group
            except BaseException:
                group.cancel_scope.cancel()  # the claim has failed: don't wait for the rest
                raise
    if deadline.cancelled_caught:
        pytest.fail(f"requests still under way after {2 * PATIENCE} s: {limiter.statistics()}")
    assert limiter.borrowed_tokens == 0
    assert limiter.statistics().tasks_waiting == 0


async def as_request(limiter: Any, function: Callable[..., Any], *args: Any) -> None:
    """Call `function` as an app is called for a request: with a lease."""
    lease = limiter.pool.open_lease()
    reset = current_lease.set(lease)
    try:
        await function(*args)
    finally:
        limiter.pool.close_lease(lease)
        current_lease.reset(reset)


class Hop:
    """A hop that a test ends. It is `running` from when it has its token until it ends."""

    def __init__(self, limiter: Any) -> None:
        self.limiter = limiter
        self.running = False
        self.over = False
        self._end = anyio.Event()

    async def __call__(self) -> None:
        async with self.limiter:
            self.running = True
            try:
                await self._end.wait()
            finally:
                self.running = False
                self.over = True

    def end(self) -> None:
        self._end.set()


class Request:
    """A request, in a task of its own, whose hops a test starts one by one; several run in turn.

    :param hops: that it makes by itself before the first of the test's
    """

    def __init__(self, limiter: Any, group: Any, hops: int = 0) -> None:
        self._limiter = limiter
        self._made = hops
        self._next: deque[Hop] = deque()
        self._wake = anyio.Event()
        self._over = False
        self.over = False
        group.start_soon(as_request, limiter, self._run)

    async def _run(self) -> None:
        for _ in range(self._made):
            async with self._limiter:
                pass
        while self._next or not self._over:
            if self._next:
                await self._next.popleft()()
            else:
                await self._wake.wait()
                self._wake = anyio.Event()
        self.over = True

    def hop(self) -> Hop:
        """Start the next hop."""
        hop = Hop(self._limiter)
        self._next.append(hop)
        self._wake.set()
        return hop

    def finish(self) -> None:
        """End the request once its hops are over."""
        self._over = True
        self._wake.set()


def first_hops(limiter: Any, group: Any, number: int) -> list[Hop]:
    """Start requests of one hop each, in this order."""
    hops = []
    for _ in range(number):
        request = Request(limiter, group)
        hops.append(request.hop())
        request.finish()
    return hops


def end_all(hops: list[Hop]) -> None:
    for hop in hops:
        hop.end()
