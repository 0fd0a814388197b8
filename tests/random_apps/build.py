"""A FastAPI app as described: see draw.py.

Imported by load.py, in a process of its own. What it does must be what the description says, and
nothing else: no look at the pool, no limit of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import anyio.from_thread
from draw import App, Dependency, Middleware, Route, Step
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, computed_field
from sqlalchemy import Engine, QueuePool, create_engine, text
from sqlalchemy.orm import Session
from starlette.middleware.base import BaseHTTPMiddleware

POOL_TIMEOUT = 3.0  # seconds

SELECT = text("select 1")

# What the tail of each route answers, where it is a stream.
STREAM = b"11"


def build(app: App, folder: Path) -> FastAPI:
    """Return the app, with its database in a folder."""
    engine = create_engine(
        f"sqlite:///{folder / 'app.db'}",
        poolclass=QueuePool,
        pool_size=app.pool_size,
        max_overflow=app.max_overflow,
        pool_timeout=POOL_TIMEOUT,
        connect_args={"check_same_thread": False},
    )
    api = FastAPI()
    for n, route in enumerate(app.routes):
        _add_route(api, f"/{n}", route, engine)
    if app.middleware is not None:
        _add_middleware(api, app.middleware, engine)
    return api


def query(session: Any) -> int:
    return int(session.execute(SELECT).scalar_one())


def query_own(engine: Engine) -> int:
    with Session(engine) as session:
        return query(session)


# ---- steps


class Code:
    """Runs steps, for one request.

    :param given: what the dependencies have yielded
    """

    def __init__(self, engine: Engine, given: Sequence[Any]) -> None:
        self.engine = engine
        self.given = given

    def in_thread(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            if step.kind == "pause":
                time.sleep(step.ms / 1000)
            elif step.kind == "own":
                with Session(self.engine) as session:
                    query(session)
                    for within in step.within:
                        self.in_thread(within)
            elif step.kind == "loop":
                anyio.from_thread.run(self.on_loop, step.within[0])
            else:
                self.with_given(step)

    async def on_loop(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            if step.kind == "pause":
                await asyncio.sleep(step.ms / 1000)
            elif step.kind == "own":
                with Session(self.engine) as session:
                    query(session)
                    for within in step.within:
                        await self.on_loop(within)
            elif step.kind == "to_thread":
                await asyncio.to_thread(self.in_thread, step.within[0])
            elif step.kind in ("hop", "gather"):
                hops = [run_in_threadpool(self.in_thread, within) for within in step.within]
                await asyncio.gather(*hops)
            else:
                self.with_given(step)

    def with_given(self, step: Step) -> None:
        given = self.given[step.of]
        {"query": query, "commit": type(given).commit, "close": type(given).close}[step.kind](given)


# ---- routes


def _dependency(dependency: Dependency, engine: Engine) -> Callable[..., Any]:
    def open_it() -> Any:
        if dependency.kind == "connection":
            return engine.connect()
        session = Session(engine)
        if dependency.kind == "querying session":
            query(session)
        return session

    def sync_dependency() -> Iterator[Any]:
        given = open_it()
        try:
            yield given
        finally:
            given.close()

    async def async_dependency() -> AsyncIterator[Any]:
        given = open_it()
        try:
            yield given
        finally:
            given.close()

    return async_dependency if dependency.is_async else sync_dependency


def _add_route(api: FastAPI, path: str, route: Route, engine: Engine) -> None:
    def sync_endpoint(**given: Any) -> Any:
        Code(engine, tuple(given.values())).in_thread(route.steps)
        return _answer(route.tail, engine)

    async def async_endpoint(**given: Any) -> Any:
        await Code(engine, tuple(given.values())).on_loop(route.steps)
        return _answer(route.tail, engine)

    endpoint: Any = async_endpoint if route.is_async else sync_endpoint
    endpoint.__signature__ = Signature(
        [
            Parameter(f"d{n}", Parameter.KEYWORD_ONLY, default=Depends(_dependency(each, engine)))
            for n, each in enumerate(route.dependencies)
        ]
    )
    model = _model(engine) if route.tail == "response model" else None
    api.get(path, response_model=model)(endpoint)


def _model(engine: Engine) -> type[BaseModel]:
    class Answer(BaseModel):
        value: int

        @computed_field  # type: ignore[prop-decorator]
        @property
        def computed(self) -> int:
            return query_own(engine)

    return Answer


def _answer(tail: str, engine: Engine) -> Any:
    if tail == "sync stream":
        return StreamingResponse(_sync_stream(engine))
    if tail == "async stream":
        return StreamingResponse(_async_stream(engine))
    if tail.endswith("background"):
        tasks = BackgroundTasks()
        tasks.add_task(query_own if tail.startswith("sync") else _query_on_loop, engine)
        return JSONResponse({"value": 1}, background=tasks)
    return {"value": 1}


async def _query_on_loop(engine: Engine) -> None:
    query_own(engine)


def _sync_stream(engine: Engine) -> Iterator[str]:
    with Session(engine) as session:
        for _ in range(len(STREAM)):
            yield str(query(session))


async def _async_stream(engine: Engine) -> AsyncIterator[str]:
    with Session(engine) as session:
        for _ in range(len(STREAM)):
            yield str(query(session))
            await asyncio.sleep(0.001)


# ---- middleware


def _add_middleware(api: FastAPI, middleware: Middleware, engine: Engine) -> None:
    async def beside(go_on: Callable[[], Any]) -> Any:
        session = Session(engine)
        try:
            if middleware.hops:
                await run_in_threadpool(query, session)
            else:
                query(session)
            if not middleware.keeps:
                session.close()
            return await go_on()
        finally:
            session.close()

    class OfStarlette(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            return await beside(lambda: call_next(request))

    class Pure:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await beside(lambda: self.app(scope, receive, send))

    api.add_middleware(OfStarlette if middleware.style == "BaseHTTPMiddleware" else Pure)
