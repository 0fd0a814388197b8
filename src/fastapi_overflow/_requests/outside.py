"""Tasks that make hops outside of any request, as a middleware around the app does.

Asked where they make one, and where what they have is looked for. It must never keep a task alive.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any
from weakref import ref

from .._connections.holder import Holder
from .._connections.route_habits import RouteHabits


class Outside:
    """A task that makes hops outside of any request.

    What it takes and what the request takes that it calls the app for are one holder's.
    """

    __slots__ = ("_task", "holder")

    def __init__(self, task: Any) -> None:
        self._task = ref(task)
        self.holder = Holder(None, habits_outside)

    def is_of(self, task: Any) -> bool:
        return self._task() is task


def note_hop_outside(task: Any) -> None:
    """Take note of a task that makes a hop outside of any request."""
    outside = current_outside.get()
    if outside is None or not outside.is_of(task):
        current_outside.set(Outside(task))


current_outside: ContextVar[Outside | None] = ContextVar("fastapi_overflow_outside", default=None)
habits_outside = RouteHabits()
