"""The lock of all ledgers, and what has to wait until it is free.

Held at each checkout and each return, from any thread. A connection may come back from anywhere,
also from the garbage collector in the middle of a ledger's own lines, where this thread has the
lock already: so whoever brings one never waits for it. The handler of a signal may even take one
there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from threading import RLock
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from .holder import Account, Holder

P = ParamSpec("P")
T = TypeVar("T")

# Seconds after which a wait is worth a word to the operator.
TELL_SECONDS = 1.0


class Book:
    """The lock of all ledgers.

    Whoever has opened it calls `settle` afterwards where something is in `later`. Therefore what
    has come back is entered by the time at which nobody is at the book: who brings it finds the
    lock free, or its owner looks at `later` after that.

    A thread may get the lock twice, but not find the book open unless it has opened it itself,
    further down its stack: then the ledgers are in the middle of a change, and what it wants has to
    wait in `later`. Before it is open and after it is closed they are whole.

    :param owners_at_work: tells of requests, and of the holders of tasks outside of any, whether
        code of one runs in a thread that isn't among those that wait; or, where this thread's event
        loop stands still meanwhile, whether a request belongs to another loop
    :param somebody_waited: told of a ledger when somebody has waited for long, without the lock
    :param failed: told what a pool has raised that was asked how it is, without the lock
    :ivar arrivals: checkouts that have had to wait
    :ivar later: what is to be done with the book as soon as it is closed, each with its argument
    """

    __slots__ = (
        "_failed",
        "_faults",
        "arrivals",
        "is_open",
        "later",
        "lock",
        "owners_at_work",
        "somebody_waited",
    )

    def __init__(
        self,
        owners_at_work: Callable[[Collection[Any], Collection[int], bool], bool],
        somebody_waited: Callable[[Any], None] = lambda _: None,
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.owners_at_work = owners_at_work
        self.somebody_waited = somebody_waited
        self.arrivals = 0
        self.lock = RLock()
        self.is_open = False
        self.later: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._failed = failed
        self._faults: deque[Exception] = deque()

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function returns that needs the book, and do what had to wait meanwhile.

        Not a context manager: a KeyboardInterrupt where one is left would leave the book open.
        """
        with self.lock:
            self.is_open = True
            try:
                result = function(*args, **kwargs)
            finally:
                self.is_open = False
        if self.later or self._faults:
            self.settle()
        return result

    def run_once_closed(self, function: Callable[[Any], object], argument: Any) -> None:
        """Do the same from where the garbage collector may call, in the middle of the book."""
        with self.lock:
            if self.is_open:  # by this very thread
                self.later.append((function, argument))
                return
        self.run(function, argument)

    def give_back(self, account: Account) -> None:
        """Enter that a connection has come back, as soon as nobody is at the book."""
        self.later.append((account.ledger.enter_return, account))
        self.settle()

    def leave_if_had(self, has_opened: bool) -> None:
        """Give the lock back, if an interruption has kept this thread from it.

        `with` would spare that, at twice the instructions: too many for each checkout. Python 3.10
        may be interrupted between any two instructions, in a `finally` as well.

        :param has_opened: whether this thread has opened the book
        """
        if self.lock._is_owned() and (has_opened or not self.is_open):  # type: ignore[attr-defined]
            self.is_open = False
            self.lock.release()

    def note_fault(self, exc: Exception) -> None:
        """Have somebody be told of it when the book is closed."""
        self._faults.append(exc)

    def settle(self) -> None:
        """Do what had to wait while the book was open; never called by who has it open."""
        while self.later:
            has_opened = False
            try:
                if not self.lock.acquire(blocking=False):
                    break  # its owner looks at `later` afterwards
                try:
                    has_opened = self.is_open = True
                    while self.later:
                        function, argument = self.later.popleft()
                        function(argument)
                finally:
                    self.is_open = False
                    self.lock.release()
            except BaseException:
                self.leave_if_had(has_opened)
                raise
        while self._faults:
            try:
                exc = self._faults.popleft()
            except IndexError:
                return  # another thread tells of it
            self._failed(exc)

    def has_one_at_work(self, holders: Collection[Holder], loop_stands: bool, here: Any) -> bool:
        """Tell whether one of the holders may give a connection back by itself.

        Called without the lock: it looks at all threads.

        :param loop_stands: whether this thread's event loop stands still meanwhile
        :param here: this thread
        """
        owners: list[Any] = []
        waiting = []
        for holder in holders:
            waiting += [checkout.thread for checkout in list(holder.waiting)]
            if holder.owner is not None:
                owners.append(holder.owner)
            elif holder.thread is None:
                owners.append(holder)
            elif not holder.waiting:
                thread = holder.thread()
                if thread is not None and thread.is_alive() and thread is not here:
                    return True
        return bool(owners) and self.owners_at_work(owners, waiting, loop_stands)
