"""The route that a request has reached, as its app names it.

Called by those who look, and once at the end of a request that is worth a note. It must never raise
for an app's own kinds of routes, and never show more of a request than the route.
"""

from __future__ import annotations

from typing import Any

Place = tuple[str | None, str | None]

NOWHERE: Place = (None, None)

# Servers hand any word on that a client sends in the place of a method.
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "WEBSOCKET"}
)
OTHER_METHOD = "(other)"


def place_of(reached: Any) -> Place:
    """Return method and path of a route: ("GET", "/orders/{id}").

    :param reached: `Lease.reached`; None for a request that has reached none
    """
    if reached is None:
        return NOWHERE
    try:
        route, scope = reached
        path = named_by(route, scope).path
        mount = mount_of(scope)
        if mount:
            path = _without_values(mount, route, scope) + path
        method = scope.get("method", "WEBSOCKET")
        if method not in _METHODS and method not in (getattr(route, "methods", None) or ()):
            method = OTHER_METHOD
    except Exception:
        return NOWHERE
    return (method, path) if type(path) is str and type(method) is str else NOWHERE


def named_by(route: Any, scope: Any) -> Any:
    """Return what has the path of a route: the route itself, mostly."""
    # Included routers: FastAPI 0.165 has the prefix in a context of its own only.
    context = scope["fastapi"].get("effective_route_context") if "fastapi" in scope else None
    if context is None:
        return route
    return context if getattr(context, "original_route", None) is route else route


def mount_of(scope: Any) -> str:
    """Return what the app is mounted under, as the client has sent it; "" for nothing.

    The part of it that a proxy has cut off isn't the app's.
    """
    around = scope.get("app_root_path")
    root: str = "" if around is None else scope.get("root_path", "")
    return root[len(around) :] if root and root.startswith(around) else ""


def _without_values(mount: str, route: Any, scope: Any) -> str:
    """Return what an app is mounted under with the names of parameters for what clients send."""
    own = getattr(route, "param_convertors", ())
    values = {n: v for n, v in scope.get("path_params", {}).items() if n not in own}
    parts = mount.split("/")
    for name, value in reversed(values.items()):
        for n in reversed(range(1, len(parts))):
            if _is_sent_as(value, parts[n]):
                parts[n] = f"{{{name}}}"
                break
        else:
            if type(value) is str and value in mount:  # of several parts
                return "/{...}"
    return "/".join(parts)


def _is_sent_as(value: Any, part: str) -> bool:
    """Tell whether a part of a path is what a parameter was made of: "042" of 42."""
    if type(value) is str:
        return part == value
    try:
        return part == str(value) or bool(type(value)(part) == value)
    except Exception:
        return False
