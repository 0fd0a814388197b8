"""Apps with something around them, and apps without FastAPI's routing.

Served by load.py. Each layer may keep a connection while what is inside makes its hops.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from classic import PAUSE, app, rows
from data import SessionLocal, engine, first_item
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

Next = Callable[[Request], Awaitable[Response]]


class Timing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        response.headers["x-timing"] = "1"
        return response


class SessionPerRequest(BaseHTTPMiddleware):
    """Takes a connection in a hop of its own before the route, gives it back after."""

    async def dispatch(self, request: Request, call_next: Next) -> Response:
        request.state.connection = await run_in_threadpool(engine.connect)
        try:
            return await call_next(request)
        finally:
            await run_in_threadpool(request.state.connection.close)


class ConnectionAround:
    """Plain ASGI: the same, around whatever it is given."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        scope["connection"] = await run_in_threadpool(engine.connect)
        try:
            await self.app(scope, receive, send)
        finally:
            await run_in_threadpool(scope["connection"].close)


def sync_route(request: Request) -> Response:
    return PlainTextResponse(first_item(request["connection"]))


def state_route(request: Request) -> Response:
    return PlainTextResponse(first_item(request.state.connection))


async def async_route(request: Request) -> Response:
    await anyio.sleep(PAUSE)
    return PlainTextResponse(await run_in_threadpool(first_item, request["connection"]))


def one_hop(request: Request) -> Response:
    with engine.connect() as connection:
        return PlainTextResponse(first_item(connection))


async def own_connection(request: Request) -> Response:
    connection = await run_in_threadpool(engine.connect)
    try:
        return PlainTextResponse(await run_in_threadpool(first_item, connection))
    finally:
        await run_in_threadpool(connection.close)


async def stream(request: Request) -> Response:
    db = SessionLocal()
    return StreamingResponse(rows(db), background=BackgroundTask(db.close))


def task_after(request: Request) -> Response:
    connection = engine.connect()
    name = first_item(connection)
    return PlainTextResponse(name, background=BackgroundTask(connection.close))


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    connection = await run_in_threadpool(engine.connect)
    try:
        async for _ in socket.iter_text():
            await socket.send_text(await run_in_threadpool(first_item, connection))
    finally:
        await run_in_threadpool(connection.close)


files = StaticFiles(directory=".")

bare = Starlette(
    routes=[
        Route("/one-hop", one_hop),
        Route("/own", own_connection),
        Route("/stream", stream),
        Route("/task", task_after),
        WebSocketRoute("/websocket", talk),
        Mount("/mounted", app),
    ]
)

# Inside the app.
timed = FastAPI()
timed.add_middleware(Timing)
timed.mount("", app)

per_request = FastAPI()
per_request.add_middleware(SessionPerRequest)
per_request.add_middleware(Timing)
per_request.add_route("/", state_route)

inside = Starlette(
    routes=[Route("/sync", sync_route), Route("/async", async_route), Mount("/files", files)],
    middleware=[Middleware(ConnectionAround)],
)

# Around the app.
around = ConnectionAround(
    Starlette(
        routes=[Route("/sync", sync_route), Route("/async", async_route), Mount("/files", files)]
    )
)
