"""One checkout that waits: what its thread does meanwhile.

Called where a connection isn't there at once. It must never wait while it has the book, nor for
what can't come, nor longer than the pool's own timeout.
"""

from __future__ import annotations

import time
from threading import Lock, current_thread, get_ident
from typing import Any

from .book import TELL_SECONDS
from .circles import who_could_help
from .holder import HOP, LOOP, THREAD, Account, Holder

# Seconds between two looks of somebody who waits at the checkout. In a thread it is only for what
# goes wrong; on the loop others wait for the next one to go on.
LOOK_SECONDS = 0.1
LOOP_LOOK_SECONDS = 0.01

# Looks in a row that must find that waiting can't end: a hop may be on its way to its thread.
HOPELESS_LOOKS = 2


class NoConnection(Exception):
    """A checkout that can't or may not wait any longer.

    :ivar reason: in words
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Checkout:
    """One checkout that waits.

    :ivar arrival: its number among all that have had to wait, of whatever pool
    :ivar granted: whether it has its connection, in the ledger
    :ivar is_unasked: whether those of its kind don't wait before they begin
    """

    __slots__ = (
        "_hopeless",
        "account",
        "arrival",
        "granted",
        "is_unasked",
        "lock",
        "since",
        "thread",
        "where",
    )

    def __init__(self, account: Account, where: int) -> None:
        self.account = account
        self.where = where
        self.since = time.monotonic()
        self.arrival = 0
        self.thread = get_ident()
        self.granted = self.is_unasked = False
        self._hopeless = 0  # looks in a row that found no end to the wait
        self.lock = Lock()
        self.lock.acquire()

    def wait(self, timeout: float) -> None:
        """Wait until it is granted.

        :param timeout: seconds to wait at most
        :raises NoConnection: where waiting can't end, or the time is up
        """
        until = self.since + timeout
        is_told = False
        ledger = self.account.ledger
        seconds = LOOP_LOOK_SECONDS if self.where == LOOP else LOOK_SECONDS
        try:
            ledger.begin(self)
            while not self.granted:
                left = until - time.monotonic()
                self.lock.acquire(timeout=max(min(seconds, left), 0))
                self._look(ledger, until)
                if not is_told and time.monotonic() - self.since >= TELL_SECONDS:
                    is_told = True
                    ledger.book.somebody_waited(ledger)
        except BaseException as exc:
            served = ledger.give_up(self, isinstance(exc, NoConnection))
            if not served:
                if isinstance(exc, NoConnection):
                    ledger.timeouts += 1
                    self.account.has_failed = True
                raise
        finally:
            seconds = time.monotonic() - self.since
            self.account.waited += seconds
            ledger.seconds_waited += seconds

    def _look(self, ledger: Any, until: float) -> None:
        """Look whether it may go on.

        :param until: time.monotonic() at which its time is up
        :raises NoConnection: where waiting can't end, or the time is up
        """
        now = time.monotonic()
        helpers = ledger.book.run(self._look_with_book, ledger, now)
        if self.granted:
            return
        on_loop = self.where == LOOP
        if now >= until:
            if on_loop or not ledger.book.run(self._takes_unsafe, ledger):
                self._fail(ledger, "the pool's timeout is over", time_is_up=True)
            return
        if helpers is None or ledger.book.has_one_at_work(helpers, on_loop, current_thread()):
            self._hopeless = 0
            return
        self._hopeless += 1
        if self._hopeless < HOPELESS_LOOKS or self._need_not_fail(ledger):
            return
        if on_loop:
            self._fail(
                ledger,
                "on the event loop nobody can wait for it: no request that has one can go on while"
                " the loop stands still",
            )
        self._fail(ledger, "all who have one wait for another, and this request was the last to")

    def _look_with_book(self, ledger: Any, now: float) -> list[Holder] | None:
        if not self.granted:
            ledger.turns.look(now)
        return None if self.granted else self._who_could_help()

    def _who_could_help(self) -> list[Holder] | None:
        return who_could_help(self.account, self.where, self.arrival)

    def _takes_unsafe(self, ledger: Any) -> bool:
        """Take what is free though it wasn't its turn, as the pool itself would have it."""
        served: bool = self.granted or ledger.turns.break_circle(self, [])
        return served

    def _need_not_fail(self, ledger: Any) -> bool:
        """Tell whether it may go on, or wait, although it was about to fail."""
        need_not: bool = ledger.book.run(self._goes_on_or_waits, ledger)
        return need_not

    def _goes_on_or_waits(self, ledger: Any) -> bool:
        if not self.granted and ledger.stock.believe_pool():
            ledger.turns.serve(time.monotonic())
        holders = None if self.granted else self._who_could_help()
        return holders is None or (self.where != LOOP and ledger.turns.break_circle(self, holders))

    def _fail(self, ledger: Any, reason: str, time_is_up: bool = False) -> None:
        """Have requests like this one held back from now on, where they can't wait in their hop.

        :raises NoConnection: always
        """
        habit = self.account.habit
        if habit is not None and self.where != HOP:
            habit.raise_to(self.account)
            habit.press(time.monotonic(), in_vain=self.where == THREAD and time_is_up)
            habits = self.account.holder.habits
            if habits is not None:
                habits.have_taken = True
        if self.where == LOOP:
            ledger.stock.spare_one()
        raise NoConnection(reason)
