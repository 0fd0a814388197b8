"""Who waited for whom: what is said of a checkout that found no connection.

Asked when one fails. It must never raise, and never show more of a request than its route.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from .origin import line_of
from .place import place_of

MOST_NAMED = 5  # routes and lines


def story_of(account: Any, reason: str) -> str:
    """Return in a sentence or two why a checkout has failed, and who has the connections.

    :param account: of whoever got none
    """
    pool = account.ledger
    holders = Counter[tuple[str, str]]()
    waiting = Counter[tuple[str, str]]()
    for each, _, code, instruction in list(pool.out.values()):
        line = line_of(code, instruction)
        key = _name_of(each.holder), "" if line is None else f" ({line})"
        holders[key] += 1
        waiting[key] += bool(each.holder.waiting)
    named = []
    rest = sum(holders.values())
    for key, number in holders.most_common(MOST_NAMED):
        name, line = key
        also = f", {waiting[key]} of which wait for another" if waiting[key] else ""
        named.append(f"{name} has {number}{line}{also}")
        rest -= number
    if rest:
        named.append(f"others have {rest}")
    adrift = pool.adrift
    if adrift > 0:
        named.append(f"{adrift} were taken before anybody looked")
    said = f"fastapi-overflow: {_name_of(account.holder)} got no connection: {reason}."
    return f"{said} Of {pool.capacity:g}, {'; '.join(named)}." if named else said


def _name_of(holder: Any) -> str:
    lease = holder.owner
    if lease is None:
        return "code outside of any request"
    method, path = holder.place or place_of(lease.reached)
    if path is None:
        return "a request that has reached no route"
    return f"{method} {path} (ended)" if holder.has_ended else f"{method} {path}"
