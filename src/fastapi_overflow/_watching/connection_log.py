"""Tell the operator who keeps connections: by name, with the line that took them.

Told by `_requests.checkouts`, in any thread, about what shouldn't be. It must never say more than a
line a minute of each kind and pool; what is left out is counted, and told with the next one.
"""

from __future__ import annotations

import time
from inspect import iscoroutinefunction
from threading import RLock
from typing import Any

from .. import _settings
from .._connections.taken import Taken
from .._log import inform, warn
from .._requests.origin import line_of
from .._requests.place import Place, place_of
from .connections_out import Connection, connections_of

SECONDS_BETWEEN = 60.0

_MOST_GROUPS = 5  # in a line; all of them are in the record
_MOST_ROUTES = 1024  # of which it is remembered that they were told

GIVE_BACK = (
    "Give a connection back before a long await: db.close(), a session of its own for each message"
    ' of a WebSocket, Depends(get_db, scope="function") where the response is sent slowly'
)
ALL_BUSY = "All of them are at work: a larger pool would help, if the database has the connections"


class ConnectionLog:
    """The connections of all pools, for the log; see `_requests.checkouts.Observer`."""

    def __init__(self) -> None:
        # Not a Lock: the garbage collector may return a connection in the middle of these lines.
        self._lock = RLock()
        self._last: dict[tuple[str, str], float] = {}
        self._suppressed: dict[tuple[str, str], int] = {}
        self._told: dict[tuple[str, Place, str], str] = {}

    def seen(self) -> list[str]:
        """Return what has been told of single routes, for `advise()`."""
        return list(dict(self._told).values())

    # ---- what is told

    def waited(self, pool: Any) -> None:
        """Somebody has waited for a second: say who has the connections."""
        name = pool.pool.name()
        suppressed = self._may_tell("connections_exhausted", name)
        if suppressed is None:
            return
        out = connections_of([pool])
        idle = sum(each.doing in ("idle", "ended") for each in out)
        groups = _grouped(out)
        where = "; ".join(_in_words(group) for group in groups[:_MOST_GROUPS])
        if len(groups) > _MOST_GROUPS:
            where += f"; {sum(g['connections'] for g in groups[_MOST_GROUPS:])} elsewhere"
        warn(
            "Connections are short: somebody has waited for one of %s for a second. %d of %g are"
            " out, %d of them idle: %s. %s.%s",
            name,
            len(out),
            pool.capacity,
            idle,
            where or "nobody known has them",
            GIVE_BACK if idle else ALL_BUSY,
            _and_before(suppressed),
            extra={
                "event": "connections_exhausted",
                "pool": name,
                "capacity": pool.capacity,
                "out": len(out),
                "idle": idle,
                "holders": groups,
                "suppressed": suppressed,
            },
        )

    def leaked(self, taken: Taken) -> None:
        """A request has ended and its connection is still out a second later."""
        name = taken.account.ledger.pool.name()
        suppressed = self._may_tell("connection_leaked", name)
        if suppressed is None:
            return
        route, line = _route_of(taken), line_of(taken.code, taken.instruction)
        warn(
            "A connection leaks: %s has ended, and one of %s that it took at %s is still out a"
            " second later. Close what has it, in a `finally` or by `with`.%s",
            route,
            name,
            line,
            _and_before(suppressed),
            extra={
                "event": "connection_leaked",
                "pool": name,
                "route": route,
                "line": line,
                "seconds": round(time.monotonic() - taken.since, 3),
                "suppressed": suppressed,
            },
        )

    def came_back(self, taken: Taken) -> None:
        """It is back after all."""
        name = taken.account.ledger.pool.name()
        suppressed = self._may_tell("connection_back", name)
        if suppressed is None:
            return
        route, line = _route_of(taken), line_of(taken.code, taken.instruction)
        seconds = time.monotonic() - taken.since
        inform(
            "A connection is back that had leaked: one of %s, taken by %s at %s, after %.1f s.%s",
            name,
            route,
            line,
            seconds,
            _and_before(suppressed),
            extra={
                "event": "connection_back",
                "pool": name,
                "route": route,
                "line": line,
                "seconds": round(seconds, 3),
                "suppressed": suppressed,
            },
        )

    def took_on_loop(self, taken: Taken, seconds: float) -> None:
        """A request has taken a connection on the event loop: once for each route."""
        holder = taken.account.holder
        name = taken.account.ledger.pool.name()
        suppressed = self._may_tell_of("on_the_loop", taken, name)
        if suppressed is None:
            return
        route, line = _route_of(taken), line_of(taken.code, taken.instruction)
        is_async = iscoroutinefunction(holder.endpoint)
        remedy = (
            "Make the endpoint and what it depends on `def`, so that they run in threads, or use"
            " an async engine"
            if is_async
            else "Have that code run in a thread, or before the response is made"
        )
        text = (
            f"{route} queries on the event loop: it took a connection of {name} at {line},"
            f" and the loop, with all other requests, stood still for {seconds:.3f} s. {remedy}"
        )
        self._remember("on_the_loop", taken, text)
        warn(
            "%s.%s",
            text,
            _and_before(suppressed),
            extra={
                "event": "on_the_loop",
                "pool": name,
                "route": route,
                "line": line,
                "seconds": round(seconds, 3),
                "suppressed": suppressed,
            },
        )

    def took_second(self, taken: Taken) -> None:
        """A request has two connections of a pool at once: once for each route."""
        pool = taken.account.ledger
        name = pool.pool.name()
        most = taken.account.held
        limit = _settings.current().limit
        needed = limit * (most - 1) + 1
        if pool.capacity >= needed:
            return
        suppressed = self._may_tell_of("nested", taken, name)
        if suppressed is None:
            return
        lines = sorted(
            (Taken(*each) for each in list(pool.out.values()) if each[0] is taken.account),
            key=lambda each: each.since,
        )
        places = [str(line_of(each.code, each.instruction)) for each in lines]
        route = _route_of(taken)
        text = (
            f"{route} takes {most} connections of {name} at once, at {' and '.join(places)}:"
            f" with {limit} threads that needs a pool of {needed} (threads x (most - 1) + 1), this"
            f" one has {pool.capacity}. Use one session for both"
        )
        self._remember("nested", taken, text)
        warn(
            "%s.%s",
            text,
            _and_before(suppressed),
            extra={
                "event": "nested",
                "pool": name,
                "route": route,
                "lines": places,
                "most": most,
                "needed": needed,
                "capacity": pool.capacity,
                "suppressed": suppressed,
            },
        )

    # ---- how often

    def _may_tell(self, kind: str, pool: str) -> int | None:
        """Return how many of a kind were left out before this one; None if this one is to be."""
        key = kind, pool
        now = time.monotonic()
        with self._lock:
            if now - self._last.get(key, -SECONDS_BETWEEN) < SECONDS_BETWEEN:
                self._suppressed[key] = self._suppressed.get(key, 0) + 1
                return None
            if len(self._last) >= _MOST_ROUTES:  # pools without end
                self._last.clear()
            self._last[key] = now
            return self._suppressed.pop(key, 0)

    def _may_tell_of(self, kind: str, taken: Taken, pool: str) -> int | None:
        """Return the same for what is told of each route once."""
        place = _place(taken)
        if place[1] is None or (kind, place, pool) in self._told:
            return None
        return self._may_tell(kind, pool)

    def _remember(self, kind: str, taken: Taken, text: str) -> None:
        if len(self._told) >= _MOST_ROUTES:
            self._told.clear()
        self._told[kind, _place(taken), taken.account.ledger.pool.name()] = text


def _place(taken: Taken) -> Place:
    holder = taken.account.holder
    lease = holder.owner
    return holder.place or place_of(None if lease is None else lease.reached)


def _route_of(taken: Taken) -> str:
    method, path = _place(taken)
    return "a request that has reached no route" if path is None else f"{method} {path}"


def _grouped(out: list[Connection]) -> list[dict[str, Any]]:
    """Return who has connections: by route and line, those with most first."""
    groups: dict[tuple[str, str | None], dict[str, Any]] = {}
    for each in out:
        route = f"{each.method} {each.route}" if each.route else "no route"
        if each.doing == "none":
            route = "code outside of any request"
        group = groups.setdefault(
            (route, each.line),
            {"route": route, "line": each.line, "connections": 0, "idle": 0, "longest": 0.0},
        )
        group["connections"] += 1
        group["idle"] += each.doing in ("idle", "ended")
        group["longest"] = max(group["longest"], round(each.seconds, 3))
    return sorted(groups.values(), key=lambda group: -group["connections"])


def _in_words(group: dict[str, Any]) -> str:
    idle = f", {group['idle']} idle" if group["idle"] else ""
    return (
        f"{group['connections']} with {group['route']} ({group['line']}){idle},"
        f" for up to {group['longest']:.1f} s"
    )


def _and_before(suppressed: int) -> str:
    return f" {suppressed} before this one were not logged." if suppressed else ""
