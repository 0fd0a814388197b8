"""The adapter for SQLAlchemy: its pools of connections, whose checkouts ask their ledger.

Called once SQLAlchemy is imported, and at each checkout and return. It must never import SQLAlchemy
by itself, and leave every pool alone that has no bound, or that is for async code.

What it puts into the classes of pools are plain functions: of a checkout and its return a wrapper
of wrapt's alone would be a tenth, and an event another one. A connection is back when
`_do_return_conn` has run, which every kind of return comes through; events come before that.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from time import monotonic
from types import CodeType
from typing import TYPE_CHECKING, Any

from .checkout import NoConnection
from .holder import LOOP
from .ledger import Ledger
from .pool_view import KIND, LEDGER, OUT, URL, WATCHED, PoolView
from .watched import WatchedAccount, WatchedPool

if TYPE_CHECKING:
    from .book import Book
    from .holder import Account
    from .requests import Requests


def _code_of_connect() -> CodeType | None:
    """Return the code of `Engine.connect`, which calls a pool by way of two functions."""
    engine = getattr(sys.modules.get("sqlalchemy.engine"), "Engine", None)
    return getattr(getattr(engine, "connect", None), "__code__", None)


class Governor:
    """Asks the ledger of each bounded pool at every checkout.

    :param book: of all ledgers
    :param requests: knows who takes a connection, and is told of what happens
    """

    def __init__(self, book: Book, requests: Requests) -> None:
        self.book = book
        self._requests = requests
        # By kind: the one of the latest pool.
        self._latest: weakref.WeakValueDictionary[object, Ledger] = weakref.WeakValueDictionary()
        # By their ids.
        self._all: weakref.WeakValueDictionary[int, Ledger | WatchedPool]
        self._all = weakref.WeakValueDictionary()

    @property
    def has_ledgers(self) -> bool:
        return bool(self._latest)

    def ledger_of(self, kind: object) -> Ledger | None:
        return self._latest.get(kind)

    def ledgers(self) -> list[Ledger]:
        # In one step: other threads make and drop engines.
        found = (reference() for reference in self._latest.valuerefs())
        return [ledger for ledger in found if ledger is not None]

    def pools(self) -> list[Ledger | WatchedPool]:
        """Return who has the connections of each pool, be it bounded or only watched."""
        # In one step, as above.
        found = (reference() for reference in self._all.valuerefs())
        return [pool for pool in found if pool is not None]

    # ---- what stands in the place of the pools' own methods

    def connect(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return what takes a connection once the ledger says so."""
        find_holder = self._requests.find_holder
        is_library, search = self._requests.is_library, self._requests.search
        find_frame = sys._getframe
        by_engine = _code_of_connect()

        @functools.wraps(original)
        def connect(self_: Any) -> Any:  # noqa: PLR0912 - a call less for each checkout
            try:
                ledger = self_.__dict__[LEDGER]
            except KeyError:
                ledger = self.govern(self_)
            if ledger is None:
                watched = self_.__dict__.get(WATCHED)
                return original(self_) if watched is None else self._watch(original, self_, watched)
            holder, where = find_holder()
            began = monotonic() if where == LOOP else 0.0
            try:
                account = holder.accounts[ledger]
            except KeyError:
                account = holder.account(ledger)
            if not ledger.takes_at_once(account, where):
                self._take(self_, ledger, account, where)
            elif holder.waited:
                holder.waited = 0.0
            try:
                connection = original(self_)
                record = connection._connection_record
                if record is not None:
                    try:
                        # What has called `Engine.connect`, most of the time: the two between are
                        # SQLAlchemy's own, and each frame that is looked at is a percent.
                        frame: Any = find_frame(3)
                        frame = frame.f_back if frame.f_code is by_engine else find_frame(1)
                        while is_library[frame.f_code.co_filename]:
                            frame = frame.f_back
                        code: CodeType | None = frame.f_code
                        instruction = frame.f_lasti
                    except Exception:  # in a file never seen, or in none of the app's
                        code, instruction = search(find_frame(1))
                    held = account.held
                    since = account.filled if held == 1 else monotonic()
                    taken = ledger.out[record] = account, since, code, instruction
                else:  # a listener of the app's has detached or closed it
                    ledger.give_back(account)
            except BaseException:
                ledger.give_back(account)
                raise
            if record is not None:
                if began:
                    self._requests.took_on_loop(account, taken, began)
                if held > 1:
                    self._requests.took_second(taken)
            return connection

        return connect

    def return_connection(self, original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """Return what puts a connection back and enters that."""
        came_back = self._requests.came_back

        @functools.wraps(original)
        def _do_return_conn(self_: Any, record: Any) -> None:
            # Before the record is in the pool: from then on it may be another's.
            try:
                taken = self_.__dict__[OUT].pop(record, None)
            except KeyError:  # a pool that has no ledger
                taken = None
            try:
                original(self_, record)
            finally:
                if taken is not None:
                    account = taken[0]
                    if account.holder.idle_since:
                        came_back(taken)
                    account.ledger.give_back(account)

        return _do_return_conn

    def _watch(self, original: Callable[[Any], Any], pool: Any, watched: WatchedPool) -> Any:
        """Take a connection that the ledger has nothing to say of, and note who has it."""
        requests = self._requests
        holder, _ = requests.find_holder()
        account = WatchedAccount(holder, watched)
        waits = pool.checkedout() >= watched.capacity
        if waits:
            watched.begin_wait(account)
            requests.waits(account)
        try:
            connection = original(pool)
        except sys.modules["sqlalchemy"].exc.TimeoutError as exc:
            watched.timeouts += 1
            requests.timed_out(exc, account, "the pool's timeout is over")
            raise
        finally:
            if waits:
                watched.end_wait(account)
        record = connection._connection_record
        if record is not None:
            code, instruction = requests.search(sys._getframe(2))
            account.filled = monotonic()
            holder.watched += 1
            watched.checkouts += 1
            watched.out[record] = account, account.filled, code, instruction
        return connection

    def make(self, wrapped: Callable[..., None], pool: Any, args: Any, kwargs: Any) -> None:
        """QueuePool.__init__, wrapped: make a pool and its ledger."""
        wrapped(*args, **kwargs)
        # One of a class of the app's isn't whole yet: its first checkout makes the ledger.
        if type(pool).__module__.startswith("sqlalchemy."):
            self.govern(pool)

    def name(self, wrapped: Callable[..., None], _: Any, args: Any, kwargs: Any) -> None:
        """Engine.__init__, wrapped: note what the engine of a pool is called."""
        wrapped(*args, **kwargs)
        try:
            self.note_engine(*args, **kwargs)
        except Exception:  # noqa: S110 - another SQLAlchemy: its pools go by their class
            pass

    @staticmethod
    def note_engine(pool: Any, dialect: Any, url: Any, *_: Any, **__: Any) -> None:
        pool.__dict__[URL] = url

    def recreate(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return what makes a pool in the place of another, of which the same is known."""

        @functools.wraps(original)
        def recreate(self_: Any) -> Any:
            other = original(self_)
            if URL in self_.__dict__:
                other.__dict__[URL] = self_.__dict__[URL]
            kind = self_.__dict__.get(KIND)
            if kind is not None:
                other.__dict__[KIND] = kind
                ledger = other.__dict__.get(LEDGER)
                if ledger is not None:
                    ledger.kind = kind
                    self._latest[kind] = ledger
            return other

        return recreate

    # ---- whatever takes longer

    def govern(self, pool: Any) -> Ledger | None:
        """Return the ledger of a pool, made now if it has none; None for one to be left alone."""
        try:
            if not self._has_bound(pool):
                pool.__dict__[LEDGER] = None
                if isinstance(pool, sys.modules["sqlalchemy.pool"].QueuePool):
                    view = PoolView(pool)
                    watched = pool.__dict__.setdefault(WATCHED, WatchedPool(view))
                    pool.__dict__[OUT] = watched.out
                    self._all[id(watched)] = watched
                return None
            kind = pool.__dict__.setdefault(KIND, object())
            ledger: Ledger = pool.__dict__.setdefault(
                LEDGER, Ledger(self.book, PoolView(pool), kind)
            )
            pool.__dict__[OUT] = ledger.out
            self._latest[kind] = ledger
            self._all[id(ledger)] = ledger
        except Exception as exc:
            pool.__dict__[LEDGER] = None
            self._requests.failed(exc)
            return None
        return ledger

    @staticmethod
    def _has_bound(pool: Any) -> bool:
        """Tell whether a pool is one that threads may have to wait for."""
        module = sys.modules["sqlalchemy.pool"]
        if not isinstance(pool, module.QueuePool) or isinstance(pool, module.AsyncAdaptedQueuePool):
            return False
        return bool(pool.size() > 0 and pool._max_overflow >= 0)

    def _take(self, pool: Any, ledger: Ledger, account: Account, where: int) -> None:
        holder = account.holder
        waited, holder.waited = holder.waited, 0.0  # for this checkout only
        try:
            ledger.take(account, where, max(ledger.timeout() - waited, 0.0))
        except NoConnection as exc:
            timeout = pool.timeout()
            error: Exception = sys.modules["sqlalchemy"].exc.TimeoutError(
                f"QueuePool limit of size {pool.size()} overflow {pool.overflow()} reached,"
                f" connection timed out, timeout"
                f" {timeout if timeout is None else format(timeout, '0.2f')}",
                code="3o7r",
            )
            self._requests.timed_out(error, account, exc.reason)
            raise error from None

    def start_over(self) -> None:
        """Know nothing of what the parent process has taken: it isn't this one's."""
        for ledger in self.pools():
            ledger.pool.forget_ledger()
        # What a thread of the parent's was in the middle of keeps its ledgers alive here.
        self._latest, self._all = weakref.WeakValueDictionary(), weakref.WeakValueDictionary()
