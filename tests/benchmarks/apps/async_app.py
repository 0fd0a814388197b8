"""The same routes rewritten async, with SQLAlchemy's async engine: no worker threads.

Served by the contestant `async`. It must answer what `sync_app` answers, to the same queries.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

engine = create_async_engine(
    os.environ["BENCH_DATABASE_URL"], pool_timeout=float(os.environ["BENCH_POOL_TIMEOUT"])
)
SessionLocal = async_sessionmaker(engine)
QUERY = text("SELECT pg_sleep(0.005)")

app = FastAPI()


class Item(BaseModel):
    id: int
    name: str


async def get_db() -> AsyncIterator[AsyncSession]:
    async with SessionLocal() as db:
        yield db


DB = Annotated[AsyncSession, Depends(get_db)]


async def get_eager_db(db: DB) -> AsyncSession:
    await db.connection()
    return db


EagerDB = Annotated[AsyncSession, Depends(get_eager_db)]


async def get_user(db: DB) -> int:
    await db.execute(QUERY)
    return 1


@app.get("/classic", response_model=Item)
async def classic(db: DB) -> Any:
    await db.execute(QUERY)
    return {"id": 1, "name": "one"}


@app.get("/auth", response_model=Item)
async def auth(user: Annotated[int, Depends(get_user)], db: DB) -> Any:
    await db.execute(QUERY)
    return {"id": user, "name": "one"}


@app.get("/eager", response_model=Item)
async def eager(db: EagerDB) -> Any:
    await db.execute(QUERY)
    return {"id": 1, "name": "one"}


@app.get("/pauses", response_model=Item)
async def pauses(db: DB) -> Any:
    await asyncio.sleep(0.002)
    await db.execute(QUERY)
    await asyncio.sleep(0.002)
    await db.execute(QUERY)
    return {"id": 1, "name": "one"}


@app.get("/stream")
async def stream(db: DB) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for n in range(4):
            if not n:
                await db.execute(QUERY)
            yield f"line {n}\n"

    return StreamingResponse(lines())


@app.get("/plain", response_model=Item)
async def plain() -> Any:
    return {"id": 1, "name": "one"}


@app.get("/loop", response_model=Item)
async def loop(db: DB) -> Any:
    await db.execute(QUERY)
    return {"id": 1, "name": "one"}


@app.get("/second", response_model=Item)
async def second(db: DB) -> Any:
    await db.execute(QUERY)
    async with SessionLocal() as own:
        await own.execute(QUERY)
    return {"id": 1, "name": "one"}


@app.get("/slow", response_model=Item)
async def slow() -> Any:
    await asyncio.sleep(0.1)
    return {"id": 1, "name": "one"}


@app.get("/healthz")
async def healthz() -> str:
    return "ok"
