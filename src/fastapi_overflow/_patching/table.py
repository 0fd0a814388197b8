"""What is patched: one table.

Read by `points`, which puts it in place, and by `doctor`. Each row has a canary test that the
original still looks as expected, from the oldest to the newest version.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


class Point:
    """A row of the table: what is replaced, by what, and how the original must look.

    :ivar module: whose import puts the row in place
    :ivar attribute: dotted, in `target` or else in `module`
    :ivar wrapper: in `_requests.replacements`, whose docstring says why
    :ivar is_optional: whether an app is protected without the row, which is alone in its module
    """

    # Not a NamedTuple: Python compiles these, at the cost of an import of a module or two.
    __slots__ = ("attribute", "is_kind", "is_optional", "module", "parameters", "target", "wrapper")

    def __init__(  # noqa: PLR0917 - read as columns
        self,
        module: str,
        attribute: str,
        wrapper: str,
        is_kind: Callable[[Any], bool],
        parameters: tuple[str, ...],
        target: str = "",
        is_optional: bool = False,
    ) -> None:
        self.module = module
        self.attribute = attribute
        self.wrapper = wrapper
        self.is_kind = is_kind
        self.parameters = parameters
        self.target = target
        self.is_optional = is_optional

    @property
    def place(self) -> str:
        return f"{self.target or self.module}.{self.attribute}"


# anyio is patched from Starlette's import on, so that a process that merely uses anyio is left
# alone. Its public functions are patched, not its backends: they look the same in anyio 3 and 4.
# (`_requests.handover` touches one, for speed only, and can do without.)
TABLE = (
    Point(
        "starlette.concurrency",
        "current_default_thread_limiter",
        "wrap_current_default_thread_limiter",
        callable,
        (),
        target="anyio.to_thread",
    ),
    Point(
        "starlette.concurrency",
        "run_sync",
        "wrap_run_sync",
        inspect.iscoroutinefunction,
        ("func", "args", "limiter"),
        target="anyio.to_thread",
    ),
    Point(
        "starlette.concurrency",
        "run_in_threadpool",
        "wrap_run_in_threadpool",
        inspect.iscoroutinefunction,
        ("func", "args", "kwargs"),
    ),
    Point(
        "starlette.concurrency",
        "iterate_in_threadpool",
        "wrap_iterate_in_threadpool",
        inspect.isasyncgenfunction,
        ("iterator",),
    ),
    Point(
        "starlette.applications",
        "Starlette.__call__",
        "wrap_starlette_call",
        inspect.iscoroutinefunction,
        ("self", "scope", "receive", "send"),
    ),
    Point(
        "starlette.routing",
        "Route.handle",
        "wrap_route_handle",
        inspect.iscoroutinefunction,
        ("self", "scope", "receive", "send"),
    ),
    Point(
        "starlette.routing",
        "WebSocketRoute.handle",
        "wrap_route_handle",
        inspect.iscoroutinefunction,
        ("self", "scope", "receive", "send"),
    ),
    # Without it the hops of background tasks have right of way as any others.
    Point(
        "starlette.background",
        "BackgroundTask.__call__",
        "wrap_background_task",
        inspect.iscoroutinefunction,
        ("self",),
        is_optional=True,
    ),
    # Starlette's in old versions. New ones don't always call it.
    Point(
        "fastapi.routing",
        "APIRoute.handle",
        "wrap_route_handle",
        inspect.iscoroutinefunction,
        ("self", "scope", "receive", "send"),
    ),
    # The same objects as Starlette's, unless FastAPI was imported before a late patch().
    Point(
        "fastapi.concurrency",
        "run_in_threadpool",
        "wrap_run_in_threadpool",
        inspect.iscoroutinefunction,
        ("func", "args", "kwargs"),
    ),
    Point(
        "fastapi.concurrency",
        "iterate_in_threadpool",
        "wrap_iterate_in_threadpool",
        inspect.isasyncgenfunction,
        ("iterator",),
    ),
)
NEEDED = tuple(
    point for point in TABLE if not (point.is_optional or point.module.startswith("fastapi"))
)
MODULES = tuple(dict.fromkeys(point.module for point in TABLE))
