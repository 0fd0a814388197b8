"""The two apps that neighbours watch: a FastAPI and a Starlette one, each with a classic deadlock.

Imported by watched.py once the neighbour is installed, as an app's module would be.
"""

from __future__ import annotations

import contextlib
import os
import threading

import fastapi
from starlette import applications  # neighbours replace the class in there
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

CONNECTIONS = threading.BoundedSemaphore(1)
PATIENCE = float(os.environ["PATIENCE"])  # seconds that a request waits for its connection

# What the endpoints do in their thread; the neighbour makes a span of it.
inside = contextlib.nullcontext


def check_out() -> None:
    if not CONNECTIONS.acquire(timeout=PATIENCE):
        raise TimeoutError("no connection is free")


def connection():
    check_out()
    try:
        yield
    finally:
        CONNECTIONS.release()


def work() -> str:
    with inside():
        return "done"


def make_fastapi():
    app = fastapi.FastAPI()

    @app.get("/work", dependencies=[fastapi.Depends(connection)])
    def sync_route() -> str:
        return work()

    @app.get("/error")
    def error_route() -> str:
        raise ZeroDivisionError(work())

    return app


def make_starlette():
    async def busy(request: Request) -> PlainTextResponse:
        await run_in_threadpool(check_out)
        try:
            return PlainTextResponse(await run_in_threadpool(work))
        finally:
            CONNECTIONS.release()

    def error(request: Request) -> PlainTextResponse:
        raise ZeroDivisionError(work())

    return applications.Starlette(routes=[Route("/work", busy), Route("/error", error)])
