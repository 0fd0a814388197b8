"""The ledger of one pool: who has its connections, and who gets the next one.

Asked at each checkout and each return, from any thread. It must never wait while it has the book,
and never call what belongs to the app.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .book import Book
from .checkout import Checkout
from .door import Door
from .entries import Entries
from .holder import HOP, LOOP, Account, Holder
from .promises import Promises
from .queues import Queues
from .stock import Stock
from .turns import Turns

if TYPE_CHECKING:
    from .stock import Pool


class Ledger:
    """Who has the connections of one pool.

    :param kind: the same for pools that take each other's place
    :ivar stock: what there is, and who has a stake in it
    :ivar queues: who waits at the checkout
    :ivar entries: which requests wait before they begin
    :ivar turns: serves them
    :ivar door: where requests ask before they begin
    :ivar out: what is out for whom; see Stock
    :ivar checkouts: connections handed out
    :ivar timeouts: checkouts that have failed
    :ivar seconds_waited: by requests and checkouts that wait no longer
    :ivar seconds_held: for which holders had one at least that have none now
    :ivar seconds_idle: of these, those in which nothing of the holder was at work
    """

    __slots__ = (
        "__weakref__",
        "_acquire",
        "_first",
        "_later",
        "_others",
        "_promises",
        "_release",
        "_waiting",
        "book",
        "checkouts",
        "door",
        "entries",
        "kind",
        "out",
        "pool",
        "queues",
        "seconds_held",
        "seconds_idle",
        "seconds_waited",
        "stock",
        "timeouts",
        "turns",
    )

    def __init__(self, book: Book, pool: Pool, kind: object) -> None:
        self.book = book
        self.pool = pool
        self.kind = kind
        self.stock = stock = Stock(pool, book.note_fault)
        self.queues = queues = Queues()
        self._promises = promises = Promises(stock)
        self.entries = entries = Entries(stock, promises, queues)
        self.turns = turns = Turns(stock, promises, queues, entries)
        self.door = Door(book, stock, promises, entries, turns)
        self.out = stock.out
        self.checkouts = self.timeouts = 0
        self.seconds_waited = self.seconds_held = self.seconds_idle = 0.0
        # For each checkout, without going the long way.
        self._acquire, self._release = book.lock.acquire, book.lock.release
        self._later = book.later
        self._others = queues.others
        self._first = queues.first
        self._waiting = entries.waiting

    @property
    def capacity(self) -> float:
        """How many connections may be out; math.inf where the pool is left alone."""
        return self.stock.capacity

    @property
    def adrift(self) -> int:
        return self.stock.adrift

    def held_back(self) -> list[Holder]:
        """Return the requests that wait to be let in; from any thread."""
        return [entry.account.holder for entry in list(self._waiting)]

    def waiting_holders(self) -> list[Holder]:
        """Return who waits for one, as often as it does; from any thread."""
        return [each.account.holder for each in self.queues.all()] + self.held_back()

    def waiting_since(self) -> list[float]:
        """Return since when somebody waits, for each; from any thread."""
        checkouts = [each.since for each in self.queues.all()]
        return checkouts + [each.since for each in list(self._waiting)]

    # ---- a checkout

    def takes_at_once(self, account: Account, where: int) -> bool:  # noqa: PLR0912, PLR0915
        """Take a connection, if that needs no thought; tell whether it was taken.

        Most checkouts end here: a first one, of a kind that takes one at a time, where one is free.
        All in one: a call for each checkout would be half a percent of it.
        """
        stock, book = self.stock, self.book
        has_opened = is_taken = False
        try:
            self._acquire()
            if book.is_open:
                # By this very thread, which a signal or the garbage collector has interrupted: it
                # can't wait here.
                self._later.append((self._enter_checkout, account))
                self._release()
                return True
            has_opened = book.is_open = True
            try:
                free = stock.capacity - stock.held - stock.adrift
                if free <= 0 or account.held or not account.is_simple:
                    return False
                habit = account.habit
                if habit is not None and not habit.is_simple:
                    return False
                if not account.claim and (
                    (free <= stock.aside + stock.spare or self._first or self._others)
                    and where != LOOP
                ):
                    return False
                if account.claim:
                    stock.aside -= 1
                else:
                    stock.stakes[account] = None
                is_taken = True
                account.held = 1
                stock.held += 1
                self.checkouts += 1
                # Not before the lock was had: until then it may have been another's.
                account.filled = now = time.monotonic()
                if habit is not None:
                    if account.is_awaited:
                        account.is_awaited = False
                        stock.awaited -= 1
                        if not account.claim:  # nothing is left to do at the request's end
                            self._promises.withdraw(account)
                    takes = account.takes
                    if takes:
                        again = now - account.emptied
                        if again > account.again:  # noqa: PLR1730 - max() is a call
                            account.again = again
                    else:
                        account.idle = now - account.began
                        if not account.most:
                            account.most = 1
                    if where != HOP:
                        account.note_elsewhere(where, now)
                    account.takes = takes + 1
            finally:
                book.is_open = False
                self._release()
        except BaseException:
            book.leave_if_had(has_opened)
            if is_taken:  # an interruption at the end: nobody will give it back
                self.give_back(account)
            raise
        if self._later:
            book.settle()
        return True

    def take(self, account: Account, where: int, timeout: float) -> None:
        """Wait until this account may take a connection: it has one then, in this book.

        :param timeout: seconds to wait at most
        :raises NoConnection: where waiting can't end, or the time is up
        """
        Checkout(account, where).wait(timeout)

    def begin(self, checkout: Checkout) -> None:
        """Grant a checkout, or have it wait."""
        self.book.run(self._begin, checkout, time.monotonic())

    def _begin(self, checkout: Checkout, now: float) -> None:
        account = checkout.account
        self._promises.give_up_late(now)
        account.note(checkout.where, now)
        if self.queues.may_pass(account, checkout.where, self.stock):
            self.turns.grant(checkout, now)
        else:
            self.stock.ask_pool(now)
            self.stock.note_waiting(now)
            self.book.arrivals += 1
            checkout.arrival = self.book.arrivals
            self.stock.somebody_waits = True
            self.queues.add(checkout)
            account.holder.waiting.append(checkout)
            self.turns.serve(now)

    def give_up(self, checkout: Checkout, may_keep: bool) -> bool:
        """Have a checkout wait no longer; tell whether it was granted meanwhile and keeps that."""
        return self.book.run(self._give_up, checkout, may_keep)

    def _give_up(self, checkout: Checkout, may_keep: bool) -> bool:
        self.queues.remove(checkout)
        keeps = checkout.granted and may_keep
        if checkout.granted and not keeps:
            self.enter_return(checkout.account)
        else:
            self.turns.serve(time.monotonic())
        return keeps

    def _enter_checkout(self, account: Account) -> None:
        """Enter a connection that has been taken in the middle of the book, unasked."""
        self.turns.hand_out(account, time.monotonic())

    def timeout(self) -> float:
        """Return for how many seconds a checkout may wait."""
        try:
            return self.pool.timeout()
        except Exception as exc:
            self.book.run(self._leave_pool_alone, exc)
            return 0.0  # nobody has to

    def _leave_pool_alone(self, exc: Exception) -> None:
        self.stock.leave_pool_alone(exc)
        self.turns.serve(time.monotonic())

    def seconds_left(self, since: float) -> float:
        """Return for how long somebody who waits may go on: the pool's timeout without a return.

        :param since: time.monotonic() when it began to wait
        """
        return max(since, self.stock.moved) + self.timeout() - time.monotonic()

    # ---- a connection comes back

    def give_back(self, account: Account) -> None:
        """Enter that a connection of this account is back."""
        book = self.book
        has_opened = is_entered = False
        try:
            now = time.monotonic()
            if not self._acquire(False):
                is_entered = True
                book.give_back(account)
                return
            if book.is_open:  # by this very thread
                self._later.append((self.enter_return, account))
                is_entered = True
                self._release()
                return
            has_opened = book.is_open = True
            try:
                stock = self.stock
                if (
                    account.held == 1
                    and not account.claim
                    and account.is_quick
                    and not stock.somebody_waits
                ):
                    is_entered = True
                    account.held = 0
                    stock.held -= 1
                    del stock.stakes[account]
                    seconds = now - account.filled
                    self.seconds_held += seconds
                    if account.habit is not None:
                        account.emptied = now
                        account.kept += seconds
                        if account.unused:
                            self.seconds_idle += account.unused - account.idled
                            account.idled = account.unused
                else:
                    is_entered = True
                    self.enter_return(account)
            finally:
                book.is_open = False
                self._release()
        except BaseException:
            book.leave_if_had(has_opened)
            if not is_entered:
                book.give_back(account)
            raise
        if self._later:
            book.settle()

    def enter_return(self, account: Account) -> None:
        """Enter that a connection of this account is back; called with the book."""
        stock = self.stock
        now = stock.moved = time.monotonic()
        stock.leave_out(account)
        account.held -= 1
        stock.held -= 1
        if not account.held:
            account.kept += now - account.filled
            account.emptied = now
            if account.filled:
                self.seconds_held += now - account.filled
            self.seconds_idle += account.unused - account.idled
            account.idled = account.unused
        if account.claim:
            if account.goes_on(now):
                self._promises.make(account, now)
            else:
                account.claim = account.held
        stock.count(account)
        if not (account.held or account.is_quick):  # of a task outside of any request: it has ended
            account.holder.accounts.pop(self, None)
            if account.habit is not None:
                account.habit.learn(account)
        self.turns.serve(now)
