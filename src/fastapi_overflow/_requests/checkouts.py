"""What the app does with its connections, for those who look.

Told by the adapter at a checkout on an event loop, at a second one and at a wait, and at the end of
a request that has one still. It must never raise, never make anybody wait, and keep no request
alive.
"""

from __future__ import annotations

import time
from asyncio import _get_running_loop as get_running_loop
from collections.abc import Callable
from contextvars import Context
from threading import Timer
from typing import TYPE_CHECKING, Any
from weakref import ref

from .._connections.holder import Account, Holder
from .._connections.taken import Taken
from .._connections.watched import WatchedAccount, WatchedPool
from .._log import warn
from .faults import never_raises
from .origin import is_library, search
from .place import Place, place_of
from .story import story_of

if TYPE_CHECKING:
    from typing import Protocol

    from .._connections.ledger import Ledger

    class Observer(Protocol):
        """Who is told; in any thread."""

        def took_on_loop(self, taken: Taken, place: Place, seconds: float) -> None:
            """Be told of a request that has kept its loop standing for so long, to take one."""

        def took_second(self, taken: Taken, place: Place) -> None:
            """Be told of a connection taken by who has another of the same pool."""

        def waited(self, pool: Ledger | WatchedPool) -> None:
            """Be told that somebody has waited for a second."""

        def leaked(self, taken: Taken, place: Place) -> None:
            """Be told of one that is out for a second after its request's end."""

        def came_back(self, taken: Taken, place: Place) -> None:
            """Be told that such a one is back."""


# Seconds for which somebody must have waited, or a request must have ended, to be worth a word.
TELL_SECONDS = 1.0

# Who is told; None: nobody.
observer: Observer | None = None

# Told, where it is set, what went wrong where a pool turns out not to be as expected.
on_failure: Callable[[Exception], None] | None = None

_has_failed = False


def _tell(what: str, *args: Any) -> None:
    global _has_failed
    try:
        if observer is not None:
            getattr(observer, what)(*args)
    except Exception as exc:
        if not _has_failed:
            _has_failed = True
            warn("fastapi-overflow could not tell what connections are used for: %r", exc)


class Checkouts:
    """What an adapter asks and tells; see `_connections.sqlalchemy`.

    :param find_holder: returns who takes a connection in this thread, and where
    """

    is_library = is_library
    search = staticmethod(search)

    def __init__(self, find_holder: Callable[[], tuple[Holder, int]]) -> None:
        self.find_holder = find_holder

    def took_on_loop(self, account: Account, taken: Any, began: float) -> None:
        holder = account.holder
        holder.end_idling()
        loop = get_running_loop()
        if loop is None or holder.owner is None:
            return  # trio, or no request
        try:
            # By then the request may have ended.
            reached = holder.owner.reached
            loop.call_soon(_loop_goes_on, taken, reached, began, context=Context())
        except RuntimeError:
            pass  # it is closed

    def took_second(self, taken: Any) -> None:
        owner = taken[0].holder.owner
        if owner is not None:
            _tell("took_second", Taken(*taken), place_of(owner.reached))

    def waits(self, account: WatchedAccount) -> None:
        loop = get_running_loop()
        if loop is not None:
            loop.call_later(TELL_SECONDS, _waits_still, ref(account), context=Context())

    def came_back(self, taken: Any) -> None:
        holder = taken[0].holder
        holder.idle()
        if holder.has_leaked:
            _tell("came_back", Taken(*taken), holder.place)

    def timed_out(self, error: Exception, account: Any, reason: str) -> None:
        if hasattr(error, "add_note"):  # from Python 3.11 on
            try:
                error.add_note(story_of(account, reason))
            except Exception:  # noqa: S110 - the error is the app's, a fault of ours isn't
                pass

    def failed(self, exc: Exception) -> None:
        if on_failure is not None:
            on_failure(exc)


@never_raises
def _loop_goes_on(taken: Any, reached: Any, began: float) -> None:
    """In the loop's next turn: the request's connection is idle now, unless a hop of it runs."""
    taken[0].holder.idle()
    _tell("took_on_loop", Taken(*taken), place_of(reached), time.monotonic() - began)


@never_raises
def _waits_still(reference: ref[WatchedAccount]) -> None:
    account = reference()
    if account is not None and account in account.ledger.waiting:
        _tell("waited", account.ledger)


def somebody_waited(pool: Ledger | WatchedPool) -> None:
    """Be told by a ledger that somebody has waited for long."""
    _tell("waited", pool)


@never_raises
def ended_with(holder: Holder, reached: Any, pools: Callable[[], list[Any]]) -> None:
    """Take note of a request that has ended and has connections still.

    Told a second later: what a task of it or the garbage collector gives back by then is none of
    anybody's business.

    :param pools: returns all pools that are known
    """
    holder.place = place_of(reached)
    holder.idle()
    # Also where a hop outlives it: so it is told when it comes back.
    holder.idle_since = holder.idle_since or time.monotonic()
    loop = get_running_loop()
    if loop is not None:
        loop.call_later(TELL_SECONDS, _still_out, holder, pools, context=Context())
        return
    later = Timer(TELL_SECONDS, _still_out, (holder, pools))  # trio
    later.daemon = True
    later.start()


@never_raises
def _still_out(holder: Holder, pools: Callable[[], list[Any]]) -> None:
    for pool in pools():
        for taken in list(pool.out.values()):
            if taken[0].holder is holder:
                holder.has_leaked = True
                _tell("leaked", Taken(*taken), holder.place)
