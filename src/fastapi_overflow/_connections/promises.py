"""What is set aside, and until when.

Called by whoever has the book. It must never keep a connection from others for somebody who
doesn't come.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from .holder import Account
from .stock import Stock

# Seconds for which connections stay set aside for a request that doesn't take them: so many times
# as long as its kind takes for it, and between these. Guesses.
PATIENCE = 8
LEAST_PATIENCE = 0.2
MOST_PATIENCE = 2.0

# Looks from the event loop for which they stay so at least: a loop that starts a thousand requests
# comes to none of them for longer than that.
PATIENCE_LOOKS = 3


class Promises:
    """For whom connections are set aside, or expected to be taken, by the time at which that ends.

    What an account has set aside is in its `claim`; the sums are the stock's.
    """

    __slots__ = ("_heap", "_looks", "_made", "_stock")

    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        self._looks = 0  # by event loops
        self._made = 0
        self._heap: list[list[Any]] = []

    def __bool__(self) -> bool:
        return bool(self._heap)

    def make(self, account: Account, now: float) -> None:
        """Have what is set aside for an account be given up when it is late: from now on."""
        habit = account.habit
        usual = 0.0 if habit is None else PATIENCE * max(habit.idle, habit.again)
        until = now + min(max(usual, LEAST_PATIENCE), MOST_PATIENCE)
        self.withdraw(account)
        self._made += 1
        account.promise = [until, self._looks + PATIENCE_LOOKS, self._made, account]
        heappush(self._heap, account.promise)

    @staticmethod
    def withdraw(account: Account) -> None:
        """Have nothing be given up for an account, whatever is set aside for it."""
        promise = account.promise
        if promise is not None:
            promise[3] = None  # the list stays until its time comes
            account.promise = None

    def give_up(self, account: Account) -> None:
        """Set nothing aside any longer for an account."""
        self._stock.leave_out(account)
        account.claim = account.held
        account.is_awaited = False
        self.withdraw(account)
        self._stock.count(account)

    def give_up_late(self, now: float) -> None:
        """Set nothing aside any longer for whoever is late."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            until, looks, _, account = heap[0]
            # A loop that stands or has ended looks no more.
            if account is not None and looks > self._looks and now < until + MOST_PATIENCE:
                return
            heappop(heap)
            if account is not None:
                self.give_up(account)

    def note_look(self) -> None:
        """Take note that an event loop looks."""
        self._looks += 1
