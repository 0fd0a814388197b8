"""The app as a tutorial has it: sync routes, a session per request.

Served by every contestant that takes the app as it is. It must never know who serves it: what a
contestant needs changed in the app's code is switched by BENCH_ variables, and stands out below.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool

PATCH = os.environ.get("BENCH_PATCH")  # fastapi-overflow 0.1.x: no hook, an explicit call
LIMIT = os.environ.get("BENCH_LIMIT")  # threads
WATCH = os.environ.get("BENCH_WATCH")  # a file, for the timeline
TUNED = json.loads(os.environ.get("BENCH_TUNED", "{}"))  # FastAPI's own `max_concurrency`, by name

if PATCH:
    import fastapi_overflow

    fastapi_overflow.patch()

URL = os.environ["BENCH_DATABASE_URL"]
engine = create_engine(URL, pool_timeout=float(os.environ["BENCH_POOL_TIMEOUT"]))
SessionLocal = sessionmaker(engine)
if URL.startswith("sqlite"):
    QUERY = text("SELECT sleep(0.005)")

    @event.listens_for(engine, "connect")
    def add_sleep(connection: Any, _: Any) -> None:
        connection.create_function("sleep", 1, time.sleep)

else:
    QUERY = text("SELECT pg_sleep(0.005)")


@asynccontextmanager
async def lifespan(app: FastAPI):
    if LIMIT:
        from anyio.to_thread import current_default_thread_limiter

        current_default_thread_limiter().total_tokens = int(LIMIT)
    watching = asyncio.create_task(watch(WATCH)) if WATCH else None
    yield
    if watching:
        watching.cancel()


async def watch(path: str) -> None:
    """Write down, 50 times a second, how many threads are in use and how many hops wait."""
    from anyio.to_thread import current_default_thread_limiter

    limiter = current_default_thread_limiter()
    with open(path, "w") as file:  # noqa: ASYNC230
        while True:
            now = limiter.statistics()
            print(time.time(), now.borrowed_tokens, now.tasks_waiting, file=file, flush=True)
            await asyncio.sleep(0.02)


app = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    id: int
    name: str


def get_db() -> Iterator[Session]:
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


def tuned(name: str) -> dict[str, Any]:
    """Return what the hand-tuned app says beside a dependency; older FastAPIs don't know it."""
    return {"max_concurrency": TUNED[name]} if name in TUNED else {}


DB = Annotated[Session, Depends(get_db, **tuned("one connection"))]
# Each with a limit of its own, for it does something else while it has its connection.
LoopDB = Annotated[Session, Depends(get_db, **tuned("on the loop"))]
FirstDB = Annotated[Session, Depends(get_db, **tuned("two connections"))]


def get_eager_db(db: DB) -> Session:
    # On top of `get_db`, so that the hand-tuned app has one limit for all who share the pool.
    db.connection()
    return db


EagerDB = Annotated[Session, Depends(get_eager_db)]


def get_user(db: DB) -> int:
    db.execute(QUERY)
    return 1


@app.get("/classic", response_model=Item)
def classic(db: DB) -> Any:
    db.execute(QUERY)
    return {"id": 1, "name": "one"}


@app.get("/auth", response_model=Item)
def auth(user: Annotated[int, Depends(get_user)], db: DB) -> Any:
    db.execute(QUERY)
    return {"id": user, "name": "one"}


@app.get("/eager", response_model=Item)
def eager(db: EagerDB) -> Any:
    db.execute(QUERY)
    return {"id": 1, "name": "one"}


@app.get("/pauses", response_model=Item)
async def pauses(db: DB) -> Any:
    await asyncio.sleep(0.002)
    await run_in_threadpool(db.execute, QUERY)
    await asyncio.sleep(0.002)
    await run_in_threadpool(db.execute, QUERY)
    return {"id": 1, "name": "one"}


@app.get("/stream")
def stream(db: DB) -> StreamingResponse:
    def lines() -> Iterator[str]:
        for n in range(4):
            if not n:
                db.execute(QUERY)
            yield f"line {n}\n"

    return StreamingResponse(lines())


@app.get("/plain", response_model=Item)
def plain() -> Any:
    return {"id": 1, "name": "one"}


@app.get("/loop", response_model=Item)
async def loop(db: LoopDB) -> Any:
    db.execute(QUERY)
    return {"id": 1, "name": "one"}


@app.get("/second", response_model=Item)
def second(db: FirstDB) -> Any:
    db.execute(QUERY)
    with SessionLocal() as own:
        own.execute(QUERY)
    return {"id": 1, "name": "one"}


async def one_of_the_slow() -> AsyncIterator[None]:
    """Bear the hand-tuned app's limit: async, so that it takes no thread itself."""
    yield


SLOW = [Depends(one_of_the_slow, **tuned("slow"))] if "slow" in TUNED else []


@app.get("/slow", response_model=Item, dependencies=SLOW)
def slow() -> Any:
    time.sleep(0.1)
    return {"id": 1, "name": "one"}


@app.get("/healthz")
def healthz() -> str:
    return "ok"
