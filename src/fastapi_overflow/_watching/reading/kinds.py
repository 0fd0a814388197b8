"""What of SQLAlchemy an object or a class is: a session, what makes one, or none of it.

Used by who reads annotations and code. It must never import SQLAlchemy: what isn't loaded can't be
in use.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from .names import attribute

SESSION = "session"  # a sync Session or Connection
SCOPED = "scoped session"  # a session, and what makes one when it is called
MAKER = "maker"  # a sessionmaker
ENGINE = "engine"
ASYNC = "async"  # any of these for async code
KEEPER = "keeper"  # an object of the app's that was made with a session
OBJECT = "object"  # any object that is there now
OTHER = "other"  # an object to be made of a class of the app's

# By kind: the classes, as module and name. Async ones first: an async scoped session is no other.
_CLASSES = (
    (ASYNC, "sqlalchemy.ext.asyncio", "AsyncSession"),
    (ASYNC, "sqlalchemy.ext.asyncio", "AsyncConnection"),
    (ASYNC, "sqlalchemy.ext.asyncio", "AsyncEngine"),
    (ASYNC, "sqlalchemy.ext.asyncio", "async_sessionmaker"),
    (ASYNC, "sqlalchemy.ext.asyncio", "async_scoped_session"),
    (SESSION, "sqlalchemy.orm.session", "Session"),
    (SESSION, "sqlalchemy.engine.base", "Connection"),
    (SCOPED, "sqlalchemy.orm.scoping", "scoped_session"),
    (MAKER, "sqlalchemy.orm.session", "sessionmaker"),
    (ENGINE, "sqlalchemy.engine.base", "Engine"),
)


@dataclass(frozen=True)
class Value:
    """What is known of a value in the app's code.

    :ivar engine: the engine that a session or a maker of sessions is bound to, None if not known
    :ivar what: the object, for OBJECT; the class, for OTHER and KEEPER
    :ivar is_passed: whether it came in by a parameter, so that it is somebody else's
    """

    kind: str
    engine: Any = None
    what: Any = None
    is_passed: bool = False

    @property
    def is_session(self) -> bool:
        return self.kind in (SESSION, SCOPED)


def kind_of_class(cls: Any) -> str:
    """Return what an object of a class is: OTHER for none of SQLAlchemy's."""
    for kind, module, name in _CLASSES:
        base = getattr(sys.modules.get(module), name, None)
        if base is not None and issubclass(cls, base):
            return kind
    return OTHER


def value_of(found: Any) -> Value:
    """Return what an object is."""
    is_class = issubclass(type(found), type)
    kind = OTHER if is_class else kind_of_class(type(found))
    if kind == OTHER:
        return Value(OBJECT, what=found)
    if kind == SCOPED:
        inner = value_of(attribute(found, "session_factory"))
        return inner if inner.kind == ASYNC else Value(SCOPED, engine=inner.engine)
    if kind == MAKER:
        made, options = attribute(found, "class_"), attribute(found, "kw")
        if issubclass(type(made), type) and kind_of_class(made) == ASYNC:
            return Value(ASYNC)
        bound = options.get("bind") if type(options) is dict else None
        return Value(MAKER, engine=engine_of(bound))
    return Value(kind, engine=engine_of(found))


def engine_of(found: Any) -> Any:
    """Return the engine that an object is or has, None if it isn't known."""
    if found is None:
        return None
    kind = kind_of_class(type(found))
    if kind == ENGINE:
        return found
    for name in ("engine", "bind"):
        inner = attribute(found, name)
        if kind == SESSION and kind_of_class(type(inner)) == ENGINE:
            return inner
    return None


def first(values: list[Value | None]) -> Value | None:
    """Return of several possible values the one that matters: a session before all others."""
    known = [value for value in values if value is not None]
    for matters in (SESSION, SCOPED, ASYNC, KEEPER, MAKER, ENGINE):
        for value in known:
            if value.kind == matters:
                return value
    return known[0] if known else None
