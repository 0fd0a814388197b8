"""What the requests of each route have waited for, and how long they kept connections.

Written at the end of each request, read by those who look. It must stay small: an app may make
routes without end.
"""

from __future__ import annotations

import os
from threading import RLock
from typing import TYPE_CHECKING, Any

from .faults import tell
from .place import OTHER_METHOD, named_by, place_of

if TYPE_CHECKING:
    from .._threads.lease import Lease

MOST_ROUTES = 100  # that are told apart
OTHERS = "(others)"


class RouteTimes:
    """Of one route, since the process began; seconds.

    :ivar requests: that have ended
    :ivar waited_for_thread: by their hops, one after the other
    :ivar waited_for_connection: before they began, and at the checkout
    :ivar held: for which they had a connection
    :ivar idle: of these, those in which nothing of the request was at work
    """

    __slots__ = ("held", "idle", "name", "requests", "waited_for_connection", "waited_for_thread")

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = 0
        self.waited_for_thread = 0.0
        self.waited_for_connection = 0.0
        self.held = 0.0
        self.idle = 0.0


# By what has the route's path, and the method. That is kept, as the next one might get the same id.
_by_route: dict[tuple[int, Any], tuple[Any, RouteTimes]] = {}
_by_name: dict[str, RouteTimes] = {}

# Not a Lock: the garbage collector may end a request in the middle of these lines.
_lock = RLock()


def _start_over() -> None:
    """Begin anew in the child of a fork: nothing of it has happened here."""
    global _lock
    _lock = RLock()  # another thread of the parent's may have had it
    _by_route.clear()
    _by_name.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)


def add(lease: Lease, held: float = 0.0, idle: float = 0.0, waited: float = 0.0) -> None:
    """Note what a request has done that ends, if it has reached a route.

    :param waited: seconds for connections
    """
    reached = lease.reached
    if reached is None:
        return
    try:
        named, scope = reached
        if "fastapi" in scope:
            named = named_by(named, scope)
        key = id(named), scope.get("method")
        with _lock:
            # Of a mounted app each time: it may be mounted twice, and clients may choose where.
            found = None if "app_root_path" in scope else _by_route.get(key)
            times = _find(key, named, reached) if found is None else found[1]
            times.requests += 1
            if lease.waited:
                times.waited_for_thread += lease.waited
            if waited:
                times.waited_for_connection += waited
            if held:
                times.held += held
                times.idle += idle
    except Exception as exc:  # a call less than `never_raises`, for each request
        tell(exc)


def _find(key: tuple[int, Any], named: Any, reached: Any) -> RouteTimes:
    name = name_of(reached)
    if name is None or (name not in _by_name and len(_by_name) >= MOST_ROUTES):
        name = OTHERS
    times = _by_name.get(name)
    if times is None:
        times = _by_name[name] = RouteTimes(name)
    if "app_root_path" not in reached[1] and not name.startswith(OTHER_METHOD):
        if len(_by_route) >= 4 * MOST_ROUTES:
            _by_route.clear()  # routes that an app makes anew: their names are known still
        _by_route[key] = named, times
    return times


def name_of(reached: Any) -> str | None:
    """Return what a route is called here: "GET /orders/{id}"; None for what has no such name."""
    method, path = place_of(reached)
    return None if path is None else f"{method} {path}"


def all_times() -> list[RouteTimes]:
    """Return those of all routes that have answered a request."""
    with _lock:
        return list(_by_name.values())
