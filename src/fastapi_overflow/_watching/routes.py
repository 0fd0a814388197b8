"""Which routes of an app run in threads, and which of them are a risk.

Called by `advise()` and `doctor --app`. It must never call the app's functions, and never import
what the app hasn't imported.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# The last part of a path that an orchestrator probes.
HEALTH = re.compile(
    r"(health([-_]?check)?|live(ness)?|ready|readiness|startup)z?|ping|up|status|alive|heartbeat",
    re.IGNORECASE,
)

# The handlers of an HTTPEndpoint, in the order in which they are printed.
HANDLERS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

WEBSOCKET = ("WEBSOCKET",)
YIELDS = " (yield)"


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
    return [route for route, _ in _walk(_routes_of(app), "", ())]


def outermost(apps: list[Any]) -> list[Any]:
    """Leave out apps that are mounted in another one, whose routes include theirs."""
    mounted: set[int] = set()
    for app in apps:
        for _, lists in _walk(_routes_of(app), "", ()):
            mounted.update(lists[1:])
    return [app for app in apps if id(_routes_of(app)) not in mounted]


def _routes_of(app: Any) -> Any:
    try:
        return app.routes
    except Exception:
        return ()  # no app, or one that isn't initialised yet


def _walk(
    found: Any, prefix: str, outer: tuple[int, ...]
) -> Iterator[tuple[Route, tuple[int, ...]]]:
    """Go through a list of routes, and through the lists of mounted apps.

    :param outer: ids of the lists around this one, as an app may be mounted in itself
    :yields: a route, and the ids of the lists that lead to it, the outermost first
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
            told = _examined(route, original, path) if mounted is None else None
        except Exception:  # noqa: S112 - see `routes`
            continue
        if mounted is not None:
            yield from _walk(mounted, path, lists)
        elif told is not None:
            yield told, lists


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


def _examined(route: Any, original: Any, path: str) -> Route | None:
    endpoint = getattr(route, "endpoint", None)
    if endpoint is None:
        return None
    dependant = getattr(route, "dependant", None)
    dependencies = (
        tuple(dict.fromkeys(_sync_dependencies(dependant))) if dependant is not None else ()
    )
    if _is_of(type(original), "starlette.routing", "WebSocketRoute"):
        methods: tuple[str, ...] = WEBSOCKET
    else:
        given = set(getattr(route, "methods", None) or ())
        methods = tuple(sorted(given - {"HEAD"} or given)) or ("ANY",)
    if _is_of(endpoint, "starlette.endpoints", "HTTPEndpoint"):
        handlers = {name: getattr(endpoint, name.lower(), None) for name in HANDLERS}
        there = {name: handler for name, handler in handlers.items() if handler is not None}
        in_threads = ", ".join(_name(found) for found in there.values() if _is_sync(found))
        return Route(path, tuple(there), in_threads or None, dependencies)
    is_sync = _is_sync(endpoint) and not _is_asgi(endpoint)
    return Route(path, methods, _name(endpoint) if is_sync else None, dependencies)


def _is_of(kind: Any, module: str, name: str) -> bool:
    """Tell whether `kind` is derived from a class of Starlette's; False if that isn't imported."""
    base = getattr(sys.modules.get(module), name, None)
    return inspect.isclass(kind) and inspect.isclass(base) and issubclass(kind, base)


def _sync_dependencies(dependant: Any) -> Iterator[str]:
    for found in dependant.dependencies:
        yield from _sync_dependencies(found)
        if found.call is not None and _is_sync(found.call):
            yields = YIELDS if inspect.isgeneratorfunction(_unwrapped(found.call)) else ""
            yield _name(found.call) + yields


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _is_sync(function: Any) -> bool:
    """Tell whether FastAPI and Starlette call a function in a thread."""
    function = _unwrapped(function)
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
    return not inspect.isroutine(_unwrapped(endpoint))


def _name(function: Any) -> str:
    function = _unwrapped(function)
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def health_routes(app: Any) -> list[str]:
    """Return advice for each route that looks like a health check and needs a thread."""
    advice = []
    for route in routes(app):
        if not HEALTH.fullmatch(route.path.rstrip("/").rpartition("/")[2]):
            continue
        if route.endpoint or route.dependencies:
            what = f"{route.endpoint} is sync" if route.endpoint else "it has sync dependencies"
            advice.append(
                f"{route.path} looks like a health check and needs a thread ({what}): with all"
                " threads taken it fails while the app works. Make it async, without sync"
                " dependencies; fastapi_overflow.is_saturated() tells a readiness probe"
            )
    return advice


def pinning_routes(app: Any) -> list[str]:
    """Return advice for each WebSocket that keeps what a sync dependency yields."""
    return [
        f"{route.path} keeps what {dependency.removesuffix(YIELDS)} yields for as long as the"
        " WebSocket is open: if that is a connection, as many clients as the connection pool has"
        " connections shut out all others. Open a session for each message instead"
        for route in routes(app)
        for dependency in route.dependencies
        if route.methods == WEBSOCKET and dependency.endswith(YIELDS)
    ]
