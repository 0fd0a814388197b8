"""Put the replacements in place: called when Starlette is imported, and by `patch()`.

One table says what is patched; a row is put in place from a wrapt post-import hook, inside the
import of its module. It must never take an app down: where a module isn't as expected, all that
was patched is undone, one warning says so, and the app runs as stock. Wrong settings are the one
exception: they stop the import of Starlette.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from threading import RLock
from types import ModuleType
from typing import Any

import wrapt

from .. import __version__, _settings, _startup
from .._settings import logger
from .functions import is_pristine, leads_to, rebind

REMEDY = "The app runs unprotected, as without fastapi-overflow; look for a newer version of it."


class Point:
    """A row of the table: what is replaced, by what, and how the original must look.

    :ivar module: whose import puts the row in place
    :ivar attribute: dotted, in `target` or else in `module`
    :ivar wrapper: in _hops
    """

    # Not a NamedTuple: Python compiles these, at the cost of an import of a module or two.
    __slots__ = ("attribute", "is_kind", "module", "parameters", "target", "wrapper")

    def __init__(  # noqa: PLR0917 - read as columns
        self,
        module: str,
        attribute: str,
        wrapper: str,
        is_kind: Callable[[Any], bool],
        parameters: tuple[str, ...],
        target: str = "",
    ) -> None:
        self.module = module
        self.attribute = attribute
        self.wrapper = wrapper
        self.is_kind = is_kind
        self.parameters = parameters
        self.target = target


# Why these: see each wrapper's docstring. anyio is patched from Starlette's import on, so that a
# process that merely uses anyio is left alone. Its public functions are patched, not its backends:
# they look the same in anyio 3 and 4. (_handover touches one, for speed only, and can do without.)
TABLE = (
    Point(
        "starlette.concurrency",
        "current_default_thread_limiter",
        "wrap_current_default_thread_limiter",
        callable,
        (),
        target="anyio.to_thread",
    ),
    Point(
        "starlette.concurrency",
        "run_sync",
        "wrap_run_sync",
        inspect.iscoroutinefunction,
        ("func", "args", "limiter"),
        target="anyio.to_thread",
    ),
    Point(
        "starlette.concurrency",
        "run_in_threadpool",
        "wrap_run_in_threadpool",
        inspect.iscoroutinefunction,
        ("func", "args", "kwargs"),
    ),
    Point(
        "starlette.concurrency",
        "iterate_in_threadpool",
        "wrap_iterate_in_threadpool",
        inspect.isasyncgenfunction,
        ("iterator",),
    ),
    Point(
        "starlette.applications",
        "Starlette.__call__",
        "wrap_starlette_call",
        inspect.iscoroutinefunction,
        ("self", "scope", "receive", "send"),
    ),
    # The same objects as Starlette's, unless FastAPI was imported before a late patch().
    Point(
        "fastapi.concurrency",
        "run_in_threadpool",
        "wrap_run_in_threadpool",
        inspect.iscoroutinefunction,
        ("func", "args", "kwargs"),
    ),
    Point(
        "fastapi.concurrency",
        "iterate_in_threadpool",
        "wrap_iterate_in_threadpool",
        inspect.isasyncgenfunction,
        ("iterator",),
    ),
)
NEEDED = tuple(point for point in TABLE if not point.module.startswith("fastapi"))

# What is in place: the original and what stands there now.
_applied: dict[Point, tuple[Any, Any]] = {}
_failure: str | None = None  # why nothing is patched
_late: set[str] = set()  # modules that were imported before their hook was registered
_hooks_registered = False
_lock = RLock()


def register_hooks() -> None:
    """Have each row put in place when its module is imported; at once where it already is."""
    global _hooks_registered
    with _lock:  # whoever comes second must not go on before the hooks are there
        if _hooks_registered:
            return
        _hooks_registered = True
        for module in ("starlette", *dict.fromkeys(point.module for point in TABLE)):
            if sys.modules.get(module) is not None:
                import_module(module)  # another thread may be in the middle of it
                _late.add(module)
            wrapt.register_post_import_hook(_on_import, module)


def _on_import(module: ModuleType) -> None:
    """Put the rows of a module in place, at the end of its import."""
    global _hooks_registered
    if module.__name__ == "starlette":
        try:
            _settings.load()
        except _settings.SettingsError:
            # The import of Starlette fails, and must fail again when it is tried again.
            _hooks_registered = False
            if _startup.finder not in sys.meta_path:
                sys.meta_path.insert(0, _startup.finder)
            raise
        return
    if _failure is not None:
        return
    moved = {}
    points = [p for p in TABLE if p.module == module.__name__ and not in_place(p)]
    for step in (_check, _apply):  # all rows are as expected before the first is touched
        for point in points:
            try:
                step(point)
            except Exception as exc:
                _give_up(point, exc)
                return
    for point in points:
        # A module just imported has given its functions to nobody yet.
        if point.target or point.module in _late:
            original, replacement = _applied[point]
            moved[id(original)] = replacement
    if moved:
        rebind(moved)
    if module.__name__ == "starlette.applications" and patched():
        _announce()


def _announce() -> None:
    """Say, once, that the app is protected."""
    settings = _settings.load()
    logger.info(
        "fastapi-overflow %s protects this app: %d threads per event loop, %d of them in reserve",
        __version__,
        settings.limit,
        settings.reserve,
        extra={
            "event": "patched",
            "version": __version__,
            "limit": settings.limit,
            "reserve": settings.reserve,
        },
    )
    if settings.otel:
        try:
            from ..otel import instrument

            instrument()
        except Exception as exc:
            logger.warning(
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
    found = inspect.signature(original).parameters
    if {"args", "kwargs"} == found.keys():
        return  # somebody's wrapper, which takes anything
    if missing := [name for name in point.parameters if name not in found]:
        raise TypeError(f"it has no parameter {missing[0]!r}")


def _apply(point: Point) -> None:
    """Put a row in place."""
    from .._requests import replacements as _hops

    owner, name, original = _resolve(point)
    wrapper = getattr(_hops, point.wrapper)
    if point.wrapper in _hops.SHORT_CUTS and not is_pristine(original):
        wrapper = _hops.wrap_pass_through  # what others put there before must run
    replacement = wrapt.FunctionWrapper(original, wrapper)
    wrapt.apply_patch(owner, name, replacement)
    _applied[point] = original, replacement
    if point.wrapper == "wrap_run_sync":
        _hops.patched_run_sync = replacement


def _give_up(point: Point, exc: Exception) -> None:
    """Undo everything and say why, once."""
    global _failure
    place = f"{point.target or point.module}.{point.attribute}"
    _failure = f"{place} is not as expected: {exc}"
    for done, (original, replacement) in reversed(_applied.items()):
        owner, name, current = _resolve(done)
        if current is replacement:
            setattr(owner, name, original)
    rebind({id(replacement): original for original, replacement in _applied.values()})
    _applied.clear()
    logger.warning("fastapi-overflow is off: %s. %s", _failure, REMEDY)


def in_place(point: Point) -> bool:
    """Tell whether a row's replacement stands where it was put, wrapped by others or not."""
    if point.module not in sys.modules:
        return False
    try:
        current = _resolve(point)[2]
    except (AttributeError, KeyError):
        return False
    ours = {id(now) for row, (_, now) in _applied.items() if row.wrapper == point.wrapper}
    return leads_to(current, ours)


def patch() -> None:
    """Protect the app of this process from deadlocks on its thread pool.

    What the import hook does by itself; for installations that don't run it. May be called before
    Starlette and FastAPI are imported or after, and any number of times. Does nothing with
    FASTAPI_OVERFLOW_DISABLE set. Where Starlette, FastAPI or anyio are not as expected, a warning
    of the logger `fastapi_overflow` says so and the app runs as stock.

    :raises SettingsError: when a FASTAPI_OVERFLOW_* variable has a value that breaks its rule
    """
    if _startup.disabled():
        return
    _settings.load()
    register_hooks()
    import starlette.applications  # noqa: F401 - the hooks do the rest

    for point in TABLE:  # unless a module was loaded anew since, or another object put in its place
        module = sys.modules.get(point.module)
        if module is not None and not in_place(point):
            _late.add(point.module)
            _on_import(module)


def patched() -> bool:
    """Tell whether the app of this process is protected.

    False until Starlette's application class has been imported.
    """
    return all(in_place(point) for point in NEEDED)
