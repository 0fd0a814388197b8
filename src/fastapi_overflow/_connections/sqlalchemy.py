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
from typing import TYPE_CHECKING, Any

from .ledger import Ledger, NoConnection

if TYPE_CHECKING:
    from .book import Book
    from .holder import Account, Holder

LEDGER = "_fastapi_overflow_ledger"  # in a pool; None in one that is left alone
KIND = "_fastapi_overflow_kind"  # in a pool and in those that take its place

FOR_EVER = 10.0**9  # seconds


class _PoolView:
    """What a ledger asks a QueuePool, which it must not keep alive."""

    __slots__ = ("_pool",)

    def __init__(self, pool: Any) -> None:
        self._pool = weakref.ref(pool)

    def capacity(self) -> int:
        pool = self._pool()
        return 1 if pool is None else pool.size() + pool._max_overflow

    def out(self) -> int:
        pool = self._pool()
        return 0 if pool is None else pool.checkedout()

    def timeout(self) -> float:
        pool = self._pool()
        seconds = None if pool is None else pool.timeout()
        return FOR_EVER if seconds is None else seconds

    def forget_ledger(self) -> None:
        pool = self._pool()
        if pool is not None:
            pool.__dict__.pop(LEDGER, None)


class Governor:
    """Asks the ledger of each bounded pool at every checkout.

    :param book: of all ledgers
    :param find_holder: returns who takes a connection in this thread, and where
    :param on_timeout: called with an error, the ledger, the account and the reason, before the
        error is raised
    :param on_failure: called with what went wrong where a pool turns out not to be as expected
    """

    def __init__(
        self,
        book: Book,
        find_holder: Callable[[], tuple[Holder, int]],
        on_timeout: Callable[[Exception, Ledger, Account, str], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.book = book
        self._find_holder = find_holder
        self._on_timeout = on_timeout
        self._on_failure = on_failure
        # By kind: the one of the latest pool.
        self._latest: weakref.WeakValueDictionary[object, Ledger] = weakref.WeakValueDictionary()
        self._all: weakref.WeakSet[Ledger] = weakref.WeakSet()

    @property
    def has_ledgers(self) -> bool:
        return bool(self._latest)

    def ledger_of(self, kind: object) -> Ledger | None:
        return self._latest.get(kind)

    def ledgers(self) -> list[Ledger]:
        # In one step: other threads make and drop engines.
        found = (reference() for reference in self._latest.valuerefs())
        return [ledger for ledger in found if ledger is not None]

    # ---- what stands in the place of the pools' own methods

    def connect(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return what takes a connection once the ledger says so."""
        find_holder = self._find_holder

        @functools.wraps(original)
        def connect(self_: Any) -> Any:
            try:
                ledger = self_.__dict__[LEDGER]
            except KeyError:
                ledger = self.govern(self_)
            if ledger is None:
                return original(self_)
            holder, where = find_holder()
            account = holder.accounts.get(ledger)
            if account is None:
                account = holder.account(ledger)
            if not ledger.takes_at_once(account, where):
                self._take(self_, ledger, account, where)
            elif holder.waited:
                holder.waited = 0.0
            try:
                connection = original(self_)
                record = connection._connection_record
                if record is not None:
                    ledger.out[record] = account
                else:  # a listener of the app's has detached or closed it
                    ledger.give_back(account)
            except BaseException:
                ledger.give_back(account)
                raise
            return connection

        return connect

    @staticmethod
    def return_connection(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """Return what puts a connection back and enters that."""

        @functools.wraps(original)
        def _do_return_conn(self: Any, record: Any) -> None:
            ledger = self.__dict__.get(LEDGER)
            # Before the record is in the pool: from then on it may be another's.
            account = None if ledger is None else ledger.out.pop(record, None)
            try:
                original(self, record)
            finally:
                if account is not None:
                    ledger.give_back(account)

        return _do_return_conn

    def make(self, wrapped: Callable[..., None], pool: Any, args: Any, kwargs: Any) -> None:
        """QueuePool.__init__, wrapped: make a pool and its ledger."""
        wrapped(*args, **kwargs)
        # One of a class of the app's isn't whole yet: its first checkout makes the ledger.
        if type(pool).__module__.startswith("sqlalchemy."):
            self.govern(pool)

    def recreate(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return what makes a pool in the place of another, of which the same is known."""

        @functools.wraps(original)
        def recreate(self_: Any) -> Any:
            other = original(self_)
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
                return None
            kind = pool.__dict__.setdefault(KIND, object())
            ledger: Ledger = pool.__dict__.setdefault(
                LEDGER, Ledger(self.book, _PoolView(pool), kind)
            )
            self._latest[kind] = ledger
            self._all.add(ledger)
        except Exception as exc:
            pool.__dict__[LEDGER] = None
            self._on_failure(exc)
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
            ledger.take(account, where, max(ledger.pool.timeout() - waited, 0.0))
        except NoConnection as exc:
            timeout = pool.timeout()
            error: Exception = sys.modules["sqlalchemy"].exc.TimeoutError(
                f"QueuePool limit of size {pool.size()} overflow {pool.overflow()} reached,"
                f" connection timed out, timeout"
                f" {timeout if timeout is None else format(timeout, '0.2f')}",
                code="3o7r",
            )
            self._on_timeout(error, ledger, account, exc.reason)
            raise error from None

    def start_over(self) -> None:
        """Know nothing of what the parent process has taken: it isn't this one's."""
        for ledger in list(self._all):
            ledger.pool.forget_ledger()
