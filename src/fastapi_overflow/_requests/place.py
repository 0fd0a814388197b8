"""The route that a request has reached, as its app names it.

Called by those who look, and once at the end of a request that is worth a note. It must never raise
for an app's own kinds of routes, and never show more of a request than the route.
"""

from __future__ import annotations

from typing import Any

Place = tuple[str | None, str | None]

NOWHERE: Place = (None, None)


def place_of(reached: Any) -> Place:
    """Return method and path of a route: ("GET", "/orders/{id}").

    :param reached: `Lease.reached`; None for a request that has reached none
    """
    if reached is None:
        return NOWHERE
    try:
        route, scope = reached
        path = _path_of(route, scope)
        # What a mount is under; the part of it that a proxy has cut off isn't the app's.
        root, around = scope.get("root_path", ""), scope.get("app_root_path")
        if around is not None and root.startswith(around):
            path = root[len(around) :] + path
        method = scope.get("method", "WEBSOCKET")
    except Exception:
        return NOWHERE
    return (method, path) if type(path) is str and type(method) is str else NOWHERE


def _path_of(route: Any, scope: Any) -> Any:
    # Included routers: FastAPI 0.165 has the prefix in a context of its own only.
    context = scope.get("fastapi", {}).get("effective_route_context")
    if context is not None and getattr(context, "original_route", None) is route:
        return context.path
    return route.path
