"""What the tasks of requests are at: which runs on its event loop, and what the others wait for.

Asked by those who look, in any thread. It must wait for nothing, and keep no task alive.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextvars import Context
from typing import Any

from .._requests.awaiting import frames_of
from .._requests.code_owner import module_of
from .._requests.lease_of_request import current_lease


class Tasks:
    """The tasks of each request, looked up once, when somebody asks."""

    def __init__(self) -> None:
        self._by_loop: dict[int, dict[int, list[Any]]] = {}

    def run_on_loop(self, lease: Any) -> bool:
        """Tell whether the task that runs on the request's event loop right now is the request's.

        Of asyncio's loops and those that use its tasks.
        """
        loop = lease.pool.loop
        try:
            task = None if loop is None else asyncio.current_task(loop)
        except Exception:
            return False  # another kind of loop
        return task is not None and (task is lease.opener() or _lease_of(task) is lease)

    def wait_in(self, lease: Any, package: str) -> bool:
        """Tell whether a task of the request awaits something in this package."""
        return any(
            module == package or module.startswith(f"{package}.")
            for task in self._of(lease)
            for module in _modules(task)
        )

    def _of(self, lease: Any) -> list[Any]:
        loop = lease.pool.loop
        if loop is None:
            return []
        found = self._by_loop.get(id(loop))
        if found is None:
            found = self._by_loop[id(loop)] = {}
            try:
                tasks = asyncio.all_tasks(loop)
            except Exception:
                tasks = set()  # they come and go too fast
            for task in tasks:
                owner = _lease_of(task)
                if owner is not None:
                    found.setdefault(id(owner), []).append(task)
        return found.get(id(lease), [])


def _lease_of(task: Any) -> Any:
    try:
        return task.get_context().get(current_lease)  # from Python 3.12 on
    except AttributeError:
        contexts = (each for each in gc.get_referents(task) if type(each) is Context)
        return next((context.get(current_lease) for context in contexts), None)


def _modules(task: Any) -> Iterator[str]:
    """Return the modules of what a task awaits, from its own coroutine inwards."""
    return map(module_of, frames_of(task))
