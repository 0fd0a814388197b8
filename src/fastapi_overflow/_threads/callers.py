"""Who makes a hop: a request under way, or somebody who can't hold anything yet.

Asked by the pool for every hop. It must keep no task alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

from .lease import Lease


def _nobody() -> None:
    return None


def _reference(task: Any) -> Callable[[], Any]:
    return _nobody if task is None else ref(task)  # a callback of the loop is in none


class Callers:
    """Leases, and the tasks that have hopped outside a lease of their own.

    :param current_task: returns the running task, None in a callback of the loop
    """

    __slots__ = ("_current_task", "_hopped")

    def __init__(self, current_task: Callable[[], Any]) -> None:
        self._current_task = current_task
        # By weak reference. Not a WeakSet: that is Python code, at each look.
        self._hopped: set[ref[Any]] = set()

    def open_lease(self, pool: object, under_way: bool) -> Lease:
        task = self._current_task()
        opener = _nobody if task is None else ref(task)
        return Lease(pool, 1 if under_way or opener in self._hopped else 0, opener)

    def note_closed(self, lease: Lease) -> None:
        """Take note that the task of a lease that has made hops goes on without it."""
        self._remember(lease.opener())

    def depth(self, borrower: object, lease: Lease | None) -> int:
        """Return how many hops were made before this one on behalf of the same caller.

        :param borrower: on asyncio the task itself, on trio something that stands for it
        """
        task = self._current_task()
        if lease is None:
            if self._has_hopped(task):
                return 1
            self._remember(task)
            return 0
        before = lease.task()
        if task is not before:
            # Another task of the request than the last one. What either gets it may keep when the
            # request ends, so it is no newcomer then.
            self._remember(before)
            self._remember(task)
            lease.task = _reference(task)
        return lease.hops

    def _has_hopped(self, task: Any) -> bool:
        return task is not None and ref(task) in self._hopped

    def _remember(self, task: Any) -> None:
        if task is not None:
            self._hopped.add(ref(task, self._hopped.discard))
