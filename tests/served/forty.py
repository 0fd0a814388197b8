"""Forty routes that behave, and with PLANTED=1 four that don't: what test_forty_routes.py loads.

Served by uvicorn, with the database at DATABASE_URL. What the package logs goes to the file at
RECORDS, a line of JSON for each record.
"""

import asyncio
import json
import logging
import os
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(os.environ["DATABASE_URL"])
async_engine = create_async_engine(os.environ["DATABASE_URL"])


class Records(logging.Handler):
    def emit(self, record):
        fields = {
            name: value
            for name, value in vars(record).items()
            if name not in vars(logging.makeLogRecord({}))
        }
        said = {"level": record.levelname, "message": record.getMessage(), **fields}
        with open(os.environ["RECORDS"], "a") as file:
            file.write(json.dumps(said) + "\n")


logging.getLogger("fastapi_overflow").addHandler(Records())
logging.getLogger("fastapi_overflow").setLevel(logging.INFO)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "forty_items"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]


Base.metadata.create_all(engine)

with Session(engine) as at_start:  # as many apps do
    at_start.add_all(Item(kind=kind) for kind in ("orders", "users", "bills", "files"))
    at_start.commit()


def get_db():
    with Session(engine) as session:
        yield session


async def get_async_db():
    async with AsyncSession(async_engine) as session:
        yield session


Db = Annotated[Session, Depends(get_db)]
AsyncDb = Annotated[AsyncSession, Depends(get_async_db)]


def get_user(db: Db) -> int:
    return db.execute(text("select 1")).scalar_one()


User = Annotated[int, Depends(get_user)]


class Repository:
    def __init__(self, session: Session, kind: str) -> None:
        self.session = session
        self.kind = kind

    def all(self) -> list[int]:
        query = select(Item.id).where(Item.kind == self.kind).limit(10)
        return list(self.session.scalars(query))


def note(kind: str) -> None:
    with Session(engine) as session:
        session.execute(select(func.count(Item.id)).where(Item.kind == kind))


def routes_of(kind: str) -> APIRouter:  # ten of each
    router = APIRouter(prefix=f"/{kind}")

    @router.get("/list")
    def list_all(user: User, db: Db) -> list[int]:
        return Repository(db, kind).all()

    @router.get("/count")
    def count(db: Db) -> int:
        return db.query(Item).filter_by(kind=kind).count()

    @router.get("/create")
    def create(db: Db) -> int:
        item = Item(kind=kind)
        db.add(item)
        db.flush()
        number = item.id
        db.rollback()
        return number

    @router.get("/slow")
    def slow(user: User, db: Db) -> int:
        db.execute(text("select pg_sleep(0.02)"))
        return user

    @router.get("/async")
    async def async_with_hops(user: User, db: Db) -> list[int]:
        await asyncio.sleep(0)
        return await run_in_threadpool(Repository(db, kind).all)

    @router.get("/async-engine")
    async def with_async_engine(db: AsyncDb) -> int:
        return (await db.execute(select(func.count(Item.id)))).scalar_one()

    @router.get("/executor")
    async def executor() -> list[int]:
        def work() -> list[int]:
            with Session(engine) as session:
                return Repository(session, kind).all()

        return await asyncio.to_thread(work)

    @router.get("/export")
    def export(db: Db):
        ids = Repository(db, kind).all()
        db.close()  # before the response is sent

        async def rows():
            for number in ids:
                await asyncio.sleep(0.01)
                yield f"{number}\n"

        return StreamingResponse(rows())

    @router.get("/background")
    def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(note, kind)
        return kind

    @router.websocket("/socket")
    async def socket(websocket: WebSocket):
        await websocket.accept()
        try:
            while True:
                await websocket.receive_text()
                await run_in_threadpool(note, kind)  # a session for each message
                await websocket.send_text(kind)
        except WebSocketDisconnect:
            pass

    return router


app = FastAPI()
for each in ("orders", "users", "bills", "files"):
    app.include_router(routes_of(each))


@app.get("/health")
async def health() -> str:
    return "ok"


if os.environ.get("PLANTED"):
    forgotten = []

    @app.get("/planted/leak")
    def leak() -> None:
        session = Session(engine)
        session.execute(text("select 1"))  # planted: leak
        forgotten.append(session)

    @app.get("/planted/stream")
    async def stream(db: Db):
        def first_row():
            return db.execute(text("select 1")).scalar_one()  # planted: stream

        async def rows():
            yield str(await run_in_threadpool(first_row))
            await asyncio.sleep(4)
            yield "end"

        return StreamingResponse(rows())

    @app.get("/planted/nested")
    def nested(db: Db) -> None:
        db.execute(text("select 1"))  # planted: nested, the first
        with Session(engine) as session:
            session.execute(text("select 1"))  # planted: nested, the second

    @app.get("/planted/loop")
    async def on_the_loop(db: Db) -> None:
        db.execute(text("select pg_sleep(0.02)"))  # planted: loop
