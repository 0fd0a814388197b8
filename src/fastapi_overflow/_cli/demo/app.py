"""The demo's app, as in FastAPI's tutorial: a session per request, a user, lists of items.

Run by uvicorn in a process of its own. It must know nothing of fastapi-overflow: no import, no
setting, and no more care for threads and connections than the tutorial takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session, sessionmaker

from .models import Item, User

options: dict[str, Any] = {}
if "DEMO_POOL_SIZE" in os.environ:
    options["pool_size"] = int(os.environ["DEMO_POOL_SIZE"])
engine = create_engine(os.environ["DEMO_DATABASE_URL"], **options)
SessionLocal = sessionmaker(engine)

app = FastAPI()


def get_db() -> Iterator[Session]:
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


def get_current_user(db: Annotated[Session, Depends(get_db)]) -> User:
    user = db.scalar(select(User).where(User.name == "alice"))
    if user is None:
        raise HTTPException(401)
    return user


class ItemOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    price: int


@app.get("/items", response_model=list[ItemOut])
def read_items(
    user: Annotated[User, Depends(get_current_user)], db: Annotated[Session, Depends(get_db)]
) -> Sequence[Item]:
    # Sorted without an index, so that it takes a few milliseconds in any database.
    most_expensive = select(Item).where(Item.owner_id == user.id).order_by(Item.price.desc())
    return db.scalars(most_expensive.limit(20)).all()


@app.get("/offers", response_model=list[ItemOut])
async def read_offers(db: Annotated[Session, Depends(get_db)]) -> Sequence[Item]:
    return db.scalars(select(Item).order_by(Item.price).limit(20)).all()


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}
