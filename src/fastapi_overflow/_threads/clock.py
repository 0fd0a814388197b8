"""What the limiter needs of an event loop, on asyncio (uvloop too) and on trio.

Made with each limiter, inside its loop; called from that loop's thread only. It must never keep the
loop alive, and what it schedules must not keep the caller's context alive.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, cast
from weakref import ref

# Of no use at run time, and a protocol takes long to make at the import of Starlette.
if TYPE_CHECKING:

    class WakeUp(Protocol):
        """What a waiter awaits, once, until another task sets it: a part of a future."""

        def __await__(self) -> Generator[Any, Any, Any]: ...

        def done(self) -> bool: ...

        def set_result(self, result: None, /) -> None: ...

    class Clock(Protocol):
        """Turns, timers and the current task of one event loop."""

        def is_running_here(self) -> bool:
            """Tell whether this loop runs in this thread, as far as is cheap to know."""

        def current_task(self) -> Any: ...

        def loop(self) -> Any:
            """Return the asyncio loop, None on trio or when the loop is gone."""

        def is_over(self) -> bool:
            """Tell, in any thread, whether the loop is known to be closed."""

        def call_soon(self, callback: Callable[[], None]) -> None:
            """Call back in the loop's next turn."""

        def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
            """The same from any thread; not at all once the loop is closed."""

        def is_in_task(self, task: Any) -> bool:
            """Tell whether this thread is in the middle of `task`, which is not None."""

        def call_later(self, seconds: float, callback: Callable[[], None]) -> None: ...

        def time(self) -> float:
            """Return the seconds that `call_later` counts in."""

        def wake_up(self) -> WakeUp: ...


class AsyncioClock:
    __slots__ = ("_context", "_loop", "current_task")

    def __init__(self) -> None:
        # Weak: the limiter is a value in a table whose weak key is the loop.
        self._loop = ref(asyncio.get_running_loop())
        # Empty: a handle keeps its context alive, the caller's with all of the request in it. One
        # per loop: a context can't be entered twice, and two loops may run in two threads.
        self._context = Context()
        self.current_task = asyncio.current_task

    def loop(self) -> Any:
        return self._loop()

    def is_over(self) -> bool:
        loop = self._loop()
        return loop is None or loop.is_closed()

    def is_running_here(self) -> bool:
        # Not None: under trio no asyncio loop runs, and ours may be gone.
        return (loop := self._loop()) is not None and loop is asyncio._get_running_loop()

    def call_soon(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback, context=self._context)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(callback, context=Context())
        except RuntimeError:
            pass  # it is closed

    def is_in_task(self, task: Any) -> bool:
        try:
            return task is not None and self.current_task() is task
        except RuntimeError:
            return False  # no loop in this thread

    def time(self) -> float:
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, callback, context=self._context)

    def wake_up(self) -> WakeUp:
        # A bare future: anyio's Event is one in two wrappers, at several times the cost.
        return asyncio.get_running_loop().create_future()


class _TrioWakeUp:
    __slots__ = ("_event",)

    def __init__(self, event: Any) -> None:
        self._event = event

    def __await__(self) -> Generator[Any, Any, Any]:
        return cast("Generator[Any, Any, Any]", self._event.wait().__await__())

    def done(self) -> bool:
        return False  # a cancelled waiter's event may still be set

    def set_result(self, result: None, /) -> None:
        self._event.set()


class TrioClock:
    __slots__ = ("_token", "_trio", "current_task")

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        # Weak, as the asyncio loop: anyio's table of runs has the token as its weak key.
        self._token = ref(trio.lowlevel.current_trio_token())
        self.current_task = trio.lowlevel.current_task

    def loop(self) -> Any:
        return None

    def is_over(self) -> bool:
        token = self._token()
        try:
            if token is not None:
                token.run_sync_soon(bool, idempotent=True)  # nothing, but refused after the end
                return False
        except self._trio.RunFinishedError:
            pass
        return True

    def is_running_here(self) -> bool:
        return False  # never cheap: anyio's own look-up it is

    def call_soon(self, callback: Callable[[], None]) -> None:
        # The entry queue: trio has no other way to run a function once per turn.
        self._trio.lowlevel.current_trio_token().run_sync_soon(callback)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        token = self._token()
        try:
            if token is not None:
                token.run_sync_soon(callback)
        except self._trio.RunFinishedError:
            pass

    def is_in_task(self, task: Any) -> bool:
        try:
            return task is not None and self._trio.lowlevel.current_task() is task
        except RuntimeError:
            return False  # no run in this thread

    def time(self) -> float:
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        async def fastapi_overflow_timer() -> None:
            await self._trio.sleep(seconds)
            callback()

        # A system task has an empty context, and the end of the run cancels it.
        self._trio.lowlevel.spawn_system_task(fastapi_overflow_timer, context=Context())

    def wake_up(self) -> WakeUp:
        return _TrioWakeUp(self._trio.Event())


def current_clock() -> Clock:
    """Return a clock for the event loop that runs in this thread."""
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            pass  # loaded, but not what runs here
        else:
            return cast("Clock", TrioClock(trio))
    return AsyncioClock()
