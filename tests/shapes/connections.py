"""Apps whose requests take their connections where nobody can wait, or more than one of them.

Served by load.py. What they query on the event loop, or in a session of their own while another one
is open, is what people write who don't think of the pool.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from classic import PAUSE, ItemOut, notify
from data import Db, Eager, Item, SessionLocal, engine, first_item, get_db
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.concurrency import run_in_threadpool
from layered import ConnectionAround, Next, SessionPerRequest
from pydantic import ConfigDict, computed_field
from sqlalchemy import text
from sqlalchemy.orm import Session
from starlette.middleware.base import BaseHTTPMiddleware

app = FastAPI()


# ---- an async endpoint that queries on the event loop


@app.get("/loop/dependency")
async def session_of_a_sync_dependency(db: Db) -> str:
    """It is kept until the dependency is left: a hop."""
    return first_item(db)


@app.get("/loop/dependency/await")
async def kept_across_an_await(db: Db) -> str:
    name = first_item(db)
    await anyio.sleep(PAUSE)
    return name + first_item(db)


async def get_db_async() -> AsyncIterator[Session]:
    with SessionLocal() as db:
        yield db


AsyncDb = Annotated[Session, Depends(get_db_async)]


@app.get("/loop/async-dependency")
async def session_of_an_async_dependency(db: AsyncDb) -> str:
    return first_item(db)


@app.get("/loop/async-dependency/await")
async def session_of_an_async_dependency_kept(db: AsyncDb) -> str:
    name = first_item(db)
    await anyio.sleep(PAUSE)
    return name + first_item(db)


@app.get("/loop/own")
async def own_session() -> str:
    """It is given back before anything else can run: alone it works."""
    with SessionLocal() as db:
        return first_item(db)


@app.get("/loop/own/await")
async def own_session_kept() -> str:
    with SessionLocal() as db:
        name = first_item(db)
        await anyio.sleep(PAUSE)
        return name + first_item(db)


async def async_user(db: Db) -> str:
    return first_item(db)


@app.get("/loop/user")
def async_dependency_that_queries(user: Annotated[str, Depends(async_user)], db: Db) -> str:
    return user + first_item(db)


@app.get("/loop/hop")
async def query_and_a_hop(db: Db) -> str:
    name = first_item(db)
    return name + await run_in_threadpool(first_item, db)


@app.get("/loop/late")
async def late_query(db: Db) -> str:
    await anyio.sleep(1)
    name = first_item(db)
    await anyio.sleep(PAUSE)
    return name


# ---- asyncio's threads


@app.get("/to-thread")
async def to_thread(db: Db) -> str:
    name = await asyncio.to_thread(first_item, db)
    return name + await asyncio.to_thread(first_item, db)


# ---- a second session while the first is open


@app.get("/second")
def second_in_the_endpoint(db: Db) -> str:
    name = first_item(db)
    with SessionLocal() as own:
        return name + first_item(own)


@app.get("/second/loop")
async def second_on_the_loop(db: Db) -> str:
    name = first_item(db)
    with SessionLocal() as own:
        return name + first_item(own)


@app.get("/second/task")
def second_in_a_background_task(db: Db, tasks: BackgroundTasks) -> str:
    tasks.add_task(notify)
    return first_item(db)


def audit(db: Annotated[Session, Depends(get_db, use_cache=False)]) -> str:
    return first_item(db)


@app.get("/second/dependency")
def second_in_a_dependency(audited: Annotated[str, Depends(audit)], db: Db) -> str:
    return audited + first_item(db)


class ItemWithOwner(ItemOut):
    model_config = ConfigDict(from_attributes=True)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def owner(self) -> str:
        """FastAPI asks for it on the event loop, with the request's session still open."""
        with SessionLocal() as db:
            return first_item(db)


@app.get("/second/field", response_model=ItemWithOwner)
def second_in_a_computed_field(db: Db) -> Item:
    item = db.get(Item, 1)
    assert item is not None
    return item


# ---- WebSocket


@app.websocket("/websocket")
async def websocket(socket: WebSocket, db: Db) -> None:
    await socket.accept()
    async for _ in socket.iter_text():
        await socket.send_text(first_item(db))


# ---- a session beside the connection of a middleware

own = APIRouter()


@own.get("/")
def own_beside_the_middleware() -> str:
    with SessionLocal() as db:
        return first_item(db)


per_request = FastAPI()
per_request.add_middleware(SessionPerRequest)
per_request.include_router(own, prefix="/own")

inside = FastAPI()
inside.add_middleware(ConnectionAround)
inside.include_router(own, prefix="/own")

_inner = FastAPI()
_inner.include_router(own, prefix="/own")
around = ConnectionAround(_inner)


# ---- a middleware that makes a session on the loop, which the endpoint uses


class SessionOnLoop(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Next) -> Any:
        with SessionLocal() as db:
            request.state.db = db
            return await call_next(request)


def session_of_request(request: Request) -> Session:
    db: Session = request.state.db
    first_item(db)
    return db


RequestDb = Annotated[Session, Depends(session_of_request)]

on_loop = FastAPI()
on_loop.add_middleware(SessionOnLoop)


@on_loop.get("/sync")
def session_of_the_middleware(db: RequestDb) -> str:
    return first_item(db)


@on_loop.get("/async")
async def session_of_the_middleware_on_the_loop(request: Request) -> str:
    return first_item(request.state.db)


# ---- a middleware that takes a connection on the loop, before any route is known


class Inspection:
    """Plain ASGI: looks whether the database is there, with each request."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        await self.app(scope, receive, send)


class ConnectionOnLoop(Inspection):
    """Plain ASGI: keeps a connection for the whole request."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        with engine.connect() as connection:
            scope["connection"] = connection
            await self.app(scope, receive, send)


routes = APIRouter()


@routes.get("/session")
def session_dependency(db: Db) -> str:
    return first_item(db)


@routes.get("/eager")
def eager_connection(connection: Eager) -> str:
    return first_item(connection)


@routes.get("/shared")
def connection_of_the_middleware(request: Request) -> str:
    return first_item(request["connection"])


inspected = FastAPI()
inspected.add_middleware(Inspection)
inspected.include_router(routes)

whole = FastAPI()
whole.add_middleware(ConnectionOnLoop)
whole.include_router(routes)
