"""Where requests may have to wait for connections: as they enter the app and reach their route.

Called there and where they end, once SQLAlchemy is loaded and a pool with a bound is there. It must
never hold back a request that holds something: others may wait for that.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from .._connections.holder import Holder
from .._connections.route_habits import RouteHabits
from .._threads.lease import BUSY, Lease
from . import checkouts, route_times
from .entering import wait_to_begin
from .faults import never_raises, tell
from .held_back import Claims, Wait, be_let_in_late, id_of_ledger
from .holder_here import governor, make_holder
from .origin import note_endpoint
from .outside import current_outside, habits_outside

MOST_ROUTES = 1024  # whose habits are kept

_apps: WeakKeyDictionary[Any, RouteHabits] = WeakKeyDictionary()
_routes: OrderedDict[int, tuple[object, RouteHabits]] = OrderedDict()
_routes_lock = threading.Lock()


def _start_over() -> None:
    """Have a lock that nobody holds, in the child of a fork."""
    global _routes_lock
    _routes_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)


# ---- a request enters the app, reaches its route, ends

# Most requests take no connection. One that isn't expected to has no holder until it takes one, and
# adds no more than a number to what is known of its route.


def at_app(lease: Lease, app: Any, around: bool) -> Wait | None:
    """Return what to await before a request goes on into the app, None for nothing.

    :param around: whether something around the app may hold what others wait for
    """
    try:
        if not around:
            habits = _apps.get(app)
            if habits is not None and habits.requests and not habits.have_taken:
                lease.habits = habits
                lease.began = monotonic()
                return None
    except Exception:  # noqa: S110 - one that can't be hashed: as below
        pass
    return _at_app(lease, app, around)


@never_raises
def _at_app(lease: Lease, app: Any, around: bool) -> Wait | None:
    outside = current_outside.get() if around else None
    if outside is not None and outside.is_of(lease.opener()):
        lease.holder = outside.holder
        lease.holder.owner = lease
        return None
    app = getattr(app, "__self__", app)  # its method, where somebody has wrapped that
    try:
        habits = _apps.get(app)
        if habits is None:
            habits = _apps[app] = RouteHabits()
    except TypeError:  # an app that can't be hashed or referred to weakly
        habits = RouteHabits()
    lease.holder = holder = Holder(lease, habits)
    holder.hops_ahead = lease.hops
    holder.may_wait = not around and lease.pool.clock.loop() is not None
    return wait_to_begin(lease, holder, habits)


def at_route(lease: Lease) -> Wait | None:
    """Return what to await before a request goes on into its route, None for nothing."""
    try:
        if lease.holder is None and _takes_nothing(lease, lease.route):
            return None
    except Exception as exc:
        tell(exc)
        return None
    return _at_route(lease)


def _takes_nothing(lease: Lease, endpoint: object) -> bool:
    """Tell whether a request needs no holder at its route either, and take note of the route."""
    if lease.endpoint is not None:
        return lease.endpoint is endpoint
    known = _routes.get(id(endpoint))
    if known is None or known[0] is not endpoint:
        return False
    habits = known[1]
    if habits.have_taken or not habits.requests:
        return False
    lease.app_habits = lease.habits
    lease.habits.took_nothing()
    lease.endpoint = endpoint
    lease.habits = habits
    lease.began = monotonic()
    return True


@never_raises
def _at_route(lease: Lease) -> Wait | None:
    holder: Holder = lease.holder or make_holder(lease)
    endpoint = lease.route
    if endpoint is None or holder.endpoint is endpoint or holder.habits is habits_outside:
        return None
    if holder.endpoint is None:
        holder.app_habits = holder.habits
        if holder.holds_something:  # what it takes in all is known at its end
            holder.app_visits = {kind: visit.copy() for kind, visit in holder.visits().items()}
            for account in holder.accounts.values():
                if account.held and account.habit is not None:
                    account.habit.kept_on = True
        elif holder.habits is not None:
            if holder.accounts or not holder.habits.requests:
                holder.habits.learn(holder.visits())
            else:
                holder.habits.took_nothing()
    holder.endpoint = endpoint
    habits = _habits_of(endpoint)
    holder.go_on(habits)
    return None if holder.holds_something else wait_to_begin(lease, holder, habits)


@never_raises
def before_hop(holder: Holder) -> Wait | None:
    """Return what to await before a hop of a request whose kind takes a connection late.

    None for nothing. It may wait where it holds nothing, and is about to take one where it can't.
    """
    holder.hop_began = time.monotonic()
    claims = _late_claims(holder, is_within=True)
    return be_let_in_late(holder.owner, holder, claims) if claims else None


@never_raises
def after_hop(holder: Holder) -> Wait | None:
    """Return the same after a hop; its wait raises nothing."""
    holder.hop_ended = time.monotonic()
    claims = _late_claims(holder, is_within=False)
    return be_let_in_late(holder.owner, holder, claims, has_result=True) if claims else None


def _late_claims(holder: Holder, is_within: bool) -> Claims:
    lease, habits = holder.owner, holder.habits
    if lease is None or lease.closed or lease.token == BUSY or habits is None:
        return []
    if not holder.may_wait or holder.hops or holder.waiting or holder.holds_something:
        return []
    now = time.monotonic()
    claims = []
    for kind, habit in list(habits.by_kind.items()):
        ledger = governor.ledger_of(kind) if habit.late else None
        # Else one is free whenever it comes: what is set aside would only make others wait.
        if ledger is not None and (ledger.stock.is_in_use(now) or now < habit.pressed_until):
            account = holder.account(ledger)
            hops = lease.hops - holder.hops_ahead + is_within
            claim = 0 if account.claim else habit.late_claim(account.takes, hops, is_within, now)
            if claim:
                claims.append((ledger, claim))
    return sorted(claims, key=id_of_ledger)


def ended(lease: Lease) -> None:
    """Learn from a request that has ended."""
    if lease.holder is not None:
        _ended(lease)
        return
    route_times.add(lease)
    try:
        lease.habits.took_nothing()
    except Exception as exc:  # a call less than `never_raises`, for each request
        tell(exc)


@never_raises
def _ended(lease: Lease) -> None:
    holder: Holder = lease.holder
    if lease.reached is not None:
        held, idle, waited = holder.held_watched, 0.0, holder.waited_watched
        for account in list(holder.accounts.values()):
            held += account.kept_before + account.kept
            if account.held:
                held += time.monotonic() - account.filled
            idle += account.unused
            waited += account.waited
        route_times.add(lease, held=held, idle=idle, waited=waited)
    if holder.habits is habits_outside:
        lease.holder = holder.owner = None  # it is the task's again
        return
    if holder.watched > 0 or holder.holds_something:
        checkouts.ended_with(holder, lease.reached, governor.pools)
    visits = holder.visits()
    habits = holder.habits
    # One that was turned away or cancelled while it was held back shows nothing of what others do.
    if habits is not None and not holder.is_held_back:
        habits.learn(visits)
    elif habits is not None and habits.first is holder:
        habits.forget_first()
    if holder.app_visits is not None and holder.app_habits is not None:
        holder.app_habits.learn(
            {kind: visit.together(visits.get(kind)) for kind, visit in holder.app_visits.items()}
        )
    for account in list(holder.accounts.values()):
        account.ledger.door.release(account)
    # No circles are left: a request's objects go at its end, not at a garbage collection.
    lease.holder = None
    holder.accounts = {}


def _habits_of(endpoint: object) -> RouteHabits:
    key = id(endpoint)
    with _routes_lock:
        found = _routes.get(key)
        if found is not None and found[0] is endpoint:
            return found[1]
        habits = RouteHabits()
        note_endpoint(endpoint)
        _routes[key] = endpoint, habits
        if len(_routes) > MOST_ROUTES:
            _routes.popitem(last=False)
        return habits
