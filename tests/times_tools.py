"""Apps and clocks for the programs that compare the figures with what an app did.

Imported by programs that run in a process of their own. A wait lasts for at least what is asked
for, by construction, and the whole for as long as `Span` says.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import sqlalchemy
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from child_tools import call, until
from fastapi_overflow import connections, stats
from fastapi_overflow._watching.pool_stats import pool_stats

LONG = 0.2  # seconds that something lasts whose time is told


def make_engine(connections: int = 1, **options: Any) -> Any:
    """Return an engine with so many connections, taken by whoever asks."""
    engine = sqlalchemy.create_engine(
        "sqlite://",
        poolclass=sqlalchemy.pool.QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"check_same_thread": False},
        **options,
    )
    with engine.connect():
        pass
    return engine


def app_of(**endpoints: Callable[[], Any]) -> Starlette:
    """Return an app with a route for each function, of its name; an async one is awaited."""

    def route(name: str, function: Callable[[], Any]) -> Route:
        async def in_loop(request: Any) -> PlainTextResponse:
            await function()
            return PlainTextResponse("done")

        def in_thread(request: Any) -> PlainTextResponse:
            function()
            return PlainTextResponse("done")

        is_async = inspect.iscoroutinefunction(function)
        return Route(f"/{name}", in_loop if is_async else in_thread)

    return Starlette(routes=[route(name, function) for name, function in endpoints.items()])


def times(path: str) -> dict[str, Any]:
    """Return the figures of a route."""
    found = stats(all_loops=True).as_dict()["routes"]
    return found.get(f"GET {path}", {})


def pool(**what: Any) -> dict[str, Any]:
    """Return the figures of the only pool that is in use."""
    (found,) = pool_stats()
    return found.as_dict()


class Span:
    """How long something took in all."""

    def __enter__(self) -> Span:
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began


@asynccontextmanager
async def waiting(app: Any, path: str, of: Callable[[], Any], what: str) -> AsyncIterator[None]:
    """Have a request made that waits, and go on once it does, for `LONG`, with the block after."""
    async with anyio.create_task_group() as group:
        group.start_soon(call, app, path)
        await until(of, what)
        await anyio.sleep(LONG)
        yield


__all__ = [
    "LONG",
    "Span",
    "app_of",
    "call",
    "connections",
    "make_engine",
    "pool",
    "times",
    "until",
    "waiting",
]
