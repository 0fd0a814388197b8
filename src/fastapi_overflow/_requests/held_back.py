"""Where a request waits until it is let in: in the event loop, before it begins.

Called for a request that holds nothing, where it reaches a point at which it may have to wait. It
must never wait longer than the pools move, and leave nothing set aside for one that is gone.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeAlias

from .._connections.entries import Entry
from .._connections.holder import Account, Holder
from .._connections.ledger import Ledger
from .._threads.lease import Lease
from .faults import tell
from .looks import look_at
from .signal_of_loop import Signal

# Seconds for which a request waits at most before or after a hop. A guess: a burst that is larger
# than the pool must have its chance.
LATE_SECONDS = 1.0

# How anyio's cancellations begin, from 3.7 to 4.16.
BY_SCOPE = "Cancelled by cancel scope"

Wait: TypeAlias = Coroutine[Any, Any, None]

# What a request needs before it begins: of which pools, and how many set aside.
Claims: TypeAlias = list[tuple[Ledger, int]]


def id_of_ledger(claim: tuple[Ledger, int]) -> int:
    """Return what claims are sorted by: all in one order, so that nobody waits in a circle."""
    return id(claim[0])


def be_let_in(
    lease: Lease,
    holder: Holder,
    claims: Claims,
    seconds: float | None = None,
    is_late: bool = False,
) -> Wait | None:
    """Let a request go on as soon as it is let in by one ledger after the other.

    :param seconds: to wait at most, for what may turn out to be needless; None: for what requests
        of its kind need, as long as the pools move
    :param is_late: whether it has begun: then it isn't turned away
    """
    for n, (ledger, claim) in enumerate(claims):
        if not ledger.door.lets_in(holder.account(ledger), claim):
            return _wait_to_be_let_in(lease, holder, claims[n:], seconds, is_late)
        if claim and (seconds is None or is_late):
            _hold(lease, holder)
        look_at(lease.pool, ledger)
    return None


async def _wait_to_be_let_in(
    lease: Lease, holder: Holder, claims: Claims, seconds: float | None, is_late: bool
) -> None:
    patience = lease.pool.patience
    may_refuse = holder.endpoint is not None and patience is not None and not is_late
    refusal = lease.refusal if may_refuse and seconds is None else None
    holder.is_held_back = not is_late
    waits_for = deque(claims)
    set_aside: dict[Ledger, int] = {}
    rounds = 3
    while waits_for:
        ledger, claim = waits_for.popleft()
        at_most = seconds
        if refusal is not None:
            at_most = patience.seconds - (time.monotonic() - holder.began)
        entry = await _wait_at(
            ledger, claim, lease, holder, at_most, is_usual=seconds is None, is_late=is_late
        )
        if entry.is_in:
            if entry.claim:
                set_aside[ledger] = entry.claim
                if seconds is None or is_late:
                    _hold(lease, holder)
        elif seconds is not None:
            break  # it goes on without
        elif refusal is not None and refusal.holds_nothing():
            lease.pool.count_refused(time.monotonic() - holder.began)
            raise refusal.error()
        if not waits_for and len(claims) > 1:
            # What the first pools have set aside may have been given up meanwhile.
            kept = set_aside.items()
            stale = [c for c in kept if not c[0].door.renew(holder.account(c[0]), c[1])]
            if stale and rounds:
                waits_for.extend(stale)
                rounds -= 1
    holder.has_waited()


async def _wait_at(
    ledger: Ledger,
    claim: int,
    lease: Lease,
    holder: Holder,
    seconds: float | None,
    *,
    is_usual: bool,
    is_late: bool,
) -> Entry:
    """Wait until one ledger has let the request in, or it waits no longer; return its entry.

    :param seconds: to wait at most; None: as long as the pool moves
    """
    since = time.monotonic()
    let_in = Signal()
    entry = ledger.door.queue(
        holder.account(ledger), claim, let_in.set, is_usual=is_usual, is_late=is_late
    )
    lease.pool.held_back += 1
    try:
        look_at(lease.pool, ledger)
        if seconds is not None:
            await let_in.wait(seconds)
        else:
            # Where nothing comes back for the pool's timeout, it gets the pool's error at its
            # checkout, at once.
            while not entry.is_in and (left := ledger.seconds_left(since)) > 0:
                await let_in.wait(left)
            if not entry.is_in:
                holder.waited = ledger.timeout()
    finally:
        # Its time is up, or it is cancelled: then what was set aside goes with the request.
        lease.pool.held_back -= 1
        ledger.door.leave(entry)
    return entry


def be_let_in_late(
    lease: Lease, holder: Holder, claims: Claims, has_result: bool = False
) -> Wait | None:
    """Let a request go on before or after a hop, as `be_let_in` does before it begins.

    For a second at most in all until it takes one, and never again once that was in vain: it may
    have a lock of the app's, and it may be about to take none.

    :param has_result: whether the hop has returned something that may have to be closed: then the
        wait raises nothing
    """
    began_at = holder.began_at()
    wait = be_let_in(lease, holder, claims, LATE_SECONDS - holder.waited_late(), is_late=True)
    if wait is None:
        holder.begin_later(began_at, 0.0)
        return None
    return _wait_late(holder, wait, began_at, has_result)


async def _wait_late(
    holder: Holder, wait: Wait, began_at: tuple[float, dict[Account, float]], has_result: bool
) -> None:
    """Wait before or after a hop.

    Where there is a result a cancellation ends the wait, and is raised where the app waits for
    something next.
    """
    since = time.monotonic()
    try:
        await wait
    except asyncio.CancelledError as exc:
        if not has_result or not _comes_again(exc):
            raise
    except Exception as exc:
        tell(exc)
    finally:
        seconds = time.monotonic() - since
        if holder.waited_late(seconds) >= LATE_SECONDS:
            holder.is_late = False
        holder.begin_later(began_at, seconds)


def _comes_again(exc: asyncio.CancelledError) -> bool:
    """Tell whether a cancellation that is swallowed is raised where the task waits next.

    anyio sees to that itself, as long as the scope is open. Of any other we do: in the next turn,
    unless whoever has cancelled the task has taken it back by then, as a timeout does whose block
    has ended. That can be told from Python 3.11 on.
    """
    if exc.args and str(exc.args[0]).startswith(BY_SCOPE):
        return True
    task = asyncio.current_task()
    if task is None or sys.version_info < (3, 11):
        return False
    asyncio.get_running_loop().call_soon(_cancel_again, task, exc.args, context=Context())
    return True


def _cancel_again(task: Any, args: tuple[Any, ...]) -> None:
    if not task.done() and task.cancelling():
        task.cancel(*args)
        task.uncancel()  # who counts them counts this one once


def _hold(lease: Lease, holder: Holder) -> None:
    """Take note that others wait for what a request has: its hops aren't first ones."""
    if not lease.hops:
        lease.hops = holder.hops_ahead = 1
