"""Have SQLAlchemy's connection pools ask before they hand out a connection.

Called at the end of SQLAlchemy's import, or by `patch()` where that was before. It must never take
an app down: where a class isn't as expected, one warning says so and the pools are as without us.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from threading import Thread
from types import FunctionType, ModuleType
from typing import Any

import wrapt

from .. import _settings
from .._log import warn

MODULE = "sqlalchemy"

# Attribute of `sqlalchemy.pool`, method of the governor that makes what stands in its place, and
# the parameters that it must have.
POINTS = (
    ("Pool.connect", "connect", ("self",)),
    ("QueuePool._do_return_conn", "return_connection", ("self",)),  # and a record, by any name
    (
        "QueuePool.__init__",
        "make",
        ("self", "creator", "pool_size", "max_overflow", "timeout"),
    ),
    ("QueuePool.recreate", "recreate", ("self",)),
)
METHODS = ("size", "timeout", "overflow", "checkedout")

_hooked = False
_failure: str | None = None  # why the pools are as without us


def register_hook() -> None:
    """Have the pools ask once SQLAlchemy is imported; at once where it already is."""
    global _hooked
    if _hooked or not _settings.current().connections:
        return
    _hooked = True
    module = sys.modules.get(MODULE)
    if module is not None and getattr(module.__spec__, "_initializing", False):
        # Another thread is in the middle of its import, or this one: it is whole later.
        Thread(target=_govern_when_imported, daemon=True).start()
    else:
        wrapt.register_post_import_hook(_on_import, MODULE)


def failure() -> str | None:
    """Return why the pools are as without us, None where all is as expected."""
    return _failure


def _govern_when_imported() -> None:
    try:
        module = import_module(MODULE)
    except Exception:
        return  # its import has failed, which is the app's to hear of
    _on_import(module)


def _on_import(module: ModuleType) -> None:
    try:
        pool = module.pool
        found = [_check(pool, path, parameters) for path, _, parameters in POINTS]
        for name in METHODS:
            if not callable(getattr(pool.QueuePool, name, None)):
                raise TypeError(f"sqlalchemy.pool.QueuePool has no method {name!r}")
        if not hasattr(pool.QueuePool(lambda: None, 1, 0), "_max_overflow"):
            raise TypeError("sqlalchemy.pool.QueuePool has no attribute '_max_overflow'")
        from .._requests import checkouts, connections, holder_here, hops, lease_of_request, outside
        from .._watching.connection_log import ConnectionLog
        from .._watching.live_objects import instances_of
    except Exception as exc:
        leave_alone(exc)
        return
    checkouts.on_failure = leave_alone
    checkouts.observer = ConnectionLog()
    for (_, name, _), (owner, attribute, original) in zip(POINTS, found, strict=True):
        method: Callable[..., Any] = getattr(holder_here.governor, name)
        if name == "make":  # SQLAlchemy looks at its code, which wrapt's shows
            wrapt.apply_patch(owner, attribute, wrapt.FunctionWrapper(original, method))
        else:
            setattr(owner, attribute, method(original))
    lease_of_request.connections = connections
    hops.note_hop_outside = outside.note_hop_outside
    engine = _name_pools(module, holder_here.governor)
    for each in instances_of(pool.QueuePool, engine):
        try:
            if isinstance(each, pool.QueuePool):
                # One that isn't whole yet raises here: its first checkout makes the ledger.
                for name in METHODS:
                    getattr(each, name)()
                holder_here.governor.govern(each)
            else:
                holder_here.governor.note_engine(each.pool, each.dialect, each.url)
        except Exception:  # noqa: S112 - not initialised yet, or of a class of the app's
            continue


def _name_pools(module: ModuleType, governor: Any) -> type | None:
    """Have pools go by the URLs of their engines; return the class of these.

    Where that isn't as expected they go by their own class: no connection depends on it.
    """
    try:
        engine: type = module.engine.Engine
        if inspect.signature(engine).parameters.keys() >= {"pool", "dialect", "url"}:
            wrapt.wrap_function_wrapper(engine, "__init__", governor.name)
            return engine
    except Exception:  # noqa: S110 - another SQLAlchemy
        pass
    return None


def _check(pool: ModuleType, path: str, parameters: tuple[str, ...]) -> tuple[Any, str, Any]:
    """Return the class that has a method, its name and what stands there.

    :raises TypeError: saying what is not as expected
    """
    owner, name, original = wrapt.resolve_path(pool, path)
    if type(original) is not FunctionType:
        raise TypeError(f"sqlalchemy.pool.{path} is {original!r}")
    known = inspect.signature(original).parameters
    if missing := [each for each in parameters if each not in known]:
        raise TypeError(f"sqlalchemy.pool.{path} has no parameter {missing[0]!r}")
    return owner, name, original


def leave_alone(exc: Exception) -> None:
    """Say, once, that pools are as without us."""
    global _failure
    if _failure is None:
        _failure = str(exc)
        warn(
            "fastapi-overflow leaves SQLAlchemy's connection pools alone: %s. Threads are shared as"
            " ever; look for a newer version of it.",
            exc,
        )
