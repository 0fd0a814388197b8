"""What a request waits for before it begins: as it enters the app, and as it reaches its route.

Called where it holds nothing. It must never hold one back for long because nothing is known of its
route yet.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import Context

from .._connections.habits import UNKNOWN_MOST, Habit
from .._connections.holder import Holder
from .._connections.route_habits import LOOK_SECONDS, RouteHabits
from .._threads.lease import BUSY, Lease
from .held_back import Claims, Wait, be_let_in, id_of_ledger
from .holder_here import governor
from .signal_of_loop import Signal

# Seconds for which the first request of a route waits at most for what may turn out to be needless.
FIRST_SECONDS = 0.25

# The same for the others, and for what an app's first requests may need: so many, a guess.
MOST_FIRST_SECONDS = 1.0
FIRST_REQUESTS = 16

# Pools at most in which something is set aside for a request of which nothing is known.
UNKNOWN_POOLS = 4


def wait_to_begin(lease: Lease, holder: Holder, habits: RouteHabits) -> Wait | None:
    """Let a request go on where nothing is in its way; else return what it has to await.

    It holds nothing, and nobody waits for it.
    """
    if not holder.may_wait or lease.token == BUSY or not governor.has_ledgers:
        return None
    if habits.requests:
        return _begin_as_usual(lease, holder, habits)
    if habits.first is None and not habits.is_open:
        habits.first = holder
        claims = [(ledger, UNKNOWN_MOST) for ledger in governor.ledgers()]
        claims.sort(key=id_of_ledger)
        return be_let_in(lease, holder, claims[:UNKNOWN_POOLS], FIRST_SECONDS)
    if not habits.is_open:
        return _wait_for_first(lease, holder, habits)
    claims = _first_claims(habits)
    return be_let_in(lease, holder, claims) if claims else None


def _begin_as_usual(lease: Lease, holder: Holder, habits: RouteHabits) -> Wait | None:
    """Let a request go on if there is what those before it have needed."""
    claims = _usual_claims(habits) if habits.by_kind else None
    if not claims:
        return None
    is_first = habits.requests < FIRST_REQUESTS and not habits.is_more_in_vain
    if holder.endpoint is None and is_first:
        more = [(ledger, _with_route(habits.of(ledger.kind), claim)) for ledger, claim in claims]
        if more != claims:
            wait = be_let_in(lease, holder, more, MOST_FIRST_SECONDS)
            return None if wait is None else _wait_for_more(wait, lease, holder, more, claims)
    return be_let_in(lease, holder, claims)


def _with_route(habit: Habit, claim: int) -> int:
    """Return what to set aside for one of an app's first requests, as it enters the app.

    Where a middleware keeps a connection it has one when it reaches its route, and can't be held
    back any more. That may be one which none has reached, and take one more than the others do.
    """
    return max(claim, habit.most + 1) if habit.kept_on else claim


async def _wait_for_more(
    wait: Wait, lease: Lease, holder: Holder, more: Claims, claims: Claims
) -> None:
    """Wait for more than is usual, for a while, and then for that.

    Where that was in vain those that come later don't: beside a stream that lasts for hours it
    would be a second for each of them.
    """
    await wait
    if any(holder.account(ledger).claim < ledger.stock.at_most(claim) for ledger, claim in more):
        if holder.habits is not None:
            holder.habits.is_more_in_vain = True
        usual = be_let_in(lease, holder, claims)
        if usual is not None:
            await usual


def _usual_claims(habits: RouteHabits) -> Claims:
    """Return what a request needs before it begins: of which pools, and how many set aside."""
    now = time.monotonic()
    claims = []
    for kind, habit in list(habits.by_kind.items()):
        claim = habit.needs(now)
        if claim is not None:
            ledger = governor.ledger_of(kind)
            if ledger is not None:
                claims.append((ledger, claim))
    # All in one order, so that nobody waits in a circle.
    return sorted(claims, key=id_of_ledger) if len(claims) > 1 else claims


def _first_claims(habits: RouteHabits) -> Claims:
    """Return the same for a route of which no request has ended yet: what the first has shown.

    Once one has failed for want of a connection it is what may turn out to be needed.
    """
    now = time.monotonic()
    claims = []
    for kind, habit in list(habits.by_kind.items()):
        ledger = governor.ledger_of(kind)
        claim = max(habit.most_elsewhere, UNKNOWN_MOST if now < habit.pressed_until else 0)
        if ledger is not None and claim:
            claims.append((ledger, claim))
    return sorted(claims, key=id_of_ledger)


async def _wait_for_first(lease: Lease, holder: Holder, habits: RouteHabits) -> None:
    """Wait until enough is known of the first request of a route, then for what this one needs."""
    holder.is_held_back = True
    first = habits.first
    is_open = Signal()
    habits.waiting.append(is_open.set)
    if habits.looker is None or habits.looker.is_closed():
        habits.looker = loop = asyncio.get_running_loop()
        _tick(loop, habits)
    lease.pool.held_back += 1
    try:
        await is_open.wait(MOST_FIRST_SECONDS)
    finally:
        lease.pool.held_back -= 1
    holder.has_waited()
    if habits.requests:
        wait = _begin_as_usual(lease, holder, habits)
    elif habits.is_open or habits.first is first:
        wait = be_let_in(lease, holder, _first_claims(habits))
    else:  # that was cancelled before it began
        wait = wait_to_begin(lease, holder, habits)
    if wait is not None:
        await wait


def _tick(loop: asyncio.AbstractEventLoop, habits: RouteHabits) -> None:
    if habits.looker is not loop:
        return  # two have begun at once
    if habits.waiting:
        loop.call_later(LOOK_SECONDS, _tick, loop, habits, context=Context())
        habits.look_at_first()
    else:
        habits.looker = None
