"""The classic app: sync SQLAlchemy on SQLite, a session per request in a dependency.

Served by every server of test_servers.py and soak.py; knows nothing of the package under test.
"""

import asyncio
import os
import sys
import threading
import time
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

# SQLAlchemy's default pool, 5 and 10 more, with less patience than its 30 seconds.
engine = create_engine(os.environ["DATABASE_URL"], pool_timeout=3)
app = FastAPI()


class Answer(BaseModel):
    ok: bool


def get_db():
    with Session(engine) as session:
        yield session


def get_user(db: Annotated[Session, Depends(get_db)]):
    user = db.execute(text("SELECT 1")).scalar_one()
    time.sleep(0.1)  # with its connection: others must come meanwhile
    return user


@app.get("/", response_model=Answer)
def classic(user: Annotated[int, Depends(get_user)], db: Annotated[Session, Depends(get_db)]):
    db.execute(text("SELECT 1"))
    return {"ok": user == 1}


@app.get("/where")
async def where():
    """Which process answers, on which event loop, with how many threads."""
    trio = sys.modules.get("trio")
    try:
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    except RuntimeError:
        loop = "trio" if trio else "?"
    return {"pid": os.getpid(), "loop": loop, "threads": threading.active_count()}
