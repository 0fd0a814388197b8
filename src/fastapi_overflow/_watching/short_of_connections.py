"""Who has the connections that others wait for: in words, and what helps.

Called by the log when somebody has waited for long, and given what is out.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from .connections_out import Connection

MOST_GROUPS = 5  # in a line; all of them are in the record

GIVE_BACK = (
    "Give a connection back before a long await: db.close(), a session of its own for each message"
    ' of a WebSocket, Depends(get_db, scope="function") where the response is sent slowly'
)
CLOSE = "Close what has them, in a `finally` or by `with`"
ONE_SESSION = "They wait for a second one while they keep the first: use one session for both"
OUTSIDE = "Code outside of any request has them: look whether it gives them back in time"
ALL_BUSY = "All of them are at work: a larger pool would help, if the database has the connections"
NOBODY = "Nobody has any now: the pool's own timeout or the database is what takes its time"


def remedy(out: list[Connection]) -> str:
    """Return what helps where these connections are out, and others wait for one."""
    doing = Counter(each.doing for each in out)
    if not out:
        return NOBODY
    if doing["idle"]:
        return GIVE_BACK
    if doing["ended"]:
        return CLOSE
    if doing["waiting for a connection"]:
        return ONE_SESSION
    return OUTSIDE if doing["none"] * 2 > len(out) else ALL_BUSY


def grouped(out: list[Connection]) -> list[dict[str, Any]]:
    """Return who has connections: by route and line, those with most first."""
    groups: dict[tuple[str, str | None], dict[str, Any]] = {}
    for each in out:
        if each.doing == "none":
            route = "code outside of any request"
        elif each.route is None:
            route = "requests that have reached no route"
        else:
            route = f"{each.method} {each.route}"
        nothing = {"connections": 0, "idle": 0, "leaked": 0, "longest": 0.0}
        group = groups.setdefault(
            (route, each.line), {"route": route, "line": each.line, **nothing}
        )
        group["connections"] += 1
        group["idle"] += each.doing == "idle"
        group["leaked"] += each.doing == "ended"
        group["longest"] = max(group["longest"], round(each.seconds, 3))
    return sorted(groups.values(), key=lambda group: -group["connections"])


def in_words(groups: list[dict[str, Any]]) -> str:
    """Return the same for a line of the log."""
    said = [_of_group(group) for group in groups[:MOST_GROUPS]]
    rest = sum(group["connections"] for group in groups[MOST_GROUPS:])
    return "; ".join([*said, f"{rest} elsewhere"] if rest else said)


def _of_group(group: dict[str, Any]) -> str:
    line = f" ({group['line']})" if group["line"] else ""
    unused = "".join(f", {group[what]} {what}" for what in ("idle", "leaked") if group[what])
    number, route = group["connections"], group["route"]
    return f"{number} with {route}{line}{unused}, for up to {group['longest']:.1f} s"
