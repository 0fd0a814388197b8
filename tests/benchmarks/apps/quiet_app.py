"""Routes that keep threads busy, and quiet ones beside them: what `quiet_routes.py` serves.

The database route is FastAPI's tutorial's: a session in a sync dependency. QUIET_TUNED=1 gives it
the limit that FastAPI offers for hand-tuning.
"""

import os
import time

from fastapi import BackgroundTasks, Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

import fastapi_overflow

engine = create_engine(
    f"sqlite:///{os.environ.get('QUIET_DATABASE', ':memory:')}",
    connect_args={"check_same_thread": False},
    pool_timeout=30,
)
app = FastAPI()


def get_db():
    with Session(engine) as session:
        yield session


tuned = {"max_concurrency": 15} if os.environ.get("QUIET_TUNED") else {}


@app.get("/database")
def database(db: Session = Depends(get_db, **tuned)):  # noqa: B008 - as in the tutorial
    db.execute(text("select 1"))
    time.sleep(0.005)
    return "done"


@app.get("/sleep")
def sleep(seconds: float = 1):
    time.sleep(seconds)
    return "slept"


@app.get("/background")
async def background(tasks: BackgroundTasks, seconds: float = 1):
    tasks.add_task(time.sleep, seconds)
    return "begun"


@app.get("/health")
def health():
    return "well"


@app.get("/health2")
def health2():
    return "well"


@app.get("/health3")
def health3():
    return "well"


@app.get("/async")
async def no_thread():
    return "well"


@app.get("/stats")
async def now():
    return fastapi_overflow.stats().as_dict()
