"""Who waited for whom: what is said of a checkout that found no connection.

Asked when one fails. It must never raise, and never ask the app's objects for more than their
names.
"""

from __future__ import annotations

from collections import Counter
from types import FunctionType
from typing import Any

from .._connections.holder import Account, Holder
from .._connections.ledger import Ledger

MOST_NAMED = 5  # routes


def story_of(ledger: Ledger, account: Account, reason: str) -> str:
    """Return in a sentence or two why a checkout has failed, and who has the connections."""
    holders = Counter[str]()
    waiting = Counter[str]()
    for each, *_ in list(ledger.out.values()):
        name = _name_of(each.holder)
        holders[name] += 1
        waiting[name] += bool(each.holder.waiting)
    named = []
    rest = sum(holders.values())
    for name, number in holders.most_common(MOST_NAMED):
        also = f", {waiting[name]} of which wait for another" if waiting[name] else ""
        named.append(f"{name} has {number}{also}")
        rest -= number
    if rest:
        named.append(f"others have {rest}")
    if ledger.stock.adrift > 0:
        named.append(f"{ledger.stock.adrift} were taken before anybody looked")
    said = f"fastapi-overflow: {_name_of(account.holder)} got no connection: {reason}."
    return f"{said} Of {ledger.capacity}, {'; '.join(named)}." if named else said


def _name_of(holder: Holder) -> str:
    if holder.owner is None:
        return "code outside of any request"
    endpoint = holder.endpoint
    if endpoint is None:
        return "a request before it reached its route"
    named: Any = endpoint if type(endpoint) in (FunctionType, type) else type(endpoint)
    name = f"{named.__module__}.{named.__qualname__}"
    return f"{name} (ended)" if holder.has_ended else name
