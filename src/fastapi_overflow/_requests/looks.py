"""Looks at a ledger from time to time, while it has something set aside or somebody waits.

Begun where requests ask to be let in, and done by their event loop. It must never raise, and never
go on for a ledger of which nobody wants anything.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

from .._connections.route_habits import LOOK_SECONDS
from .faults import never_raises

if TYPE_CHECKING:
    from .._connections.ledger import Ledger
    from .._threads.pool import TokenPool


def look_at(pool: TokenPool, ledger: Ledger) -> None:
    """Have the event loop of a pool of threads look at a ledger, if it doesn't already."""
    if ledger not in pool.looked_at:
        _begin(pool, ledger)


@never_raises
def _begin(pool: TokenPool, ledger: Ledger) -> None:
    pool.looked_at.add(ledger)  # before the loop may be told that nobody need look any longer
    try:
        if pool.clock.is_running_here():
            _look_later(pool, ledger)
        else:  # an event loop that the request runs in a thread
            pool.clock.call_soon_threadsafe(partial(_look_later, pool, ledger))
    except BaseException:
        pool.looked_at.discard(ledger)
        raise


def _look_later(pool: TokenPool, ledger: Ledger) -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(LOOK_SECONDS, _look, pool, ledger, context=Context())


def _look(pool: TokenPool, ledger: Ledger) -> None:
    _look_once(ledger)
    if ledger.door.is_watched:
        _look_later(pool, ledger)
        return
    pool.looked_at.discard(ledger)
    if ledger.door.is_watched:  # since just now, by a thread that found the ledger looked at
        look_at(pool, ledger)


@never_raises
def _look_once(ledger: Ledger) -> None:
    ledger.door.look()
