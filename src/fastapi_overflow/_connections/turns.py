"""Whose turn it is: who goes on with what a pool has.

Called by whoever has the book, after every change. It must never call what belongs to the app.
"""

from __future__ import annotations

import time

from .checkout import Checkout
from .entries import Entries, Entry
from .holder import Account, Holder
from .promises import Promises
from .queues import Queues
from .stock import Stock


class Turns:
    """Serves those who wait for the connections of one pool."""

    # Invariants, whenever the book is free and nothing is in its `returned`, beside the stock's:
    #   5. Nobody waits at the checkout on the loop while one is free; in a thread, while one is
    #      free that isn't set aside, and all who have a stake could come to an end if it took it.
    #   6. The first that waits to be let in has to: by `Entries.has_room`.
    # Therefore no deadlock: what is set aside is taken or given up in time. All others who hold one
    # could come to their end in some order, as long as none takes more than its kind did before.
    # Where one does, and all wait, the newest fails, and its kind is known for it from then on.

    __slots__ = ("_entries", "_promises", "_queues", "_stock")

    def __init__(self, stock: Stock, promises: Promises, queues: Queues, entries: Entries) -> None:
        self._stock = stock
        self._promises = promises
        self._queues = queues
        self._entries = entries

    def look(self, now: float) -> None:
        """Give up what was set aside for too long, ask the pool, and serve those who wait.

        Before that those are let in who turn out to wait for nothing.
        """
        self._promises.give_up_late(now)
        self._stock.ask_pool(now)
        for entry in self._entries.take_out_needless(now):
            self._promises.give_up(entry.account)
            entry.claim = 0
            self._wake(entry)
        self.serve(now, of_all=True)

    def serve(self, now: float, of_all: bool = False) -> None:
        """Let go on whoever may, until the invariants hold.

        First who waits on a loop, then threads that hold one already, then what is set aside for a
        request that has waited for long or has begun, then the other threads by age, then the
        requests that are about to begin.

        :param of_all: whether to look at all of these: not at each return
        """
        stock, queues, entries = self._stock, self._queues, self._entries
        while queues and stock.free > 0:
            checkout: Checkout | None
            if queues.on_loop:
                checkout = queues.on_loop[0]
            else:
                entries.collect_for_old(now)
                checkout = queues.next(stock)
            if checkout is None:
                break
            if checkout in queues.first:
                entries.note_turn(is_late=False)
            self._serve_one(checkout, now)
        waiting = entries.waiting
        while waiting:
            if waiting[0].claim:
                entries.collect_for_old(now)
            entry = entries.next(of_all)
            if entry is None:
                if entries.skips_turn():
                    continue
                break
            entries.remove(entry)
            entries.note_turn(entry.is_late)
            entries.let_in(entry.account, entry.claim, now)
            self._wake(entry)
        stock.somebody_waits = bool(waiting or queues)

    @staticmethod
    def _wake(entry: Entry) -> None:
        entry.is_in = True
        entry.wake()

    def _serve_one(self, checkout: Checkout, now: float) -> None:
        self._queues.remove(checkout)
        self.grant(checkout, now)
        checkout.lock.release()

    def grant(self, checkout: Checkout, now: float) -> None:
        """Enter that a checkout has its connection."""
        checkout.granted = True
        stock, account = self._stock, checkout.account
        outright = account.outright()
        if outright > max(account.claim, 1):
            stock.leave_out(account)
            if outright <= stock.free - stock.aside and stock.is_safe(
                account, outright, account.limit()
            ):
                account.claim = outright
                self._promises.make(account, now)
            stock.count(account)
        self.hand_out(account, now)

    def hand_out(self, account: Account, now: float) -> None:
        """Enter that an account has one more, whether anybody was asked or not."""
        stock = self._stock
        stock.leave_out(account)
        if not account.held:
            account.filled = now
            self._queues.move_up(account)
        account.held += 1
        stock.held += 1
        account.ledger.checkouts += 1
        account.is_awaited = False
        stock.count(account)

    @staticmethod
    def break_circle(checkout: Checkout, holders: list[Holder]) -> bool:
        """Serve one of those that wait for each other, be it safe or not, if one is free.

        All may come to their end by that, where else one fails for sure. So may a single one whose
        time is up.

        :param holders: who waits for each other, of whatever pools
        """
        for each in [checkout, *(each for holder in holders for each in holder.waiting)]:
            ledger = each.account.ledger
            if ledger.stock.free > 0:
                ledger.turns._serve_one(each, time.monotonic())
                return True
        return False
