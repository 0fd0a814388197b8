"""The app that soak.py loads: the classic route among many shapes, and what the process is like.

Served by uvicorn. `/resize` and `/idle` are there for the driver; the rest is a user's app.
"""

import asyncio
import gc
import os
import threading
import time
from pathlib import Path
from typing import Annotated

import anyio.to_thread
from fastapi import BackgroundTasks, Depends, FastAPI, UploadFile, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

import fastapi_overflow

# Fifteen connections; pre-ping as the database is restarted on purpose.
engine = create_engine(
    os.environ["DATABASE_URL"],
    pool_pre_ping=True,
    pool_timeout=float(os.environ.get("POOL_TIMEOUT", "30")),
)
app = FastAPI()


def get_db():
    with Session(engine) as session:
        yield session


Db = Annotated[Session, Depends(get_db)]


def get_user(db: Db):
    return db.execute(text("SELECT 1")).scalar_one()


User = Annotated[int, Depends(get_user)]


@app.get("/classic")
def classic(user: User, db: Db) -> dict[str, int]:
    db.execute(text("SELECT pg_sleep(0.002)"))
    return {"user": user}


@app.get("/slow")
def slow(user: User, db: Db) -> dict[str, int]:
    db.execute(text("SELECT pg_sleep(0.1)"))
    return {"user": user}


@app.get("/async")
async def async_with_pauses(user: User, db: Db) -> dict[str, int]:
    for _ in range(3):
        await asyncio.sleep(0.005)
        await run_in_threadpool(db.execute, text("SELECT 1"))
    return {"user": user}


@app.get("/stream")
def stream(user: User, db: Db):
    def rows():
        for row in db.execute(text("SELECT generate_series(1, 10)")):
            time.sleep(0.001)
            yield f"{row[0]}\n" * 100

    return StreamingResponse(rows())


def note(user: int):
    with Session(engine) as session:
        session.execute(text("SELECT 1"))


@app.get("/background")
def background(tasks: BackgroundTasks) -> dict[str, int]:
    # No session of its own: FastAPI keeps that until the task has ended, and fifteen requests that
    # each have a connection and want another wait for each other, whoever gives out threads.
    tasks.add_task(note, 1)
    return {"user": 1}


@app.get("/file")
def file(user: User):
    return FileResponse(Path(__file__))


@app.post("/upload")
async def upload(user: User, file: UploadFile) -> dict[str, int]:
    return {"size": len(await file.read())}


@app.get("/nested")
def nested(user: User, db: Db) -> dict[str, int]:
    async def back_in_the_loop():
        return await run_in_threadpool(db.execute, text("SELECT 1"))

    anyio.from_thread.run(back_in_the_loop)
    return {"user": user}


@app.websocket("/ws")
async def websocket(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.receive_text()
            with Session(engine) as session:
                await run_in_threadpool(session.execute, text("SELECT 1"))
            await socket.send_text("ok")
    except WebSocketDisconnect:
        pass


@app.post("/resize")
async def resize(limit: int) -> None:
    fastapi_overflow.set_thread_limit(limit)


@app.get("/threads")
async def threads() -> int:
    return threading.active_count()


@app.get("/idle")
async def idle() -> dict[str, float]:
    """What is left when nothing is under way but this request."""
    statistics = anyio.to_thread.current_default_thread_limiter().statistics()
    gc.collect()
    resident = Path("/proc/self/statm").read_text().split()[1]  # noqa: ASYNC240 - no disk
    return {
        "patched": fastapi_overflow.patched(),
        "borrowed": statistics.borrowed_tokens,
        "waiting": statistics.tasks_waiting,
        "connections": engine.pool.checkedout(),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "objects": len(gc.get_objects()),
        "megabytes": int(resident) * os.sysconf("SC_PAGE_SIZE") / 2**20,
    }
