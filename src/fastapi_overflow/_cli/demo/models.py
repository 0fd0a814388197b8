"""The tables of the demo's app, as in FastAPI's tutorial: users and their items.

Imported by the app, and by the runner, which fills the tables. Their names are long because the
database may be the user's own.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "fastapi_overflow_demo_users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)


class Item(Base):
    __tablename__ = "fastapi_overflow_demo_items"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(40))
    price: Mapped[int]
    owner_id: Mapped[int] = mapped_column(ForeignKey(f"{User.__tablename__}.id"))
