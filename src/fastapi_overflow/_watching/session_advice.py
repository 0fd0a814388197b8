"""Routes that take two connections at once, and WebSockets and streams that keep one.

Called by `advise()` and `doctor --app`. It must never call the app's functions.
"""

from __future__ import annotations

import ast
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

from .connection_pools import ConnectionPool
from .reading import kinds
from .reading.annotations import annotations_of, meaning
from .reading.dependencies import FUNCTION_SCOPE, Acquired, Dependencies
from .reading.names import Names
from .reading.source import body_nodes, function_of, name_of
from .reading.uses import closes
from .routes import WEBSOCKET, Found

EACH_MESSAGE = "Open a session for each message instead, in `await run_in_threadpool(...)`"
# The versions of FastAPI that left a dependency before the response was sent, from and to.
_LEFT_EARLY = (0, 106), (0, 118)


# ---- two at once


def nested(
    found: list[Found], dependencies: Dependencies, limit: float, pools: list[ConnectionPool]
) -> list[str]:
    """Return advice for each route that gets two sessions by its dependencies."""
    return _each(found, lambda route: _nested(route, dependencies, limit, pools))


def _nested(
    route: Found, dependencies: Dependencies, limit: float, pools: list[ConnectionPool]
) -> list[str]:
    kept = [each for each in dependencies.acquired(route.dependant) if each.is_kept]
    by_pool: dict[int, list[Acquired]] = {}
    for each in kept:
        engine: Any = None if each.given.value is None else each.given.value.engine
        by_pool.setdefault(0 if engine is None else id(engine.pool), []).append(each)
    unknown = by_pool.pop(0, [])
    key, most = max(by_pool.items(), key=lambda item: len(item[1]), default=(0, []))
    most = [each for each in kept if each in most or each in unknown]
    if len(most) < 2:
        return []
    bounded = [pool for pool in pools if pool.key and pool.has_bound]
    fitting = [pool for pool in bounded if pool.key == key] if key else bounded
    if key and not fitting:
        return []  # nobody ever waits for that one
    needed = limit * (len(most) - 1) + 1
    if len(fitting) == 1 and fitting[0].capacity >= needed:
        return []
    givers = _listed([dependencies.sources.told(each.call) for each in most])
    certain = all(each.given.is_certain for each in most)
    text = (
        f"{route}: {dependencies.sources.told(route.endpoint)} gets"
        f" {'' if certain else 'what looks like '}{len(most)} sessions at once, of {givers}: its"
        " requests have one connection and wait for another. "
    )
    if needed < math.inf:
        has = f"; {fitting[0].name} has {fitting[0].capacity:g}" if len(fitting) == 1 else ""
        text += (
            f"For none to wait for another like it the pool must have {needed:g} connections"
            f" (threads x {len(most) - 1} + 1, with {limit:g} threads){has}. "
        )
    return [text + "Use one session for both" if len(most) == 2 else text + "Use one for all"]


def _listed(givers: list[str]) -> str:
    times = {giver: givers.count(giver) for giver in givers}
    each = [giver if count == 1 else f"{giver}, {count} times" for giver, count in times.items()]
    return " and ".join(each)


# ---- kept for long


def kept_by_websockets(found: list[Found], dependencies: Dependencies) -> list[str]:
    """Return advice for each WebSocket that keeps a session, or what may be one."""
    websockets = [route for route in found if route.methods == WEBSOCKET]
    return _each(websockets, lambda route: _kept_by_websocket(route, dependencies))


def _kept_by_websocket(route: Found, dependencies: Dependencies) -> list[str]:
    advice = []
    for each in dependencies.acquired(route.dependant):
        is_unknown = each.given.value is None and inspect.isgeneratorfunction(
            function_of(each.call)
        )
        if not each.is_kept and not is_unknown:
            continue
        what = _what(each)
        lead = f"{what}: as" if what else "If that is a connection, as"
        endpoint, giver = route.endpoint, each.call
        advice.append(
            f"{route} keeps what {name_of(giver)} yields for as long as the WebSocket is open"
            f" ({name_of(endpoint)}, {dependencies.sources.place(endpoint)}; {name_of(giver)},"
            f" {dependencies.sources.place(giver)}). {lead} many clients as the connection pool has"
            f" connections shut out all others. {EACH_MESSAGE}"
        )
    return advice


def kept_by_streams(found: list[Found], dependencies: Dependencies) -> list[str]:
    """Return advice for each streamed response during which a session is kept."""
    fastapi = getattr(sys.modules.get("fastapi"), "__version__", "")
    version = tuple(int(part) for part in fastapi.split(".")[:2] if part.isdigit())
    if _LEFT_EARLY[0] <= version < _LEFT_EARLY[1]:
        return []
    others = [route for route in found if route.methods != WEBSOCKET]
    return _each(others, lambda route: _kept_by_stream(route, dependencies))


def _kept_by_stream(route: Found, dependencies: Dependencies) -> list[str]:
    kept = [
        each
        for each in dependencies.acquired(route.dependant)
        if each.is_kept and each.scope != FUNCTION_SCOPE
    ]
    if not kept or not (streams := _streams(route, dependencies)):
        return []
    frame = dependencies.values.frame(route.endpoint, {})
    mine = {each.name: each.call for each in route.dependant.dependencies}
    closed = [call for name, call in mine.items() if frame and name and closes(name, frame)]
    sources = dependencies.sources
    endpoint = sources.told(route.endpoint)
    return [
        f"{route}: {endpoint} {streams} and keeps what {sources.told(each.call)} yields"
        f" until the client has read all of it. {_what(each)}: as many clients as the"
        f" connection pool has connections shut out all others. {_give_back(each)}"
        for each in kept
        if each.call not in closed
    ]


def _give_back(kept: Acquired) -> str:
    before = (
        f'`Depends({name_of(kept.call).rpartition(".")[2]}, scope="function")` gives it back before'
        " the response is sent"
        if hasattr(kept.dependant, "scope")
        else "Close it before the response is sent"
    )
    return f"{before}; if the stream queries, have it open a session of its own, for each piece"


def _what(kept: Acquired) -> str:
    if not kept.given.is_session:
        return ""
    return "It is a session" if kept.given.is_certain else "It looks like a session"


def _streams(route: Found, dependencies: Dependencies) -> str:
    """Return how a route's response is a stream, in words; empty if it is none."""
    function = function_of(route.endpoint)
    if function is None:
        return ""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "is a stream"
    if _is_streaming(route.response_class):
        return "streams its response"
    said = meaning(annotations_of(function).get("return"), Names(function, dependencies.sources))
    if said is not None and _is_streaming(said.what):
        return "streams its response"
    frame = dependencies.values.frame(route.endpoint, {})
    for node in body_nodes(frame.node) if frame is not None else ():
        if frame is not None and isinstance(node, ast.Return) and node.value is not None:
            made = dependencies.values.value(node.value, frame)
            known = made is not None and made.kind in (kinds.OTHER, kinds.KEEPER)
            if made is not None and known and _is_streaming(made.what):
                return "looks like it streams its response"
    return ""


def _is_streaming(cls: Any) -> bool:
    if not issubclass(type(cls), type):
        return False
    base = getattr(sys.modules.get("starlette.responses"), "StreamingResponse", None)
    return (base is not None and issubclass(cls, base)) or any(
        each.__name__ == "EventSourceResponse" for each in cls.__mro__
    )


def _each(found: list[Found], look: Callable[[Found], list[str]]) -> list[str]:
    """Look at each route that has dependencies; what can't be examined gets no advice."""
    advice = []
    for route in found:
        if route.dependant is None:
            continue
        try:
            advice += look(route)
        except Exception:  # noqa: S112 - whatever there is in an app
            continue
    return advice
