"""Patience: how long the first hops of requests wait until they are turned away.

Called by the pool for first hops that wait, where an operator has asked for it. It must cost the
same however many wait: there is one timer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import ref

from .lease import Waiter

if TYPE_CHECKING:
    from .clock import Clock


def _waits(waiter: Waiter | None) -> bool:
    return waiter is not None and waiter.waiting


class Patience:
    """Those whose time runs, the oldest first.

    Who has left the queue leaves a stale entry until its time is up, or until there are more of
    these than of the others. It keeps nobody alive: a waiter leads to its task, that to its loop.

    :param refuse: called for each whose time is up while it waits
    """

    __slots__ = ("_clock", "_entries", "_is_timed", "_limit", "_refuse", "seconds")

    def __init__(self, seconds: float, clock: Clock, refuse: Callable[[Waiter], None]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._refuse = refuse
        self._entries: deque[tuple[float, ref[Waiter]]] = deque()  # when the time is up
        self._limit = 16  # entries, from which on stale ones are looked for
        self._is_timed = False

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, waiter: Waiter) -> None:
        self._entries.append((self._clock.time() + self.seconds, ref(waiter)))
        if len(self._entries) > self._limit:
            self._entries = deque(entry for entry in self._entries if _waits(entry[1]()))
            self._limit = 2 * len(self._entries) + 16
        self._set_timer()

    def _set_timer(self) -> None:
        if self._entries and not self._is_timed:
            self._is_timed = True
            self._clock.call_later(self._entries[0][0] - self._clock.time(), self._on_time)

    def _on_time(self) -> None:
        self._is_timed = False
        now = self._clock.time()
        entries = self._entries
        try:
            while entries:
                waiter = entries[0][1]()
                if _waits(waiter) and entries[0][0] > now:
                    break
                entries.popleft()
                if waiter is not None and waiter.waiting:
                    self._refuse(waiter)
        finally:
            self._set_timer()
