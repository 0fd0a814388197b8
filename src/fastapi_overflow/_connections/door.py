"""Where requests ask to be let in before they begin.

Called from event loops, for each request that is about to take a connection. It must never wait:
who isn't let in is woken later.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .book import TELL_SECONDS, Book
from .entries import Entries, Entry
from .holder import Account
from .promises import Promises
from .stock import Stock
from .turns import Turns


class Door:
    """Lets requests in to the connections of one pool."""

    __slots__ = ("_book", "_entries", "_promises", "_stock", "_turns")

    def __init__(
        self, book: Book, stock: Stock, promises: Promises, entries: Entries, turns: Turns
    ) -> None:
        self._book = book
        self._stock = stock
        self._promises = promises
        self._entries = entries
        self._turns = turns

    def lets_in(self, account: Account, claim: int) -> bool:
        """Let a request in that holds nothing, if that can be at once; tell whether it is in.

        :param claim: connections to set aside for it; 0 for one that can wait in its thread
        """
        return self._book.run(self._lets_in, account, claim)

    def _lets_in(self, account: Account, claim: int) -> bool:
        now = time.monotonic()
        entries = self._entries
        self._promises.give_up_late(now)
        is_in = not entries.waiting and entries.has_room(account, claim)
        if is_in:
            entries.let_in(account, claim, now)
        return is_in

    def queue(
        self,
        account: Account,
        claim: int,
        wake: Callable[[], None],
        *,
        is_usual: bool = False,
        is_late: bool = False,
    ) -> Entry:
        """Have a request wait until it is let in.

        :param wake: called once then, in any thread
        :param is_usual: whether it waits for what requests of its kind usually need: no longer than
            they do
        :param is_late: whether it has begun: then it comes before those that have not
        """
        entry = Entry(account, claim, wake, is_usual=is_usual, is_late=is_late)
        self._book.run(self._queue, entry)
        return entry

    def _queue(self, entry: Entry) -> None:
        account = entry.account
        self._stock.ask_pool(entry.since)
        self._stock.note_waiting(entry.since)
        if account.claim > account.held:  # by the app's habit: its route's is about to be known
            self._promises.give_up(account)
        self._stock.somebody_waits = True
        self._entries.add(entry)
        self._turns.serve(entry.since)

    def leave(self, entry: Entry) -> bool:
        """Have a request wait no longer; tell whether it was let in."""
        self._book.run_once_closed(self._leave, entry)
        return entry.is_in

    def _leave(self, entry: Entry) -> None:
        now = time.monotonic()
        if not entry.is_in:
            self._entries.remove(entry)
            self._promises.give_up(entry.account)
            self._turns.serve(now)
        entry.account.waited += now - entry.since
        entry.account.ledger.seconds_waited += now - entry.since

    def renew(self, account: Account, claim: int) -> bool:
        """Tell whether so many are still set aside; then they are for as long again."""
        return self._book.run(self._renew, account, claim)

    def _renew(self, account: Account, claim: int) -> bool:
        is_there = account.claim >= self._stock.at_most(claim)
        if is_there:
            self._promises.make(account, time.monotonic())
        return is_there

    def release(self, account: Account) -> None:
        """Set nothing aside any longer for an account: its request has ended."""
        if account.claim or account.is_awaited or account.promise is not None:
            self._book.run_once_closed(self._release, account)

    def _release(self, account: Account) -> None:
        self._promises.give_up(account)
        self._turns.serve(time.monotonic())

    # ---- for event loops

    @property
    def is_watched(self) -> bool:
        """Whether an event loop has to look from time to time."""
        return bool(self._entries or self._promises)

    def look(self) -> None:
        """Give up what was set aside for too long, and serve those who wait.

        Called from an event loop from time to time while something is set aside, or somebody waits.
        """
        now = time.monotonic()
        oldest = self._book.run(self._look, now)
        if oldest is not None and not oldest.is_told and now - oldest.since >= TELL_SECONDS:
            oldest.is_told = True
            self._book.somebody_waited(oldest.account.ledger)

    def _look(self, now: float) -> Entry | None:
        """Return who waits for longest, afterwards."""
        self._promises.note_look()
        self._turns.look(now)
        return self._entries.oldest()
