"""Put the table in place: called just before Starlette is loaded, and by `patch()`.

A row is put in place from a wrapt post-import hook, inside the import of its module. It must never
take an app down: where a module isn't as expected, all that was patched is undone, one warning says
so, and the app runs as stock; a row that the app is protected without is just left out. Wrong
settings are the one exception: they stop the import of Starlette.
"""

from __future__ import annotations

import functools
import inspect
import sys
from importlib import import_module
from threading import RLock, Thread
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import wrapt

from .. import __version__, _settings, _startup
from .._log import inform, warn
from . import pools
from .functions import is_pristine, leads_to, rebind
from .table import MODULES, NEEDED, TABLE, Point

if TYPE_CHECKING:
    from collections.abc import Collection

    from .._requests.limiters import AttachedObserver

REMEDY = "The app runs unprotected, as without fastapi-overflow; look for a newer version of it."

# What is in place: the original and what stands there now.
_applied: dict[Point, tuple[Any, Any]] = {}
_failure: str | None = None  # why nothing is patched
_late: set[str] = set()  # modules that were imported before their hook was registered
_hooked: set[str] = set()  # modules that have their hook
_hooked_by: str | None = None  # what had them registered, as `_startup.armed_by`, or "patch()"
_lock = RLock()  # for these. Nothing is imported while it is held: an import may wait for it


def register_hooks(by: str) -> None:
    """Have each row put in place when its module is imported; at once where it already is.

    :param by: ".pth", ".start", "run", "arm()" or "patch()"
    """
    global _hooked_by
    there = []
    with _lock:  # whoever comes second must not go on before the hooks are there
        _hooked_by = _hooked_by or by
        for name in MODULES:
            if name in _hooked:
                continue
            _hooked.add(name)
            if sys.modules.get(name) is None:
                wrapt.register_post_import_hook(_on_import, name)
            else:
                there.append(name)
                _late.add(name)
    pools.register_hook()
    for name in there:
        module = import_module(name)  # waits for another thread that is in the middle of it
        if _is_whole(module):
            _on_import(module)
        else:  # this very thread is in the middle: an import hook calls `patch()`
            Thread(target=_patch_when_imported, args=[name], daemon=True).start()


def _is_whole(module: ModuleType) -> bool:
    return not getattr(module.__spec__, "_initializing", False)


def _patch_when_imported(name: str) -> None:
    try:
        module = import_module(name)
    except Exception:
        return  # its import has failed, which is the app's to hear of
    _on_import(module)


def hooked_by() -> str | None:
    """Return what had the hooks registered, None if nothing has."""
    return _hooked_by


def failure() -> str | None:
    """Return why nothing is patched, None where all is as expected."""
    return _failure


def _on_import(module: ModuleType) -> None:
    """Put the rows of a module in place, at the end of its import."""
    points = [p for p in TABLE if p.module == module.__name__ and not in_place(p)]
    if not points or _failure is not None:
        return
    point = points[0]
    try:
        for point in points:  # all rows are as expected before the first is touched
            _check(point)
        from .._requests import limiters, replacements  # noqa: F401 - before the lock is held

        limiters.make_observer = _make_observer
        with _lock:
            for point in points:
                if not in_place(point):
                    _apply(point)
    except Exception as exc:
        if not point.is_optional:
            _give_up(point, exc)
        return
    # A module just imported has given its functions to nobody yet.
    moved = {
        id(_applied[point][0]): _applied[point][1]
        for point in points
        if point.target or point.module in _late
    }
    if moved:
        rebind(moved)
    if module.__name__ == "starlette.applications" and patched():
        _announce()


def _make_observer() -> AttachedObserver:
    from .._watching.observer import PoolObserver  # late: not at the cost of importing Starlette

    return PoolObserver()


def _announce() -> None:
    """Say, once, that the app is protected."""
    settings = _settings.current()
    inform(
        "fastapi-overflow %s (%s) protects this app: "
        "%d threads per event loop, %d of them in reserve",
        __version__,
        patched_by(),
        settings.limit,
        settings.reserve,
        extra={
            "event": "patched",
            "version": __version__,
            "by": patched_by(),
            "limit": settings.limit,
            "reserve": settings.reserve,
        },
    )
    if settings.otel:
        try:
            from ..otel import instrument

            instrument()
        except Exception as exc:
            warn(
                "No metrics in spite of FASTAPI_OVERFLOW_OTEL: %s. "
                'pip install "fastapi-overflow[otel]"',
                exc,
            )


def _resolve(point: Point) -> tuple[Any, str, Any]:
    """Return the object that a row patches, the attribute's name, and what stands there."""
    owner, name, current = wrapt.resolve_path(
        sys.modules[point.target or point.module], point.attribute
    )
    return owner, name, current


def _check(point: Point) -> None:
    """Raise an error that says what is not as expected."""
    original = _resolve(point)[2]
    if not point.is_kind(original):
        raise TypeError(f"it is {original!r}")
    found = _parameters(original)
    if {"args", "kwargs"} == {*found}:
        return  # somebody's wrapper, which takes anything
    if missing := [name for name in point.parameters if name not in found]:
        raise TypeError(f"it has no parameter {missing[0]!r}")


def _parameters(function: Any) -> Collection[str]:
    """Return the names of a function's parameters."""
    if type(function) is not FunctionType or vars(function):
        return inspect.signature(function).parameters  # somebody's wrapper says what it wraps
    # What that makes is thrown away at once, and takes as long as an import of two modules.
    code = function.__code__
    stars = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + stars]


def _apply(point: Point) -> None:
    """Put a row in place."""
    from .._requests import hops, replacements

    owner, name, original = _resolve(point)
    wrapper = getattr(replacements, point.wrapper)
    if point.wrapper in replacements.SHORT_CUTS and not is_pristine(original):
        wrapper = replacements.wrap_pass_through  # what others put there before must run
    make = replacements.PLAIN.get(point.wrapper)
    if make is not None and type(original) is FunctionType:
        replacement: Any = functools.wraps(original)(make(original))
    else:
        replacement = wrapt.FunctionWrapper(original, wrapper)
    wrapt.apply_patch(owner, name, replacement)
    _applied[point] = original, replacement
    if point.wrapper == "wrap_run_sync":
        hops.patched_run_sync = replacement


def _give_up(point: Point, exc: Exception) -> None:
    """Undo everything and say why, once."""
    global _failure
    _failure = f"{point.place} is not as expected: {exc}"
    for done, (original, replacement) in reversed(_applied.items()):
        owner, name, current = _resolve(done)
        if current is replacement:
            setattr(owner, name, original)
    rebind({id(replacement): original for original, replacement in _applied.values()})
    _applied.clear()
    warn("fastapi-overflow is off: %s. %s", _failure, REMEDY)


def in_place(point: Point) -> bool:
    """Tell whether a row's replacement stands where it was put, wrapped by others or not."""
    # A copy, made in one step: another thread may be in the middle of an import.
    applied = list(_applied.items())
    ours = {id(now) for row, (_, now) in applied if row.wrapper == point.wrapper}
    if not ours or point.module not in sys.modules:
        return False
    try:
        current = _resolve(point)[2]
    except (AttributeError, KeyError):
        return False
    return leads_to(current, ours)


def patch() -> None:
    """Protect the app of this process from deadlocks on its thread pool.

    What the import hook does by itself; for installations that don't run it. May be called before
    Starlette and FastAPI are imported or after, and any number of times. Does nothing with
    FASTAPI_OVERFLOW_DISABLE set. Where Starlette, FastAPI or anyio are not as expected, a warning
    of the logger `fastapi_overflow` says so and the app runs as stock.

    :raises SettingsError: when a FASTAPI_OVERFLOW_* variable has a value that breaks its rule
    """
    if _settings.decide().disabled:
        _settings.warn_of_late_changes()
        return
    # Were it not called, what is armed would do the same when Starlette is imported.
    armed_by = None if "starlette" in sys.modules else _startup.armed_by
    register_hooks(by=armed_by or "patch()")
    try:
        import starlette.applications  # noqa: F401 - the hooks do the rest
    except ImportError:
        if "starlette" not in sys.modules:
            raise
        return  # called in the middle of Starlette's own import: the hooks come later

    for point in TABLE:  # unless a module was loaded anew since, or another object put in its place
        module = sys.modules.get(point.module)
        if module is not None and _is_whole(module) and not in_place(point):
            _late.add(point.module)
            _on_import(module)


def patched() -> bool:
    """Tell whether the app of this process is protected.

    False until Starlette's application class has been imported. `patched_by()` tells by what.
    """
    return all(in_place(point) for point in NEEDED)


def patched_by() -> str | None:
    """Tell what protects the app of this process; None where `patched()` is false.

    "hook", the start-up files of the installation; "run", `fastapi-overflow run`; "patch()", a call
    in the app's code; "arm()", other start-up code, as OpenTelemetry's launcher.
    """
    if not patched():
        return None
    return "hook" if _hooked_by in (".pth", ".start") else _hooked_by
