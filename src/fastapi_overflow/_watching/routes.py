"""The routes of an app, and which of their functions run in threads.

Called by `advise()` and `doctor --app`. It must never call the app's functions, and never import
what the app hasn't imported.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .reading.source import name_of

# The handlers of an HTTPEndpoint, in the order in which they are printed.
HANDLERS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

WEBSOCKET = ("WEBSOCKET",)
YIELDS = " (yield)"


@dataclass(frozen=True)
class Found:
    """A route as it was found in an app.

    :ivar methods: what it answers; WEBSOCKET for a WebSocket
    :ivar endpoint: what is called, or a class of handlers
    :ivar handlers: by method, of a class of handlers
    :ivar dependant: FastAPI's description of its dependencies; None for a route of bare Starlette
    :ivar response_class: as it was given to FastAPI; None if it wasn't
    """

    path: str
    methods: tuple[str, ...]
    endpoint: Any
    handlers: dict[str, Any]
    dependant: Any
    response_class: Any

    def __str__(self) -> str:
        return self.path if self.methods == WEBSOCKET else f"{','.join(self.methods)} {self.path}"


@dataclass(frozen=True)
class Route:
    """A route of an app, and which of its functions run in threads.

    :ivar endpoint: the name of the endpoint if it is sync, else None
    :ivar dependencies: names of the sync dependencies, in the order in which they run; those with a
        `yield` take another thread when the request ends
    """

    path: str
    methods: tuple[str, ...]
    endpoint: str | None
    dependencies: tuple[str, ...]

    def __str__(self) -> str:
        what = [self.endpoint] if self.endpoint else []
        if self.dependencies:
            what.append(f"dependencies: {', '.join(self.dependencies)}")
        return f"{','.join(self.methods)} {self.path}  {'; '.join(what)}"


def routes(app: Any) -> list[Route]:
    """Return the routes of an app, with those of included routers and mounted apps.

    What can't be examined is left out: routes and endpoints may be of any class, and raise when one
    of their attributes is read.
    """
    return [route for route, _, _ in _walk(_routes_of(app), "", ())]


def found_routes(app: Any) -> list[Found]:
    """Return the same routes as `routes`, with the functions themselves."""
    return [found for _, found, _ in _walk(_routes_of(app), "", ())]


def outermost(apps: list[Any]) -> list[Any]:
    """Leave out apps that are mounted in another one, whose routes include theirs."""
    mounted: set[int] = set()
    for app in apps:
        for _, _, lists in _walk(_routes_of(app), "", ()):
            mounted.update(lists[1:])
    return [app for app in apps if id(_routes_of(app)) not in mounted]


def _routes_of(app: Any) -> Any:
    try:
        return app.routes
    except Exception:
        return ()  # no app, or one that isn't initialised yet


def _walk(
    found: Any, prefix: str, outer: tuple[int, ...]
) -> Iterator[tuple[Route, Found, tuple[int, ...]]]:
    """Go through a list of routes, and through the lists of mounted apps.

    :param outer: ids of the lists around this one, as an app may be mounted in itself
    :yields: a route, told and as it was found, and the ids of the lists that lead to it, the
        outermost first
    """
    if id(found) in outer:
        return
    lists = (*outer, id(found))
    for context in _resolved(found):
        try:
            # In some versions, WebSockets and mounts have all attributes only on this inner route.
            route = getattr(context, "starlette_route", None) or context
            original = getattr(route, "original_route", route)
            path = prefix + (getattr(route, "path", None) or "")
            mounted = getattr(original, "routes", None)
            each = _found(route, original, path) if mounted is None else None
            each_told = told(each) if each is not None else None
        except Exception:  # noqa: S112 - see `routes`
            continue
        if mounted is not None:
            yield from _walk(mounted, path, lists)
        elif each_told is not None and each is not None:
            yield each_told, each, lists


def _resolved(found: Any) -> Iterator[Any]:
    if not issubclass(type(found), Sequence):
        return  # an app of another framework uses the name for something else
    # FastAPI 0.165 resolves included routers only on demand.
    contexts = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    for route in list(found):
        try:
            yield from list(contexts([route])) if contexts else [route]
        except Exception:  # noqa: S112 - see `routes`
            continue


def _found(route: Any, original: Any, path: str) -> Found | None:
    endpoint = getattr(route, "endpoint", None)
    if endpoint is None:
        return None
    handlers: dict[str, Any] = {}
    if _is_of(type(original), "starlette.routing", "WebSocketRoute"):
        methods: tuple[str, ...] = WEBSOCKET
    elif _is_of(endpoint, "starlette.endpoints", "HTTPEndpoint"):
        each = {name: getattr(endpoint, name.lower(), None) for name in HANDLERS}
        handlers = {name: handler for name, handler in each.items() if handler is not None}
        methods = tuple(handlers)
    else:
        given = set(getattr(route, "methods", None) or ())
        methods = tuple(sorted(given - {"HEAD"} or given)) or ("ANY",)
    response_class = getattr(route, "response_class", None)
    # FastAPI wraps what is only the default.
    response_class = getattr(response_class, "value", response_class)
    dependant = getattr(route, "dependant", None)
    return Found(path, methods, endpoint, handlers, dependant, response_class)


def told(found: Found) -> Route:
    """Return a route with which of its functions run in threads, by their names."""
    dependencies = (
        tuple(dict.fromkeys(_sync_dependencies(found.dependant)))
        if found.dependant is not None
        else ()
    )
    if found.handlers:
        names = [name_of(handler) for handler in found.handlers.values() if is_sync(handler)]
        return Route(found.path, found.methods, ", ".join(names) or None, dependencies)
    in_thread = is_sync(found.endpoint) and not _is_asgi(found.endpoint)
    name = name_of(found.endpoint) if in_thread else None
    return Route(found.path, found.methods, name, dependencies)


def _is_of(kind: Any, module: str, name: str) -> bool:
    """Tell whether `kind` is derived from a class of Starlette's; False if that isn't imported."""
    base = getattr(sys.modules.get(module), name, None)
    return inspect.isclass(kind) and inspect.isclass(base) and issubclass(kind, base)


def _sync_dependencies(dependant: Any) -> Iterator[str]:
    for found in dependant.dependencies:
        yield from _sync_dependencies(found)
        if found.call is not None and is_sync(found.call):
            yields = YIELDS if inspect.isgeneratorfunction(unwrapped(found.call)) else ""
            yield name_of(found.call) + yields


def unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def is_sync(function: Any) -> bool:
    """Tell whether FastAPI and Starlette call a function in a thread."""
    function = unwrapped(function)
    called = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004
    if inspect.isclass(function):
        return True
    return not any(
        is_async(each)
        for each in (function, called)
        for is_async in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    )


def _is_asgi(endpoint: Any) -> bool:
    """Tell whether a Starlette endpoint is an ASGI app: a class, HTTPEndpoint or other."""
    return not inspect.isroutine(unwrapped(endpoint))
