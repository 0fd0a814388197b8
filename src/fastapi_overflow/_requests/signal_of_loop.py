"""What one task waits for until any thread sets it.

Made and awaited on an event loop, for each request that waits; set from anywhere. It must never
raise where it is set: its loop may be gone.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop as get_running_loop


class Signal:
    """What one task waits for until any thread sets it; or for so long at most.

    A bare future: there is one for each request that waits.
    """

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def set(self) -> None:
        if get_running_loop() is self._loop:
            self._set()
            return
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:
            pass  # the loop is closed, and the request gone

    def _set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, seconds: float) -> None:
        future = self._future
        timer = self._loop.call_later(max(seconds, 0), self._set)
        try:
            await future
        finally:
            timer.cancel()
            self._future = self._loop.create_future()  # to be waited for again
