"""The limiter that stands in for anyio's default one: anyio's contract on top of the token pool.

Called by apps that take a limiter in hand, and by trio for every hop; on asyncio hops go to the
pool directly. Its sentences are anyio's own: what fails with anyio's limiter fails alike here.
"""

from __future__ import annotations

import math
from typing import Any

import anyio
from anyio import CapacityLimiterStatistics, WouldBlock
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from .._threads.pool import TokenPool


class OverflowLimiter(TokenPool, anyio.CapacityLimiter):
    """An `anyio.CapacityLimiter` whose borrowers are the hops of requests.

    :param total_tokens: the limit, in threads; math.inf for none
    :param reserve: threads of the limit for later hops; at most all but one in effect
    :param stall_threads: most threads beyond the limit in a stall; None: as many as the limit
    :param stall_seconds: seconds without a finished hop after which the pool is stalled
    :param gate: whether to hold requests back while threads queue for database connections
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
        gate: bool = True,
    ) -> None:
        _check_total_tokens(total_tokens)
        super().__init__(total_tokens, reserve, stall_threads, stall_seconds, gate)

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *exc_info: object) -> None:
        self.release()

    @property
    def total_tokens(self) -> float:
        return self._total

    @total_tokens.setter
    def total_tokens(self, value: float) -> None:
        _check_total_tokens(value)
        self.resize(value, self._reserve)

    @property
    def borrowed_tokens(self) -> int:
        """The number of hops that run; a token that lingers is free for whoever asks."""
        return len(self._borrowers)

    @property
    def available_tokens(self) -> float:
        """The number of tokens that no hop runs with, those of the reserve included."""
        return self._total - len(self._borrowers)

    def acquire_nowait(self) -> None:
        self.acquire_on_behalf_of_nowait(self.current_task())

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        if not self.start_acquire_nowait(borrower):
            raise WouldBlock

    async def acquire(self) -> None:
        await self.acquire_on_behalf_of(self.current_task())

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await checkpoint_if_cancelled()
        waiter = self.start_acquire(borrower)
        if waiter is not None:
            await self.wait(waiter)
            return
        try:
            await cancel_shielded_checkpoint()
        except BaseException:
            self.abandon(borrower)  # the caller never got the token: to the next waiter
            raise

    def release(self) -> None:
        self.release_on_behalf_of(self.current_task())

    def release_on_behalf_of(self, borrower: object) -> None:
        try:
            self.finish(borrower)
        except KeyError:
            raise RuntimeError(
                "this borrower isn't holding any of this CapacityLimiter's tokens"
            ) from None

    def statistics(self) -> CapacityLimiterStatistics:
        return CapacityLimiterStatistics(
            borrowed_tokens=len(self._borrowers),
            total_tokens=self._total,
            borrowers=tuple(self._borrowers),
            tasks_waiting=self._waiters.size,
        )


def _check_total_tokens(value: float) -> None:
    if not isinstance(value, int) and not (isinstance(value, float) and math.isinf(value)):
        raise TypeError("total_tokens must be an int or math.inf")
    if value < 0:
        raise ValueError("total_tokens must be >= 0")
