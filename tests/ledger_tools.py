"""What the tests of ledgers use: pools, requests and time that a test makes go on.

A checkout runs in a thread, as it may have to wait there, but only one thread runs at a time: the
others stand where they wait until a test has them look. Time passes when a test says so.
"""

import gc
import threading
import weakref
from contextlib import contextmanager, nullcontext

import pytest

from fastapi_overflow._connections import account as account_module
from fastapi_overflow._connections import checkout as checkout_module
from fastapi_overflow._connections import circles, door, entries, holder, stock, turns
from fastapi_overflow._connections import ledger as ledger_module
from fastapi_overflow._connections.book import Book
from fastapi_overflow._connections.checkout import LOOK_SECONDS
from fastapi_overflow._connections.entries import Entries
from fastapi_overflow._connections.holder import HOP, LOOP, THREAD, Holder
from fastapi_overflow._connections.ledger import Ledger
from fastapi_overflow._connections.promises import MOST_PATIENCE, PATIENCE_LOOKS
from fastapi_overflow._connections.route_habits import RouteHabits
from fastapi_overflow._connections.turns import Turns
from fastapi_overflow._connections.visit import Visit
from support import PATIENCE

MODULES = (
    *(account_module, checkout_module, circles, door, entries, holder),
    *(ledger_module, stock, turns),
)
FOR_EVER = 10.0**9
PLACES = (LOOP, HOP, THREAD)


@contextmanager
def opened(book):
    """Have a book open, as in the middle of a ledger's own lines."""
    with book.lock:
        book.is_open = True
        try:
            yield
        finally:
            book.is_open = False


class ManualTime:
    """In the place of the module `time`: it is as late as a test says."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class FakePool:
    """A pool of which a test may take connections behind the ledger's back.

    :ivar taken: out by the ledger's leave
    :ivar unknown: out without it; below 0 where the pool has forgotten some that are out
    """

    def __init__(self, size):
        self.size = size
        self.taken = 0
        self.unknown = 0

    def capacity(self):
        return self.size

    def out(self):
        return self.taken + self.unknown

    def timeout(self):
        return FOR_EVER

    def forget_ledger(self):
        pass


class Owner:
    """In the place of a request's lease."""

    def __init__(self):
        self.at_work = False
        self.closed = False
        self.hops = 0


class OtherThread:
    """In the place of a thread outside of any request."""

    def is_alive(self):
        return True


class Interrupted(BaseException):
    """What interrupts a checkout: like KeyboardInterrupt."""


class Turnstile:
    """In the place of the lock at which a checkout waits: see `Take`."""

    def acquire(self, timeout=None):
        if timeout is not None:
            threading.current_thread().stand()

    def release(self):
        pass


class Take(threading.Thread):
    """A checkout, in a thread that runs only while the test waits for it.

    :ivar error: that it has ended with; None for one that has its connection, or still waits
    :ivar is_over: whether it waits no longer
    """

    def __init__(self, account, where, timeout):
        super().__init__(daemon=True)
        self.account = account
        self.where = where
        self.until = checkout_module.time.monotonic() + timeout
        self._timeout = timeout
        self._may_go = threading.Semaphore(0)
        self._stands = threading.Semaphore(0)
        self._interrupt = False
        self.checkout = None
        self.error = None
        self.is_over = False
        self.start()
        self._watch()

    def run(self):
        try:
            self.account.ledger.take(self.account, self.where, self._timeout)
        except BaseException as exc:
            self.error = exc.with_traceback(None)
            self.error.__context__ = None
        self.is_over = True
        self._stands.release()

    def stand(self):
        """Let the test go on until it says that this thread may."""
        self._stands.release()
        assert self._may_go.acquire(timeout=PATIENCE)
        if self._interrupt:
            raise Interrupted

    def look(self, interrupt=False):
        """Have it look once whether it goes on; tell whether it waits no longer."""
        self._interrupt = interrupt
        self._may_go.release()
        self._watch()
        return self.is_over

    def _watch(self):
        assert self._stands.acquire(timeout=PATIENCE), "a checkout hangs"
        if self.is_over:
            self.join(PATIENCE)
            assert not self.is_alive()
            self.checkout = None
        elif self.checkout is None:
            mine = [each for each in self.account.holder.waiting if each.thread == self.ident]
            (self.checkout,) = mine

    @property
    def granted(self):
        return self.checkout is not None and self.checkout.granted


class Watched:
    """Asserts that no more is handed out than there is, and keeps what is safe safe.

    Asked right before and after each: what a habit says at most may rise later, and the pool may
    have fewer than it said. Left out is what may make it unsafe: on the loop a request takes what
    is free, as nobody can wait there; and so may one that waits in a circle, instead of failing.
    """

    @contextmanager
    def stays_safe(self, stock):
        was_safe = is_safe(stock)
        yield
        assert is_safe(stock) or not was_safe


class WatchedLedger(Watched, Ledger):
    def takes_at_once(self, account, where):
        with nullcontext() if where == LOOP else self.stays_safe(self.stock):
            taken = super().takes_at_once(account, where)
        assert not taken or self.stock.free >= 0
        return taken


class WatchedTurns(Watched, Turns):
    def grant(self, checkout, now):
        with nullcontext() if checkout.where == LOOP else self.stays_safe(self._stock):
            super().grant(checkout, now)
        assert self._stock.free >= 0

    def break_circle(self, checkout, holders):
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(WatchedTurns, "stays_safe", nullcontext)
            return super().break_circle(checkout, holders)


class WatchedEntries(Watched, Entries):
    def let_in(self, account, claim, now):
        with self.stays_safe(self._stock):
            super().let_in(account, claim, now)

    def collect_for_old(self, now):
        with self.stays_safe(self._stock):
            super().collect_for_old(now)


def owners_at_work(owners, waiting, loop_stands):
    return any(owner.at_work for owner in owners)


def known_route(*does, requests=20):
    """Return the habits of a route whose requests have always done this.

    :param does: for each pool its ledger, the most at once, and the most elsewhere than in a hop
    """
    habits = RouteHabits()
    for _ in range(requests):
        habits.learn(known_visits(*does))
    return habits


def known_visits(*does):
    """Return what a request of such a route has done."""
    visits = {}
    for ledger, most, elsewhere in does:
        visit = visits[ledger.kind] = Visit(0.0)
        visit.takes = visit.most = most
        visit.most_elsewhere = elsewhere
        visit.kept = 0.01
    return visits


class World:
    """Pools with one book, and whoever takes their connections."""

    def __init__(self, *sizes):
        self.patches = pytest.MonkeyPatch()
        self.time = ManualTime()
        for module in MODULES:  # all that know the time
            self.patches.setattr(module, "time", self.time)
        self.patches.setattr(checkout_module, "Lock", Turnstile)
        self.patches.setattr(ledger_module, "Entries", WatchedEntries)
        self.patches.setattr(ledger_module, "Turns", WatchedTurns)
        self.book = Book(owners_at_work)
        self.ledgers = [WatchedLedger(self.book, FakePool(size), object()) for size in sizes]
        self.threads = []
        self.takes = weakref.WeakSet()

    def close(self):
        """Let nothing of it go on: where a test has failed, checkouts still wait."""
        for take in self.takes:
            while not take.is_over:
                take.look(interrupt=True)
        self.patches.undo()

    def other_ledger(self, size):
        """Make the ledger of one more pool, with the same book."""
        self.ledgers.append(WatchedLedger(self.book, FakePool(size), object()))
        return self.ledgers[-1]

    def request(self, habits=None):
        return Party(self, Holder(Owner(), habits))

    def thread(self):
        """Return a thread outside of any request."""
        thread = OtherThread()
        self.threads.append(thread)  # it lives on
        return Party(self, Holder(None, None, weakref.ref(thread)))

    def look(self, number=1):
        """Look at all ledgers as an event loop does, so often, with time between."""
        for _ in range(number):
            self.time.now += LOOK_SECONDS
            for ledger in self.ledgers:
                ledger.door.look()

    def let_promises_end(self):
        """Let so much time pass that whatever was set aside is given up, where nobody took it."""
        self.time.now += MOST_PATIENCE + 0.01
        self.look(PATIENCE_LOOKS + 1)


class Party:
    """A request or a thread: what it holds, and where it waits.

    :ivar out: accounts, one for each connection that it holds
    :ivar waits: checkouts that wait
    :ivar entry: where it waits to be let in
    """

    def __init__(self, world, holder):
        self.world = world
        self.holder = holder
        self.out = []
        self.waits = []
        self.entry = None
        self.ended = False
        self.woken = 0

    # ---- before it begins

    def enter(self, ledger, claim=0, is_usual=False, is_late=False):
        """Ask to be let in; tell whether it is, else it waits."""
        account = self.holder.account(ledger)
        if ledger.door.lets_in(account, claim):
            return True
        self.woken = 0
        self.entry = ledger.door.queue(
            account, claim, self._wake, is_usual=is_usual, is_late=is_late
        )
        return self.entry.is_in

    def enter_as_usual(self, ledger):
        """Ask for what requests of its kind need; tell whether it may go on, else it waits."""
        claim = self.holder.account(ledger).habit.needs(self.world.time.now)
        return claim is None or self.enter(ledger, claim, is_usual=True)

    def _wake(self):
        self.woken += 1

    def leave(self):
        """Wait no longer to be let in; tell whether it was."""
        entry, self.entry = self.entry, None
        return entry.account.ledger.door.leave(entry)

    # ---- checkouts

    def take(self, ledger, where=HOP, timeout=FOR_EVER):
        """Take a connection; tell whether it has one, else it waits."""
        account = self.holder.account(ledger)
        if ledger.takes_at_once(account, where):
            self.update_owner(where)
            self.hand_out(account)
            return True
        take = Take(account, where, timeout)
        self.world.takes.add(take)
        if not take.is_over:
            self.waits.append(take)
            self.update_owner()
            return False
        if take.error is not None:
            raise take.error
        self.update_owner(where)
        self.hand_out(account)
        return True

    def look(self, take=None, interrupt=False):
        """Have a checkout look; tell whether it goes on.

        :raises NoConnection: where it fails
        """
        take = take or self.waits[0]
        if not take.look(interrupt):
            return False
        self.waits.remove(take)
        self.update_owner(take.where)
        if take.error is not None:
            raise take.error
        self.hand_out(take.account)
        return True

    def give_up(self, take):
        """Be interrupted while a checkout waits, or has just been served."""
        try:
            self.look(take, interrupt=True)
        except Interrupted:
            pass

    def hand_out(self, account):
        """Take from the pool what has been granted."""
        account.ledger.pool.taken += 1
        record = object()
        account.ledger.out[record] = account, 0.0, None, 0
        self.out.append((account, record))

    def update_owner(self, where=None):
        if self.holder.owner is not None:
            if where is not None:
                self.holder.owner.at_work = where != LOOP
            if self.waits:
                self.holder.owner.at_work = False

    def give_back(self, which=-1):
        account, record = self.out.pop(which)
        ledger = account.ledger
        ledger.pool.taken -= 1
        del ledger.out[record]
        ledger.give_back(account)

    # ---- its end

    def end(self):
        """End as a request does, whatever it still has out."""
        if self.holder.owner is not None:
            self.holder.owner.closed = True
        if self.holder.habits is not None:
            self.holder.habits.learn(self.holder.visits())
        for account in list(self.holder.accounts.values()):
            account.ledger.door.release(account)
        self.ended = True

    def finish(self):
        """Give all back, and end."""
        while self.out:
            self.give_back()
        self.end()


# ---- what must hold


def accounts_of(parties):
    return [account for party in parties for account in party.holder.accounts.values()]


def check_sums(ledger, accounts, granted=0):
    """Assert that a ledger says what its accounts do, which are all there are.

    :param granted: checkouts that have been granted and have not been to the pool
    """
    stock = ledger.stock
    accounts = [account for account in accounts if account.ledger is ledger]
    assert stock.held == sum(account.held for account in accounts)
    assert stock.aside == sum(max(account.claim - account.held, 0) for account in accounts)
    assert stock.awaited == sum(account.is_awaited for account in accounts)
    assert set(stock.stakes) == {each for each in accounts if each.held or each.claim}
    assert all(account.held >= 0 for account in accounts)
    assert stock.held == len(ledger.out) + granted
    assert stock.somebody_waits or not (ledger.queues or ledger.entries)


def can_all_end(capacity, wants):
    """Tell whether all could come to their end in some order.

    Written to be seen to be right: whoever can, ends and gives all back, until nobody can.

    :param wants: of each how many it has, and how many it may have at most
    """
    wants = list(wants)
    free = capacity - sum(has for has, _ in wants)
    while wants:
        ends = next((each for each in wants if each[1] - each[0] <= free), None)
        if ends is None:
            return False
        wants.remove(ends)
        free += ends[0]
    return True


def stake(account):
    """Return how many an account has, set aside or taken: what is set aside counts as taken."""
    return max(account.held, account.claim)


def is_safe(stock, changes=None):
    """Tell whether all who have a stake could come to their end by what their habits say.

    :param changes: connections to add to what an account has
    """
    changes = changes or {}
    wants = []
    for account in {**stock.stakes, **dict.fromkeys(changes)}:
        has = stake(account) + changes.get(account, 0)
        if has > 0:
            wants.append((has, max(account.limit(), has)))
    forgotten = max(-stock.adrift, 0)  # out, but not by what the pool says
    return can_all_end(stock.capacity + forgotten, wants)


def check_empty(ledger):
    """Assert that nothing is left of all who ever took a connection."""
    stock = ledger.stock
    left = (stock.held, stock.aside, stock.awaited, stock.adrift)
    assert left == (0, 0, 0, 0)
    assert not ledger.queues
    assert not ledger.entries
    assert not stock.stakes
    assert not ledger.out
    assert not ledger.queues.unasked
    assert not ledger.door.is_watched


def alive(references: "list[weakref.ref]"):
    """Return what of this the garbage collector leaves."""
    gc.collect()
    return [found for reference in references if (found := reference()) is not None]
