"""The resource that the apps compete for: a SQLAlchemy engine with its default pool, 5 + 10.

Imported by the apps, as in any project: nothing here knows of fastapi-overflow.
"""

import os
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends
from sqlalchemy import Connection, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

# Seconds for which a request waits for a connection before it fails; SQLAlchemy's default is 30.
TIMEOUT = float(os.environ.get("POOL_TIMEOUT", "5"))

engine = create_engine(
    os.environ.get("DATABASE_URL", "sqlite:///shapes.db?check_same_thread=false"),
    pool_timeout=TIMEOUT,
)
SessionLocal = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


Base.metadata.create_all(engine)
with SessionLocal.begin() as session:
    for number in range(1, 4):
        session.merge(Item(id=number, name=f"item {number}"))


def get_db() -> Iterator[Session]:
    """A session, which takes its connection with its first query."""
    with SessionLocal() as db:
        yield db


def get_connection() -> Iterator[Connection]:
    """A connection, taken at once."""
    with engine.connect() as connection:
        yield connection


Db = Annotated[Session, Depends(get_db)]
Eager = Annotated[Connection, Depends(get_connection)]


def first_item(db: Session | Connection) -> str:
    return db.execute(select(Item.name).limit(1)).scalar_one()


def all_items(db: Session) -> list[Item]:
    return list(db.scalars(select(Item)))
