"""The limiter that stands in for anyio's default one: anyio's contract on top of the token pool.

Called by apps that take a limiter in hand, and by trio for every hop; on asyncio hops go to the
pool directly. Its sentences are anyio's own: what fails with anyio's limiter fails alike here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import anyio
from anyio import CapacityLimiterStatistics, WouldBlock
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from .._threads.clock import current_clock
from .._threads.pool import TokenPool
from .lease_of_request import current_lease

if TYPE_CHECKING:
    from .._threads.clock import Clock
    from .._threads.observer import Observer


class OverflowLimiter(anyio.CapacityLimiter):
    """An `anyio.CapacityLimiter` whose borrowers are the hops of requests.

    :param total_tokens: the limit, in threads; math.inf for none
    :param clock: None: of the running event loop
    The others are those of `TokenPool`.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> OverflowLimiter:
        return object.__new__(cls)  # anyio's own would make one of the backend's

    def __init__(
        self,
        total_tokens: float,
        *,
        reserve: int = 1,
        stall_threads: int | None = None,
        stall_seconds: float = 0.05,
        max_wait: float | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        _check_total_tokens(total_tokens)
        self.pool = TokenPool(
            clock or current_clock(),
            total_tokens,
            reserve,
            stall_threads=stall_threads,
            stall_seconds=stall_seconds,
            max_wait=max_wait,
            observer=observer,
        )

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *exc_info: object) -> None:
        self.release()

    @property
    def total_tokens(self) -> float:
        return self.pool.limit

    @total_tokens.setter
    def total_tokens(self, value: float) -> None:
        _check_total_tokens(value)
        self.pool.resize(value, self.pool.reserve)

    @property
    def borrowed_tokens(self) -> int:
        """The number of hops that run; a token that lingers is free for whoever asks."""
        return self.pool.running

    @property
    def available_tokens(self) -> float:
        """The number of tokens that no hop runs with, those of the reserve included."""
        return self.pool.limit - self.pool.running

    def acquire_nowait(self) -> None:
        self.acquire_on_behalf_of_nowait(self.pool.current_task())

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        if not self.pool.acquire_nowait(borrower, current_lease.get()):
            raise WouldBlock

    async def acquire(self) -> None:
        await self.acquire_on_behalf_of(self.pool.current_task())

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await checkpoint_if_cancelled()
        waiter = self.pool.start_acquire(borrower, current_lease.get())
        if waiter is not None:
            await self.pool.wait(waiter)
            return
        try:
            await cancel_shielded_checkpoint()
        except BaseException:
            self.pool.abandon(borrower)  # the caller never got the token: to the next waiter
            raise

    def release(self) -> None:
        self.release_on_behalf_of(self.pool.current_task())

    def release_on_behalf_of(self, borrower: object) -> None:
        try:
            self.pool.finish(borrower)
        except KeyError:
            raise RuntimeError(
                "this borrower isn't holding any of this CapacityLimiter's tokens"
            ) from None

    def statistics(self) -> CapacityLimiterStatistics:
        return CapacityLimiterStatistics(
            borrowed_tokens=self.pool.running,
            total_tokens=self.pool.limit,
            borrowers=self.pool.borrowers(),
            tasks_waiting=self.pool.waiting,
        )


# What anyone may ask of a limiter.
CONTRACT = frozenset(name for name in vars(OverflowLimiter) if not name.startswith("_")) - {"pool"}


def _check_total_tokens(value: float) -> None:
    if not isinstance(value, int) and not (isinstance(value, float) and math.isinf(value)):
        raise TypeError("total_tokens must be an int or math.inf")
    if value < 0:
        raise ValueError("total_tokens must be >= 0")
