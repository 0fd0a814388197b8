"""Tell the operator who keeps connections: by name, with the line that took them.

Told by `_requests.checkouts`, in any thread, about what shouldn't be. It must never say more than a
line a minute of each kind and pool, and never have those wait that tell it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from .. import _settings
from .._connections.taken import Taken
from .._log import inform, warn
from .._requests.origin import line_of
from .._requests.place import Place
from .connections_out import connections_of
from .how_often import HowOften
from .short_of_connections import grouped, in_words, remedy
from .writer import Writer

_MOST_ROUTES = 1024  # of which it is remembered that they were told

IN_THREADS = (
    "Make the endpoint and what it depends on `def`, so that they run in threads, or use an async"
    " engine"
)
NOT_THERE = "Make the code at that line `def`, so that it runs in a thread, or use an async engine"
BY_HOPS = "Call what queries by `await run_in_threadpool(...)`, or use an async engine"


class ConnectionLog:
    """The connections of all pools, for the log; see `_requests.checkouts.Observer`."""

    def __init__(self) -> None:
        self._how_often = HowOften()
        self._told: dict[tuple[str, Place, str], str] = {}

    def seen(self) -> list[str]:
        """Return what has been told of single routes, for `advise()`."""
        return list(dict(self._told).values())

    def waited(self, pool: Any) -> None:
        """Somebody has waited for a second: say who has the connections."""
        name = pool.pool.name()
        suppressed = self._how_often.may_tell("connections_exhausted", name)
        if suppressed is None:
            return
        out = connections_of([pool])
        idle = sum(each.doing == "idle" for each in out)
        leaked = sum(each.doing == "ended" for each in out)
        groups = grouped(out)
        waiting = len(pool.waiting_since())
        _tell(
            warn,
            "Connections are short: somebody has waited for one of %s for a second, %d wait now."
            " %d of %g are out, %d idle%s%s. %s.",
            (
                name,
                waiting,
                len(out),
                pool.capacity,
                idle,
                f", {leaked} leaked" if leaked else "",
                f": {in_words(groups)}" if groups else "",
                remedy(out),
            ),
            event="connections_exhausted",
            pool=name,
            capacity=pool.capacity,
            waiting=waiting,
            out=len(out),
            idle=idle,
            leaked=leaked,
            holders=groups,
            suppressed=suppressed,
        )

    def leaked(self, taken: Taken, place: Place) -> None:
        """A request has ended and its connection is still out a second later."""
        writer.start()  # for `came_back`, also where this is left out
        name = taken.account.ledger.pool.name()
        suppressed = self._how_often.may_tell("connection_leaked", name)
        if suppressed is None:
            return
        route, line = _route(place), line_of(taken.code, taken.instruction)
        _tell(
            warn,
            "A connection leaks: %s has ended, and one of %s that it took%s is still out a second"
            " later. Close what has it, in a `finally` or by `with`.",
            (route, name, _at(line)),
            event="connection_leaked",
            pool=name,
            route=route,
            line=line,
            seconds=_seconds_of(taken),
            suppressed=suppressed,
        )

    def came_back(self, taken: Taken, place: Place) -> None:
        """It is back after all."""
        name = taken.account.ledger.pool.name()
        suppressed = self._how_often.may_tell("connection_back", name)
        if suppressed is None:
            return
        writer.write_by_collector(_tell_back, taken, place, _seconds_of(taken), name, suppressed)

    def took_on_loop(self, taken: Taken, place: Place, seconds: float) -> None:
        """A request has taken a connection on the event loop: once for each route."""
        name = taken.account.ledger.pool.name()
        suppressed = self._may_tell_of("on_the_loop", place, name)
        if suppressed is None:
            return
        route, line = _route(place), line_of(taken.code, taken.instruction)
        if place[0] == "WEBSOCKET":
            helps = BY_HOPS
        else:
            is_async = iscoroutinefunction(taken.account.holder.endpoint)
            helps = IN_THREADS if is_async else NOT_THERE
        text = (
            f"{route} queries on the event loop: it took a connection of {name}{_at(line)}, and the"
            f" loop, with all other requests, stood still for {seconds:.3f} s. {helps}"
        )
        self._remember("on_the_loop", place, name, text)
        _tell(
            warn,
            "%s.",
            (text,),
            event="on_the_loop",
            pool=name,
            route=route,
            line=line,
            seconds=round(seconds, 3),
            suppressed=suppressed,
        )

    def took_second(self, taken: Taken, place: Place) -> None:
        """A request has two connections of a pool at once: once for each route."""
        account = taken.account
        pool, most = account.ledger, account.held
        tokens = getattr(account.holder.owner, "pool", None)  # no owner: it has just ended
        limit = getattr(tokens, "limit", _settings.current().limit)
        needed = limit * (most - 1) + 1
        if pool.capacity >= needed:
            return
        name = pool.pool.name()
        suppressed = self._may_tell_of("nested", place, name)
        if suppressed is None:
            return
        mine = (Taken(*each) for each in list(pool.out.values()) if each[0] is account)
        in_order = sorted(mine, key=lambda each: each.since)
        lines = [line_of(each.code, each.instruction) for each in in_order]
        route = _route(place)
        at = " and ".join(str(line) for line in lines if line) or "unknown lines"
        text = (
            f"{route} takes {most} connections of {name} at once, at {at}: with {limit:g} threads"
            f" that needs a pool of {needed:g} (threads x (most - 1) + 1), this one has"
            f" {pool.capacity:g}. Use one session for both"
        )
        self._remember("nested", place, name, text)
        _tell(
            warn,
            "%s.",
            (text,),
            event="nested",
            pool=name,
            route=route,
            lines=lines,
            most=most,
            needed=needed,
            capacity=pool.capacity,
            suppressed=suppressed,
        )

    def _may_tell_of(self, kind: str, place: Place, pool: str) -> int | None:
        """Return how many were left out before this one, for what is told of each route once."""
        if place[1] is None or (kind, place, pool) in self._told:
            return None
        return self._how_often.may_tell(kind, pool)

    def _remember(self, kind: str, place: Place, pool: str, text: str) -> None:
        if len(self._told) >= _MOST_ROUTES:
            self._told.clear()
        self._told[kind, place, pool] = text


def _route(place: Place) -> str:
    method, path = place
    return "a request that has reached no route" if path is None else f"{method} {path}"


def _at(line: str | None) -> str:
    return "" if line is None else f" at {line}"


def _seconds_of(taken: Taken) -> float:
    return round(time.monotonic() - taken.since, 3)


def _tell_back(taken: Taken, place: Place, seconds: float, name: str, suppressed: int) -> None:
    route, line = _route(place), line_of(taken.code, taken.instruction)
    _log(
        inform,
        "A connection is back that had leaked: one of %s that %s took%s, after %.1f s.",
        (name, route, _at(line), seconds),
        event="connection_back",
        pool=name,
        route=route,
        line=line,
        seconds=seconds,
        suppressed=suppressed,
    )


def _tell(how: Callable[..., None], text: str, args: tuple[object, ...], **fields: Any) -> None:
    """Log a record, in a thread of its own.

    A handler of the app's may block, or take a connection itself: where those wait for one that
    tell this, or on the event loop, it would keep others waiting.
    """
    writer.write(partial(_log, how, text, args, **fields))


def _log(how: Callable[..., None], text: str, args: tuple[object, ...], **fields: Any) -> None:
    if fields["suppressed"]:
        text += " %d before this one were not logged."
        args += (fields["suppressed"],)
    how(text, *args, extra=fields)


writer = Writer()
