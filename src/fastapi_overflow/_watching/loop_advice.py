"""Async functions of an app that use a sync session: they query on the event loop.

Called by `advise()` and `doctor --app`. It must never call the app's functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .reading import kinds
from .reading.dependencies import Dependencies, functions
from .reading.frame import Frame
from .reading.source import function_of
from .reading.uses import IN_THREADS, awaits, uses
from .reading.values import Given
from .routes import WEBSOCKET, Found, is_sync

EFFECT = "While it queries, or waits for a connection, the whole event loop stands still"


@dataclass
class _Culprit:
    """An async function with a sync session, and the routes that it serves."""

    call: Any
    what: str
    frame: Frame | None
    routes: list[Found] = field(default_factory=list)
    is_endpoint: bool = True


def on_the_loop(found: list[Found], dependencies: Dependencies) -> list[str]:
    """Return advice for each async function that queries a sync session on the event loop."""
    culprits: dict[int, _Culprit | None] = {}
    for route in found:
        for call, dependant in _async_functions(route):
            if id(call) not in culprits:
                try:
                    culprits[id(call)] = _look_at(call, dependant, route, dependencies)
                except Exception:  # whatever there is in an app
                    culprits[id(call)] = None
            culprit = culprits[id(call)]
            if culprit is not None and route not in culprit.routes:
                culprit.routes.append(route)
    return [_told(each, dependencies) for each in culprits.values() if each is not None]


def _async_functions(route: Found) -> Iterator[tuple[Any, Any]]:
    try:
        if route.dependant is not None:
            each = [(found.call, found) for found in functions(route.dependant)]
        else:
            each = [(call, None) for call in route.handlers.values() or [route.endpoint]]
        yield from [(call, dependant) for call, dependant in each if not is_sync(call)]
    except Exception:  # a proxy, say
        return


def _look_at(
    call: Any, dependant: Any, route: Found, dependencies: Dependencies
) -> _Culprit | None:
    gets = {} if dependant is None else dependencies.parameters(dependant)
    parameters = {name: each.value for name, each in gets.items() if each.value is not None}
    frame = dependencies.values.frame(call, parameters)
    is_endpoint = call is route.endpoint or call in route.handlers.values()
    calls = {} if dependant is None else {each.name: each.call for each in dependant.dependencies}
    if is_endpoint and route.methods == WEBSOCKET:  # a session that it keeps is told of elsewhere
        kept = {each.call for each in dependencies.acquired(dependant) if each.is_kept}
        gets = {name: each for name, each in gets.items() if calls[name] not in kept}
    for name, given in gets.items():
        if given.value is None or not _is_used_on_loop(name, given, frame, dependencies):
            continue
        giver = dependencies.sources.told(calls[name])
        if given.value.kind == kinds.KEEPER:
            what = f"gets what looks like an object with a sync session, of {giver}"
        elif given.is_certain:
            what = f"gets the sync session of {giver}"
        else:
            what = f"gets what looks like a sync session, of {giver}"
        return _Culprit(call, what, frame, is_endpoint=is_endpoint)
    if frame is None:
        return None
    for name in frame.stored:
        value = dependencies.values.name(name, frame)
        if value is None or not value.is_session or value.is_passed or name in gets:
            continue
        if uses(name, frame, dependencies.values).on_loop:
            what = f"looks like it opens a sync session itself, as {name!r}"
            return _Culprit(call, what, frame, is_endpoint=is_endpoint)
    return None


def _is_used_on_loop(
    name: str, given: Given, frame: Frame | None, dependencies: Dependencies
) -> bool:
    """Tell whether an async function's own code uses what it gets by a parameter."""
    value = given.value
    if value is None or not (value.is_session or value.kind == kinds.KEEPER):
        return False
    if value.kind == kinds.KEEPER and _asks_for_threads(value.what):
        return False
    if frame is None:
        return value.is_session
    used = [uses(each, frame, dependencies.values) for each in (name, *_aliases(name, frame))]
    if any(each.on_loop for each in used):
        return True
    return value.is_session and not used[0].count  # or by `locals()`, or not yet


def _aliases(name: str, frame: Frame) -> Iterator[str]:
    for other, bound in frame.stored.items():
        if any(getattr(each, "id", None) == name for each in bound) and other != name:
            yield other


def _asks_for_threads(cls: Any) -> bool:
    """Tell whether a class of the app's has things called in threads itself."""
    found = (function_of(each) for base in cls.__mro__ for each in vars(base).values())
    return any(IN_THREADS.intersection(each.__code__.co_names) for each in found if each)


def _told(culprit: _Culprit, dependencies: Dependencies) -> str:
    told = dependencies.sources.told(culprit.call)
    others = len(culprit.routes) - 1
    where = str(culprit.routes[0])
    if others:
        where += f" and {others} other route{'s' if others > 1 else ''}"
    begin = f"{where}: {told}" if culprit.is_endpoint else f"{told}, a dependency of {where},"
    if culprit.is_endpoint and culprit.routes[0].methods == WEBSOCKET:
        remedy = "Query in a thread: `await run_in_threadpool(...)`"
    elif culprit.frame is not None and awaits(culprit.frame.node):
        remedy = "Make it `def`; where it must await, query in `await run_in_threadpool(...)`"
    else:
        remedy = "Make it `def`"
    return f"{begin} is async and {culprit.what}. {EFFECT}. {remedy}"
