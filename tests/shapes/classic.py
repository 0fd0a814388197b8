"""FastAPI apps as people write them: sync code with a database, in all the ways there are.

Served by load.py. Every route keeps a connection from one hop to the next.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import anyio
from data import TIMEOUT, Db, Eager, Item, SessionLocal, all_items, first_item
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, UploadFile, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session

app = FastAPI()

PAUSE = 0.005  # seconds: a call of another service


class ItemOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    name: str


# ---- sync routes


@app.get("/session", response_model=list[ItemOut])
def session_dependency(db: Db) -> list[Item]:
    return all_items(db)


@app.get("/eager", response_model=ItemOut)
def eager_connection(connection: Eager) -> dict[str, object]:
    return {"id": 1, "name": first_item(connection)}


def current_user(db: Db) -> str:
    return first_item(db)


User = Annotated[str, Depends(current_user)]


@app.get("/auth", response_model=list[ItemOut])
def auth_dependency(user: User, db: Db) -> list[Item]:
    return all_items(db)


def current_tenant(user: User, db: Db) -> str:
    return user + first_item(db)


def permissions(tenant: Annotated[str, Depends(current_tenant)], db: Db) -> str:
    return tenant + first_item(db)


@app.get("/chain")
def chain_of_dependencies(allowed: Annotated[str, Depends(permissions)], db: Db) -> list[ItemOut]:
    return [ItemOut.model_validate(item) for item in all_items(db)]


class Repository:
    def __init__(self, db: Db) -> None:
        self.name = first_item(db)
        self.db = db


router = APIRouter(dependencies=[Depends(current_user)])


@router.get("/router")
def router_dependency(repository: Annotated[Repository, Depends()]) -> list[ItemOut]:
    return [ItemOut.model_validate(item) for item in all_items(repository.db)]


app.include_router(router)


@app.get("/control/one-hop")
def one_hop() -> str:
    with SessionLocal() as db:
        return first_item(db)


# ---- async routes with sync hops


@app.get("/async")
async def async_endpoint(db: Db) -> str:
    name = await run_in_threadpool(first_item, db)
    items = await run_in_threadpool(all_items, db)
    return f"{name} of {len(items)}"


@app.get("/async/pauses")
async def async_with_pauses(db: Db) -> str:
    await anyio.sleep(PAUSE)
    name = await run_in_threadpool(first_item, db)
    await anyio.sleep(PAUSE)
    items = await run_in_threadpool(all_items, db)
    await anyio.sleep(PAUSE)
    return f"{name} of {await run_in_threadpool(len, items)}"


@app.get("/async/anyio")
async def async_with_anyio(connection: Eager) -> str:
    await anyio.sleep(PAUSE)
    return await anyio.to_thread.run_sync(first_item, connection)


async def slow_token() -> str:
    await anyio.sleep(PAUSE)
    return "token"


@app.get("/async/dependency")
def async_dependency(user: User, token: Annotated[str, Depends(slow_token)], db: Db) -> str:
    return user + token + first_item(db)


@app.get("/async/gather")
async def hops_side_by_side(db: Db, connection: Eager) -> str:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_in_threadpool, first_item, connection)
        tasks.start_soon(run_in_threadpool, len, "abc")
        tasks.start_soon(anyio.sleep, PAUSE)
    return await run_in_threadpool(first_item, connection)


# ---- what goes on after the endpoint


def rows(db: Session) -> Iterator[str]:
    for number in range(5):
        yield f"{number} {first_item(db)}\n"


@app.get("/stream")
def sync_stream(db: Db) -> StreamingResponse:
    return StreamingResponse(rows(db), media_type="text/plain")


def notify() -> None:
    with SessionLocal() as db:
        first_item(db)


@app.get("/background")
def background_task(connection: Eager, tasks: BackgroundTasks) -> str:
    tasks.add_task(first_item, connection)
    tasks.add_task(len, "abc")
    return first_item(connection)


report = Path("report.bin")
report.write_bytes(b"x" * 200_000)


@app.get("/file")
def file(connection: Eager) -> FileResponse:
    first_item(connection)
    return FileResponse(report)


@app.post("/upload")
def upload(data: UploadFile, db: Db, user: User) -> int:
    return len(data.file.read()) + len(first_item(db))


@app.post("/upload/async")
async def async_upload(data: UploadFile, db: Db, user: User) -> int:
    total = 0
    while chunk := await data.read(4096):
        total += len(chunk)
    return total + len(await run_in_threadpool(first_item, db))


# ---- from a thread into the loop and back into a thread


async def fetch(db: Session) -> str:
    return await run_in_threadpool(first_item, db)


@app.get("/nested/one")
def nested_once(db: Db) -> str:
    first_item(db)
    return anyio.from_thread.run(fetch, db)


async def fetch_deeper(db: Session) -> str:
    return await run_in_threadpool(anyio.from_thread.run, fetch, db)


@app.get("/nested/two")
def nested_twice(db: Db) -> str:
    first_item(db)
    return anyio.from_thread.run(fetch_deeper, db)


# ---- WebSocket


@app.websocket("/websocket")
async def websocket(socket: WebSocket, connection: Eager) -> None:
    await socket.accept()
    async for _ in socket.iter_text():
        await socket.send_text(await run_in_threadpool(first_item, connection))


# ---- a resource that is no database

licences = threading.Semaphore(15)


@contextlib.contextmanager
def licence() -> Iterator[None]:
    if not licences.acquire(timeout=TIMEOUT):
        raise TimeoutError("no licence is free")
    try:
        yield
    finally:
        licences.release()


def get_licence() -> Iterator[None]:
    with licence():
        yield


@app.get("/semaphore", dependencies=[Depends(get_licence)])
def semaphore() -> str:
    return "done"


@app.get("/semaphore/async")
async def semaphore_async() -> str:
    if not await run_in_threadpool(licences.acquire, timeout=TIMEOUT):
        raise TimeoutError("no licence is free")
    try:
        await anyio.sleep(PAUSE)
        return await run_in_threadpool(str, "done")
    finally:
        await run_in_threadpool(licences.release)


@app.get("/semaphore/session", dependencies=[Depends(get_licence)])
def semaphore_and_session(user: User, db: Db) -> str:
    return user + first_item(db)


# ---- mounted apps

outer = FastAPI()
outer.mount("/mounted", app)
