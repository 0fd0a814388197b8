"""Who waits at the checkout, and who of them is next.

Called by whoever has the book. It must never let anybody go on by itself.
"""

from __future__ import annotations

from collections import deque

from .checkout import Checkout
from .holder import LOOP, Account
from .stock import Stock


class Queues:
    """The checkouts of one pool that wait.

    :ivar on_loop: on an event loop
    :ivar others: in threads, of those who hold one already
    :ivar first: in threads, of those who hold none
    :ivar unasked: how many of these are of kinds that don't wait before they begin
    """

    __slots__ = ("first", "on_loop", "others", "unasked")

    def __init__(self) -> None:
        self.on_loop: deque[Checkout] = deque()
        self.others: deque[Checkout] = deque()
        self.first: deque[Checkout] = deque()
        self.unasked = 0

    def __bool__(self) -> bool:
        return bool(self.on_loop or self.others or self.first)

    def all(self) -> list[Checkout]:
        """Return who waits; from any thread."""
        return [*list(self.on_loop), *list(self.others), *list(self.first)]

    def add(self, checkout: Checkout) -> None:
        if checkout.where == LOOP:
            self.on_loop.append(checkout)
        elif checkout.account.held:
            self.others.append(checkout)
        else:
            habit = checkout.account.habit
            checkout.is_unasked = habit is None or habit.needs(checkout.since) is None
            self.unasked += checkout.is_unasked
            self.first.append(checkout)

    def remove(self, checkout: Checkout) -> None:
        """Have a checkout wait no longer, if it does."""
        for queue in (self.on_loop, self.others):
            if checkout in queue:
                queue.remove(checkout)
        self._remove_first(checkout)
        if checkout in checkout.account.holder.waiting:
            checkout.account.holder.waiting.remove(checkout)

    def _remove_first(self, checkout: Checkout) -> bool:
        is_there = checkout in self.first
        if is_there:
            self.first.remove(checkout)
            self.unasked -= checkout.is_unasked
        return is_there

    def move_up(self, account: Account) -> None:
        """Have what an account asks for besides be by one who holds something now."""
        for other in account.holder.waiting:
            if other.account is account and self._remove_first(other):
                self.others.append(other)

    def may_pass(self, account: Account, where: int, stock: Stock) -> bool:
        """Tell whether a checkout may go on without waiting.

        1. None is free: no.
        2. On the loop: yes, whoever it was set aside for. Nobody can wait there.
        3. One is set aside for this account: yes.
        4. Others are before it: no.
        5. There are as many that aren't set aside as it takes elsewhere than in a hop's thread,
           where it may not be able to wait for them; and all could still come to their end.
        """
        if stock.free <= 0:
            return False
        if where == LOOP or account.claim > account.held:
            return True
        if self.others or (self.first and not account.held):
            return False
        return stock.has_for(account)

    def next(self, stock: Stock) -> Checkout | None:
        """Return the thread that may go on next, by age; those that hold one already first."""
        for queue in (self.others, self.first):
            for checkout in queue:
                if stock.has_for(checkout.account):
                    return checkout
        return None
