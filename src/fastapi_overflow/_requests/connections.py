"""Where requests wait for connections: before they begin, in the event loop.

Called where a request enters the app, reaches its route and ends, once SQLAlchemy is loaded and a
pool with a bound is there. It must never hold back a request that holds something: others may wait
for that.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import time
from asyncio import _get_running_loop as get_running_loop
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, ParamSpec, TypeAlias, TypeVar
from weakref import WeakKeyDictionary, ref

from .._connections.book import Book
from .._connections.habits import LOOK_SECONDS, RouteHabits
from .._connections.holder import HOP, LOOP, THREAD, Holder
from .._connections.ledger import Ledger
from .._connections.sqlalchemy import Governor
from .._log import warn
from .._threads.lease import BUSY, Lease
from . import checkouts, route_times
from .at_work import some_at_work
from .checkouts import Checkouts
from .lease_of_request import current_lease

# Seconds for which the first request of a route waits at most for what may turn out to be needless.
FIRST_SECONDS = 0.25

# What is set aside for a request of which nothing is known, and in how many pools at most.
UNKNOWN_CLAIM = 2
UNKNOWN_POOLS = 4

MOST_ROUTES = 1024  # whose habits are kept

P = ParamSpec("P")
T = TypeVar("T")

Wait: TypeAlias = Coroutine[Any, Any, None]

_apps: WeakKeyDictionary[Any, RouteHabits] = WeakKeyDictionary()
_routes: OrderedDict[int, tuple[object, RouteHabits]] = OrderedDict()
_routes_lock = threading.Lock()


class _Here(threading.local):
    """What is known of a thread: its holder outside of requests, and whether it runs hops."""

    def __init__(self) -> None:
        thread = threading.current_thread()
        self.holder = Holder(None, None, ref(thread))
        self.place = HOP if type(thread).__name__ == "WorkerThread" else THREAD


_here = _Here()


def _find_holder() -> tuple[Holder, int]:
    """Return who takes a connection in this thread, and where."""
    place = LOOP if get_running_loop() is not None else _here.place
    lease = current_lease.get()
    if lease is None or lease.closed:
        holder = _find_outside(place) if place != THREAD else _here.holder
    else:
        holder = lease.holder
        if holder is None:
            holder = lease.holder = Holder(lease, None)
    if place == THREAD and "trio" in sys.modules and _trio_runs_here():
        place = LOOP
    return holder, place


def _find_outside(place: int) -> Holder:
    outside = current_outside.get()
    if outside is not None and (place == HOP or outside.is_of(asyncio.current_task())):
        return outside.holder
    return _here.holder


def _trio_runs_here() -> bool:
    try:
        sys.modules["trio"].lowlevel.current_task()
    except RuntimeError:
        return False
    return True


class _Outside:
    """A task that makes hops outside of any request, as a middleware around the app does.

    What it takes and what the request takes that it calls the app for are one holder's.
    """

    __slots__ = ("_task", "holder")

    def __init__(self, task: Any) -> None:
        self._task = ref(task)
        self.holder = Holder(None, _habits_outside)

    def is_of(self, task: Any) -> bool:
        return self._task() is task


def note_hop_outside(task: Any) -> None:
    """Take note of a task that makes a hop outside of any request."""
    outside = current_outside.get()
    if outside is None or not outside.is_of(task):
        current_outside.set(_Outside(task))


current_outside: ContextVar[_Outside | None] = ContextVar("fastapi_overflow_outside", default=None)
_habits_outside = RouteHabits()


# Asked by each checkout of a pool with a bound. This module is loaded with SQLAlchemy only.
governor = Governor(Book(some_at_work, checkouts.somebody_waited), Checkouts(_find_holder))


def _start_over() -> None:
    """Begin anew in the child of a fork: nothing is this process's that the parent has taken."""
    global _routes_lock
    _routes_lock = threading.Lock()
    governor.start_over()
    _here.holder = Holder(None, None, ref(threading.current_thread()))


if hasattr(os, "register_at_fork"):
    # A child begins with a book that nobody is in the middle of.
    os.register_at_fork(
        before=governor.book.lock.acquire,
        after_in_parent=governor.book.lock.release,
        after_in_child=governor.book.lock.release,
    )
    os.register_at_fork(after_in_child=_start_over)


# ---- a request enters the app, reaches its route, ends


def _never_raises(function: Callable[P, T]) -> Callable[P, T | None]:
    """Have a fault of ours be told, once, and not be the request's."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        global _has_failed
        try:
            return function(*args, **kwargs)
        except Exception as exc:
            if not _has_failed:
                _has_failed = True
                warn("A fault of fastapi-overflow's own; the request goes on without: %r", exc)
            return None

    return guarded


_has_failed = False


@_never_raises
def at_app(lease: Lease, app: Any, around: bool) -> Wait | None:
    """Return what to await before a request goes on into the app, None for nothing.

    :param app: its method that is about to be called
    :param around: whether something around the app may hold what others wait for
    """
    outside = current_outside.get() if around else None
    if outside is not None and outside.is_of(lease.opener()):
        lease.holder = outside.holder
        lease.holder.owner = lease
        return None
    app = getattr(app, "__self__", app)
    try:
        habits = _apps.get(app)
        if habits is None:
            habits = _apps[app] = RouteHabits()
    except TypeError:  # an app that can't be hashed or referred to weakly
        habits = RouteHabits()
    lease.holder = holder = Holder(lease, habits)
    holder.may_wait = not around and lease.pool.clock.loop() is not None
    return _before(lease, holder, habits)


@_never_raises
def at_route(lease: Lease) -> Wait | None:
    """Return what to await before a request goes on into its route, None for nothing."""
    holder: Holder = lease.holder
    endpoint = lease.route
    if endpoint is None or holder.endpoint is endpoint or holder.habits is _habits_outside:
        return None
    if holder.endpoint is None:
        holder.app_habits = holder.habits
        if holder.holds_something:
            holder.app_visits = holder.visits()  # what it takes in all is known at its end
        elif holder.habits is not None:
            holder.habits.learn(holder.visits())
    holder.endpoint = endpoint
    habits = _habits_of(endpoint)
    holder.go_on(habits)
    return None if holder.holds_something else _before(lease, holder, habits)


@_never_raises
def ended(lease: Lease) -> None:
    """Learn from a request that has ended."""
    holder: Holder = lease.holder
    if lease.reached is not None:
        accounts = list(holder.accounts.values())
        now = time.monotonic()
        route_times.add(
            lease,
            held=sum(a.kept + (now - a.filled if a.held else 0.0) for a in accounts),
            idle=sum(a.unused for a in accounts),
            waited=sum(a.waited for a in accounts),
        )
    if holder.habits is _habits_outside:
        lease.holder = holder.owner = None  # it is the task's again
        return
    if holder.watched > 0 or holder.holds_something:
        checkouts.ended_with(holder, lease.reached, governor.pools)
    visits = holder.visits()
    if holder.habits is not None:
        holder.habits.learn(visits)
    if holder.app_visits is not None and holder.app_habits is not None:
        holder.app_habits.learn(
            {kind: visit.together(visits.get(kind)) for kind, visit in holder.app_visits.items()}
        )
    for account in list(holder.accounts.values()):
        account.ledger.release(account)
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
        _routes[key] = endpoint, habits
        if len(_routes) > MOST_ROUTES:
            _routes.popitem(last=False)
        return habits


# ---- where it waits


def _before(lease: Lease, holder: Holder, habits: RouteHabits) -> Wait | None:
    """Let a request go on where nothing is in its way; else return what it has to await.

    It holds nothing, and nobody waits for it.
    """
    if not holder.may_wait or lease.token == BUSY or not governor.has_ledgers:
        return None
    if habits.requests:
        claims = _usual_claims(habits) if habits.by_kind else None
        return _be_let_in(lease, holder, claims) if claims else None
    if habits.first is None and not habits.is_open:
        habits.first = holder
        claims = [(ledger, UNKNOWN_CLAIM) for ledger in governor.ledgers()]
        claims.sort(key=_id_of_ledger)
        return _be_let_in(lease, holder, claims[:UNKNOWN_POOLS], FIRST_SECONDS)
    if not habits.is_open:
        return _wait_for_first(lease, holder, habits)
    claims = _first_claims(habits)
    return _be_let_in(lease, holder, claims) if claims else None


def _usual_claims(habits: RouteHabits) -> list[tuple[Ledger, int]]:
    """Return what a request needs before it begins: of which pools, and how many set aside."""
    now = time.monotonic()
    claims = []
    for kind, habit in list(habits.by_kind.items()):
        claim = habit.claim(now)
        if claim or habit.takes_in_threads():
            ledger = governor.ledger_of(kind)
            if ledger is not None:
                claims.append((ledger, claim))
    # All in one order, so that nobody waits in a circle.
    return sorted(claims, key=_id_of_ledger) if len(claims) > 1 else claims


def _first_claims(habits: RouteHabits) -> list[tuple[Ledger, int]]:
    """Return the same for a route of which no request has ended yet: what the first has shown."""
    claims = []
    for kind, habit in list(habits.by_kind.items()):
        ledger = governor.ledger_of(kind)
        if ledger is not None and habit.most_elsewhere:
            claims.append((ledger, habit.most_elsewhere))
    return sorted(claims, key=_id_of_ledger)


def _id_of_ledger(claim: tuple[Ledger, int]) -> int:
    return id(claim[0])


async def _wait_for_first(lease: Lease, holder: Holder, habits: RouteHabits) -> None:
    """Wait until enough is known of the first request of a route, then for what this one needs."""
    is_open = _Signal()
    habits.waiting.append(is_open.set)
    if len(habits.waiting) == 1:
        _tick(asyncio.get_running_loop(), habits)
    lease.pool.held_back += 1
    try:
        await is_open.wait(FIRST_SECONDS * 4)
    finally:
        lease.pool.held_back -= 1
    holder.has_waited()
    claims = _usual_claims(habits) if habits.requests else _first_claims(habits)
    wait = _be_let_in(lease, holder, claims)
    if wait is not None:
        await wait


def _tick(loop: asyncio.AbstractEventLoop, habits: RouteHabits) -> None:
    if habits.waiting:
        loop.call_later(LOOK_SECONDS, _tick, loop, habits, context=Context())
        habits.look_at_first()


def _be_let_in(
    lease: Lease,
    holder: Holder,
    claims: list[tuple[Ledger, int]],
    seconds: float | None = None,
) -> Wait | None:
    """Let a request go on as soon as it is let in by one ledger after the other.

    :param seconds: to wait at most, for what may turn out to be needless; None: for what requests
        of its kind need, as long as the pools move
    """
    for n, (ledger, claim) in enumerate(claims):
        if not ledger.lets_in(holder.account(ledger), claim):
            return _wait_to_be_let_in(lease, holder, claims[n:], seconds)
        if claim and seconds is None:
            _hold(lease)
        _look_at(ledger)
    return None


async def _wait_to_be_let_in(
    lease: Lease, holder: Holder, claims: list[tuple[Ledger, int]], seconds: float | None
) -> None:
    patience = lease.pool.patience
    refusal = lease.refusal if holder.endpoint is not None and patience is not None else None
    waits_for = deque(claims)
    rounds = 3
    while waits_for:
        ledger, claim = waits_for.popleft()
        since = time.monotonic()
        let_in = _Signal()
        entry = ledger.queue(holder.account(ledger), claim, let_in.set)
        _look_at(ledger)
        lease.pool.held_back += 1
        try:
            if seconds is not None:
                await let_in.wait(seconds)
            elif refusal is not None:
                await let_in.wait(patience.seconds - (since - holder.began))
            else:
                # As long as the pool moves. Where nothing comes back for the pool's timeout, it
                # gets the pool's error at its checkout, at once.
                while not entry.is_in and (left := ledger.seconds_left(since)) > 0:
                    await let_in.wait(left)
                if not entry.is_in:
                    holder.waited = ledger.pool.timeout()
        finally:
            # Its time is up, or it is cancelled: then what was set aside goes with the request.
            lease.pool.held_back -= 1
            is_in = ledger.leave(entry)
        if is_in and claim and seconds is None:
            _hold(lease)
        elif seconds is not None and not is_in:
            break  # it goes on without
        elif refusal is not None and not is_in and refusal.holds_nothing():
            lease.pool.count_refused(time.monotonic() - holder.began)
            raise refusal.error()
        if not waits_for and len(claims) > 1:
            # What the first pools have set aside may have been given up meanwhile.
            stale = [c for c in claims if c[1] and not c[0].renew(holder.account(c[0]), c[1])]
            if stale and rounds:
                waits_for.extend(stale)
                rounds -= 1
    holder.has_waited()


def _hold(lease: Lease) -> None:
    """Take note that others wait for what a request has: its hops aren't first ones."""
    lease.hops = max(lease.hops, 1)


class _Signal:
    """What one task waits for until any thread sets it; or for so long at most.

    A bare future: there is one for each request that waits.
    """

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def set(self) -> None:
        if get_running_loop() is self._loop:
            self._set()
            return
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:
            pass  # the loop is closed, and the request gone

    def _set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, seconds: float) -> None:
        future = self._future
        timer = self._loop.call_later(max(seconds, 0), self._set)
        try:
            await future
        finally:
            timer.cancel()
            self._future = self._loop.create_future()  # to be waited for again


_looked_at: WeakKeyDictionary[Any, set[Ledger]] = WeakKeyDictionary()


def _look_at(ledger: Ledger) -> None:
    """Look at a ledger from time to time while it has something set aside or somebody waits."""
    loop = asyncio.get_running_loop()
    ledgers = _looked_at.setdefault(loop, set())
    if ledger not in ledgers:
        ledgers.add(ledger)
        loop.call_later(LOOK_SECONDS, _look, loop, ledger, context=Context())


def _look(loop: asyncio.AbstractEventLoop, ledger: Ledger) -> None:
    ledger.look()
    if ledger.is_watched:
        loop.call_later(LOOK_SECONDS, _look, loop, ledger, context=Context())
    else:
        _looked_at[loop].discard(ledger)
