"""The same routes in Flask under gunicorn's sync threads: one request, one thread.

Served by the contestant `gunicorn`. It must answer what `sync_app` answers, to the same queries.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from flask import Flask, Response, stream_with_context
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

engine = create_engine(
    os.environ["BENCH_DATABASE_URL"], pool_timeout=float(os.environ["BENCH_POOL_TIMEOUT"])
)
SessionLocal = sessionmaker(engine)
QUERY = text("SELECT pg_sleep(0.005)")
ITEM = {"id": 1, "name": "one"}

app = Flask(__name__)


@app.get("/classic")
def classic() -> dict[str, object]:
    with SessionLocal() as db:
        db.execute(QUERY)
        return ITEM


@app.get("/auth")
def auth() -> dict[str, object]:
    with SessionLocal() as db:
        db.execute(QUERY)
        db.execute(QUERY)
        return ITEM


@app.get("/eager")
def eager() -> dict[str, object]:
    with SessionLocal() as db:
        db.connection()
        db.execute(QUERY)
        return ITEM


@app.get("/pauses")
def pauses() -> dict[str, object]:
    with SessionLocal() as db:
        time.sleep(0.002)
        db.execute(QUERY)
        time.sleep(0.002)
        db.execute(QUERY)
        return ITEM


@app.get("/stream")
def stream() -> Response:
    def lines(db: Session) -> Iterator[str]:
        with db:
            for n in range(4):
                if not n:
                    db.execute(QUERY)
                yield f"line {n}\n"

    return Response(stream_with_context(lines(SessionLocal())))


@app.get("/plain")
def plain() -> dict[str, object]:
    return ITEM


@app.get("/loop")
def loop() -> dict[str, object]:
    return classic()  # there is no loop


@app.get("/second")
def second() -> dict[str, object]:
    with SessionLocal() as db:
        db.execute(QUERY)
        with SessionLocal() as own:
            own.execute(QUERY)
        return ITEM


@app.get("/slow")
def slow() -> dict[str, object]:
    time.sleep(0.1)
    return ITEM


@app.get("/healthz")
def healthz() -> str:
    return "ok"
