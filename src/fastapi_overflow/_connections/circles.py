"""Whether a wait for a connection can end: who could bring one, and who waits in a circle.

Called by whoever has the book, at the looks of a checkout that waits. It must be right about "it
can't": a checkout fails by that.
"""

from __future__ import annotations

import time

from .holder import LOOP, THREAD, Account, Holder


def who_could_help(account: Account, where: int, arrival: int) -> list[Holder] | None:
    """Return who might end this wait if something of it is at work; None if it will end anyway.

    On the loop it will where somebody else's connection is about to come back. In a thread it
    will unless all who hold a connection wait for another, in whatever pool, this one since last.

    :param arrival: the number of the checkout among all that have had to wait
    """
    if where != LOOP:
        return _who_waits_in_a_circle(account, where, arrival)
    stock = account.ledger.stock
    if stock.adrift > 0 or stock.held > len(stock.out):
        return None
    return [each.holder for each in stock.stakes if each.held and each is not account]


def _who_waits_in_a_circle(account: Account, where: int, arrival: int) -> list[Holder] | None:
    habit = account.habit
    ledgers = [account.ledger]
    if not account.holder.holds_something:
        # Where its kind has waited in vain so lately: those who have one may wait for this very
        # thread, behind others of the app's.
        starved = habit is not None and time.monotonic() < habit.starved_until
        if starved and where == THREAD:
            return [each.holder for each in account.ledger.stock.stakes if each.held]
        return None
    holders = []
    for ledger in ledgers:
        stock = ledger.stock
        if stock.adrift > 0 or stock.held > len(stock.out):
            return None
        for each in stock.stakes:
            holder = each.holder
            if not holder.waiting or not each.held:
                return None
            holders.append(holder)
            for other in holder.waiting:
                if other.arrival > arrival:
                    return None
                if other.account.ledger not in ledgers:
                    ledgers.append(other.account.ledger)
    return holders
