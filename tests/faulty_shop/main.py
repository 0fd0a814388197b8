# ruff: noqa: B008 - Depends is how FastAPI is told
"""The shop: forty routes in four routers."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from .db import SessionDep, SessionLocal, get_archive, get_audit_db, get_db, get_settings


def current_user(db: SessionDep, token: str = "") -> dict[str, str]:
    return {"name": db.scalar(text("select 1")), "token": token}


async def page(limit: int = 20, offset: int = 0) -> tuple[int, int]:
    return limit, offset


class Orders:
    """A service that keeps a session."""

    def __init__(self, db: SessionDep) -> None:
        self.db = db

    def all(self):
        return self.db.execute(select(1)).all()


User = Annotated[dict[str, str], Depends(current_user)]
app = FastAPI(openapi_url=None)


orders = APIRouter(prefix="/orders")


@orders.get("/")
def list_orders(db: SessionDep, user: User):
    return db.execute(text("select 1")).all()


@orders.post("/")
def make_order(db: SessionDep, user: User):
    db.execute(text("select 1"))


@orders.get("/{number}")
def read_order(number: int, db: SessionDep):
    return db.scalar(text("select 1"))


@orders.put("/{number}")
def change_order(number: int, db: SessionDep):
    db.commit()


@orders.delete("/{number}")
def drop_order(number: int, db: SessionDep):
    db.rollback()


@orders.get("/{number}/lines")
def list_lines(number: int, orders: Orders = Depends()):
    return orders.all()


@orders.post("/{number}/lines")
def add_line(number: int, orders: Orders = Depends()):
    return orders.all()


@orders.get("/{number}/bill")
def read_bill(number: int, archive: Session = Depends(get_archive)):
    return archive.scalar(text("select 1"))


@orders.get("/{number}/history")
def read_history(number: int, db: SessionDep, archive: Session = Depends(get_archive)):
    return db.scalar(text("select 1")), archive.scalar(text("select 1"))


@orders.post("/{number}/mail")
def mail_order(number: int, tasks: BackgroundTasks, db: SessionDep):
    tasks.add_task(print, db.scalar(text("select 1")))


users = APIRouter(prefix="/users")


@users.get("/")
async def list_users(user: User, at: Annotated[tuple[int, int], Depends(page)]):
    return at


@users.get("/me")
async def read_me(user: User):
    return user


@users.get("/settings")
async def read_settings(settings=Depends(get_settings)):
    return settings


@users.get("/slow")
async def wait_a_bit(user: User):
    await asyncio.sleep(0.1)


@users.get("/away")
async def query_away(user: User, db: SessionDep):
    return await run_in_threadpool(db.scalar, text("select 1"))


@users.get("/thread")
async def query_in_thread(db: SessionDep):
    return await asyncio.to_thread(lambda: db.scalar(text("select 1")))


@users.post("/")
async def make_user(user: User):
    return user


@users.get("/{number}")
async def read_user(number: int, db: SessionDep):  # fault
    return db.scalar(text("select 1"))


@users.get("/{number}/orders")
def read_orders_of(number: int, db: SessionDep):
    return db.scalar(text("select 1"))


@users.delete("/{number}")
def drop_user(number: int, db: SessionDep):
    db.commit()


reports = APIRouter(prefix="/reports")


@reports.get("/audit")
def read_audit(db: SessionDep, log: Session = Depends(get_audit_db)):  # fault
    return db.scalar(text("select 1")), log.scalar(text("select 1"))


@reports.get("/export")
def export_all(db: SessionDep) -> StreamingResponse:  # fault
    return StreamingResponse(str(row) for row in db.execute(text("select 1")))


@reports.get("/export-closed")
def export_closed(db: SessionDep) -> StreamingResponse:
    rows = db.execute(text("select 1")).all()
    db.close()
    return StreamingResponse(map(str, rows))


@reports.get("/export-scoped")
def export_scoped(db: Session = Depends(get_db, scope="function")):
    rows = db.execute(text("select 1")).all()
    return StreamingResponse(map(str, rows))


@reports.get("/numbers")
def stream_numbers() -> StreamingResponse:
    return StreamingResponse(map(str, range(9)))


@reports.get("/sum-0")
def sum_0(db: SessionDep):
    return db.scalar(text("select 0"))


@reports.get("/sum-1")
def sum_1(db: SessionDep):
    return db.scalar(text("select 1"))


@reports.get("/sum-2")
def sum_2(db: SessionDep):
    return db.scalar(text("select 2"))


@reports.get("/sum-3")
def sum_3(db: SessionDep):
    return db.scalar(text("select 3"))


@reports.get("/sum-4")
def sum_4(db: SessionDep):
    return db.scalar(text("select 4"))


live = APIRouter(prefix="/live")


@live.websocket("/feed")
async def feed(websocket: WebSocket, db: SessionDep):  # fault
    await websocket.accept()
    while True:
        await websocket.send_json(db.scalar(text("select 1")))


@live.websocket("/news")
async def news(websocket: WebSocket, settings=Depends(get_settings)):
    await websocket.accept()
    while True:
        await websocket.send_json(await run_in_threadpool(_latest))


def _latest():
    with SessionLocal() as db:
        return db.scalar(text("select 1"))


@live.get("/healthz")
async def alive():
    return {}


@live.get("/price-0")
async def price_0():
    return {"price": 0}


@live.get("/price-1")
async def price_1():
    return {"price": 1}


@live.get("/price-2")
async def price_2():
    return {"price": 2}


@live.get("/price-3")
async def price_3():
    return {"price": 3}


@live.get("/price-4")
async def price_4():
    return {"price": 4}


@live.get("/price-5")
async def price_5():
    return {"price": 5}


@live.get("/price-6")
async def price_6():
    return {"price": 6}


for each in (orders, users, reports, live):
    app.include_router(each)
