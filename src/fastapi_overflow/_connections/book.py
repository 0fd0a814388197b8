"""The lock of all ledgers, and the connections that have come back while it was held.

Held at each checkout and each return, from any thread. A connection may come back from anywhere,
also from the garbage collector in the middle of a ledger's own lines, where this thread has the
lock already: so whoever brings one never waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .holder import Account, Holder


# Seconds after which a wait is worth a word to the operator.
TELL_SECONDS = 1.0


class Book:
    """The lock of all ledgers.

    Whoever has held it calls `settle` afterwards where something is in `returned`. Therefore what
    has come back is entered by the time at which nobody is at the book: who brings it finds the
    lock free, or its owner looks at `returned` after that.

    :param owners_at_work: tells of requests whether code of one runs in a thread that isn't among
        those that wait; or, where this thread's event loop stands still meanwhile, whether one
        belongs to another loop
    :param somebody_waited: told of a ledger when somebody has waited for long, without the lock
    :ivar arrivals: checkouts that have had to wait
    """

    __slots__ = ("arrivals", "lock", "owners_at_work", "returned", "somebody_waited")

    def __init__(
        self,
        owners_at_work: Callable[[Collection[Any], Collection[int], bool], bool],
        somebody_waited: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self.owners_at_work = owners_at_work
        self.somebody_waited = somebody_waited
        self.arrivals = 0
        self.lock = Lock()
        self.returned: deque[Account] = deque()

    def give_back(self, account: Account) -> None:
        """Enter that a connection has come back, as soon as nobody is at the book."""
        self.returned.append(account)
        self.settle()

    def settle(self) -> None:
        """Enter what has come back while the book was held."""
        while self.returned and self.lock.acquire(blocking=False):
            try:
                while self.returned:
                    account = self.returned.popleft()
                    account.ledger.enter_return(account)
            finally:
                self.lock.release()

    def has_one_at_work(self, holders: Collection[Holder], loop_stands: bool, here: Any) -> bool:
        """Tell whether one of the holders may give a connection back by itself.

        Called without the lock: it looks at all threads.

        :param loop_stands: whether this thread's event loop stands still meanwhile
        :param here: this thread
        """
        owners = []
        waiting = []
        for holder in holders:
            waiting += [checkout.thread for checkout in list(holder.waiting)]
            if holder.owner is not None:
                owners.append(holder.owner)
            elif holder.thread is not None and not holder.waiting:
                thread = holder.thread()
                if thread is not None and thread.is_alive() and thread is not here:
                    return True
        return bool(owners) and self.owners_at_work(owners, waiting, loop_stands)
