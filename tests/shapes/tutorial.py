"""FastAPI's tutorial app with SQL databases: a session per request, a user, a list of items.

Served by uvicorn in test_server.py. It knows nothing of fastapi-overflow.
"""

import os
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

# The default pool, 5 + 10; 5 seconds instead of 30 to wait for a connection, so that tests of the
# deadlock end soon.
engine = create_engine(os.environ["DATABASE_URL"], pool_timeout=5)
SessionLocal = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "tutorial_users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Item(Base):
    __tablename__ = "tutorial_items"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


Base.metadata.create_all(engine)
with SessionLocal.begin() as session:
    session.merge(User(id=1, name="alice"))
    for number in range(1, 11):
        session.merge(Item(id=number, title=f"item {number}"))

app = FastAPI()


def get_db() -> Iterator[Session]:
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


Db = Annotated[Session, Depends(get_db)]


def get_current_user(db: Db) -> User:
    user = db.scalar(select(User).where(User.name == "alice"))
    if user is None:
        raise HTTPException(401)
    return user


class ItemOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    title: str


@app.get("/items", response_model=list[ItemOut])
def read_items(user: Annotated[User, Depends(get_current_user)], db: Db) -> list[Item]:
    return list(db.scalars(select(Item)))
