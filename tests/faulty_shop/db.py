"""The sessions of the shop."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Depends
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

engine = create_engine("sqlite:///shop.db")
SessionLocal = sessionmaker(engine)
ArchiveSession = sessionmaker(create_engine("sqlite:///archive.db"))


def get_db() -> Iterator[Session]:
    with SessionLocal() as db:
        yield db


def get_audit_db():
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


def get_archive() -> Iterator[Session]:
    with ArchiveSession() as db:
        yield db


async def get_settings() -> AsyncIterator[dict[str, str]]:
    yield {"currency": "EUR"}


SessionDep = Annotated[Session, Depends(get_db)]
