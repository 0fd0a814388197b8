"""The ledger of one pool: who has its connections, who waits for one, and who may go on.

Asked at each checkout and by requests that are about to begin, from any thread. It must never wait
while it has the book, and never call what belongs to the app.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import islice
from threading import Lock, current_thread, get_ident
from typing import TYPE_CHECKING, Any

from .book import Book
from .habits import PRESSED_SECONDS
from .holder import HOP, LOOP, THREAD, Account, Holder

if TYPE_CHECKING:
    from typing import Protocol

    class Pool(Protocol):
        """What a ledger asks its pool."""

        def capacity(self) -> int:
            """Return how many connections may be out."""

        def out(self) -> int:
            """Return how many are."""

        def timeout(self) -> float:
            """Return for how many seconds a checkout may wait."""

        def forget_ledger(self) -> None:
            """Have a new ledger at the next checkout."""


# Requests that may be on their way to a connection beyond those that get one at once: so one is
# never free without a thread that is about to take it.
AHEAD = 2

# Seconds between two looks of somebody who waits at the checkout. In a thread it is only for what
# goes wrong; on the loop others wait for the next one to go on.
LOOK_SECONDS = 0.1
LOOP_LOOK_SECONDS = 0.01

# Looks in a row that must find that waiting can't end: a hop may be on its way to its thread.
HOPELESS_LOOKS = 2

# Seconds for which connections stay set aside for a request that doesn't take them: so many times
# as long as its kind takes for it, and between these. Guesses.
PATIENCE = 8
LEAST_PATIENCE = 0.2
MOST_PATIENCE = 2.0

# Looks from the event loop for which they stay so at least: a loop that starts a thousand requests
# comes to none of them for longer than that.
PATIENCE_LOOKS = 3

# Seconds after which what comes back is set aside for a request that waits to be let in, for as
# many seconds, and not for as many more, in turn. A guess: one that needs several at once must have
# its chance, and others must go on where what it lacks never comes back.
OLD = 0.5

# Seconds after which a wait is worth a word to the operator.
TELL_SECONDS = 1.0

# Requests behind the first one that may be let in before it, where it needs more than they do.
PASSING = 8


class NoConnection(Exception):
    """A checkout that can't or may not wait any longer.

    :ivar reason: in words
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Checkout:
    """One checkout that waits."""

    __slots__ = ("account", "arrival", "granted", "hopeless", "lock", "since", "thread", "where")

    def __init__(self, account: Account, where: int) -> None:
        self.account = account
        self.where = where
        self.since = time.monotonic()
        self.arrival = 0
        self.thread = get_ident()
        self.granted = False
        self.hopeless = 0  # looks in a row that found no end to the wait
        self.lock = Lock()
        self.lock.acquire()


class Entry:
    """One request that waits to be let in.

    :ivar claim: connections to set aside for it; 0 for one that can wait in its thread
    :ivar wake: called once, in any thread, when it is let in
    """

    __slots__ = ("account", "claim", "is_in", "is_told", "since", "wake")

    def __init__(self, account: Account, claim: int, wake: Callable[[], None]) -> None:
        self.account = account
        self.claim = claim
        self.wake = wake
        self.since = time.monotonic()
        self.is_in = False
        self.is_told = False


class Ledger:
    """Who has the connections of one pool, and who may go on.

    :param kind: the same for pools that take each other's place
    :ivar checkouts: connections handed out
    :ivar timeouts: checkouts that have failed
    :ivar seconds_waited: by requests and checkouts that wait no longer
    :ivar seconds_held: for which holders had one at least that have none now
    :ivar seconds_idle: of these, those in which nothing of the holder was at work
    """

    # Invariants, whenever the book is free and nothing is in its `returned`:
    #   1. `held` is the sum of what all accounts hold, `aside` of what is set aside for them and
    #      not taken, `awaited` the number of those let in that have yet to take one.
    #   2. `held + adrift` is never above the capacity by what is granted here.
    #   3. An account is in `stakes` if and only if it holds something or has something set aside.
    #   4. Nobody waits at the checkout on the loop while one is free; in a thread, while one is
    #      free that isn't set aside, and all who have a stake could come to an end if it took it.
    #   5. The first that waits to be let in has to: by `_has_room`.
    # Therefore no deadlock: what is set aside is taken or given up in time. All others who hold one
    # could come to their end in some order, as long as none takes more than its kind did before.
    # Where one does, and all wait, the newest fails, and its kind is known for it from then on.

    __slots__ = (
        "__weakref__",
        "_adrift_seen",
        "_lock",
        "_looked",
        "_looks",
        "_pressed_until",
        "_promised",
        "_promises",
        "_returned",
        "adrift",
        "aside",
        "awaited",
        "book",
        "capacity",
        "checkouts",
        "entries",
        "first",
        "held",
        "kind",
        "moved",
        "on_loop",
        "others",
        "out",
        "pool",
        "seconds_held",
        "seconds_idle",
        "seconds_waited",
        "spare",
        "stakes",
        "timeouts",
    )

    def __init__(self, book: Book, pool: Pool, kind: object) -> None:
        self.book = book
        self._lock = book.lock  # for each checkout
        self._returned = book.returned
        self.pool = pool
        self.kind = kind
        self.capacity = pool.capacity()
        # Connections that are out and that nobody here knows of; below 0, that are said to be out
        # and aren't. Looked up when somebody has to wait: in doubt the pool is right.
        self.adrift = pool.out()
        self._adrift_seen = self.adrift
        self.held = 0
        self.aside = 0
        self.awaited = 0
        # What is out for whom, by the pool's own record of it; written without the book. Less than
        # `held` while the pool is about to hand out what was granted, or to take it back.
        self.out: dict[object, tuple[Any, ...]] = {}  # each a `Taken`
        self.stakes: dict[Account, None] = {}
        self.on_loop: deque[Checkout] = deque()
        self.others: deque[Checkout] = deque()  # of those who hold one already
        self.first: deque[Checkout] = deque()
        self.entries: deque[Entry] = deque()
        self.moved = time.monotonic()  # when a connection last came back
        # Connections that threads without any leave to event loops, for a while after a checkout on
        # one has failed.
        self.spare = 0
        self._pressed_until = 0.0
        self._looked = 0.0
        self._looks = 0
        self._promised = 0
        self._promises: list[list[Any]] = []
        self.checkouts = self.timeouts = 0
        self.seconds_waited = self.seconds_held = self.seconds_idle = 0.0

    # ---- a checkout

    def takes_at_once(self, account: Account, where: int) -> bool:
        """Take a connection, if that needs no thought; tell whether it was taken.

        Most checkouts end here: a first one, of a kind that takes one at a time, where one is free.
        """
        with self._lock:
            free = self.capacity - self.held - self.adrift
            if free <= 0 or account.held or not account.is_simple:
                return False
            habit = account.habit
            if habit is not None and not habit.is_simple:
                return False
            if account.claim:
                self.aside -= 1
            elif where == LOOP or not (
                free <= self.aside + self.spare or self.first or self.others
            ):
                self.stakes[account] = None
            else:
                return False
            account.held = 1
            self.held += 1
            self.checkouts += 1
            account.filled = now = time.monotonic()
            if habit is not None:
                self._note_at_once(account, where, now)
        if self._returned:
            self.book.settle()
        return True

    def _note_at_once(self, account: Account, where: int, now: float) -> None:
        if account.is_awaited:
            account.is_awaited = False
            self.awaited -= 1
        if account.takes:
            account.again = max(account.again, now - account.emptied)
        else:
            account.idle = now - account.began
            if not account.most:
                account.most = 1
        account.takes += 1
        if where != HOP and not account.most_elsewhere:
            account.most_elsewhere = 1

    def take(self, account: Account, where: int, timeout: float) -> None:
        """Wait until this account may take a connection: it has one then, in this book.

        :param timeout: seconds to wait at most
        :raises NoConnection: where waiting can't end, or the time is up
        """
        checkout = Checkout(account, where)
        until = checkout.since + timeout
        is_told = False
        seconds = LOOP_LOOK_SECONDS if where == LOOP else LOOK_SECONDS
        try:
            self.begin(checkout)
            while not checkout.granted:
                left = until - time.monotonic()
                checkout.lock.acquire(timeout=max(min(seconds, left), 0))
                self.look_at(checkout, until)
                if not is_told and time.monotonic() - checkout.since >= TELL_SECONDS:
                    is_told = True
                    self.book.somebody_waited(self)
        except BaseException as exc:
            served = self.give_up(checkout, isinstance(exc, NoConnection))
            if not served:
                self.timeouts += isinstance(exc, NoConnection)
                raise
        finally:
            seconds = time.monotonic() - checkout.since
            account.waited += seconds
            self.seconds_waited += seconds

    def begin(self, checkout: Checkout) -> None:
        """Grant a checkout, or have it wait."""
        account = checkout.account
        now = time.monotonic()
        with self.book.lock:
            self._give_up_late(now)
            self._note(account, checkout.where, now)
            if self._may_take(account, checkout.where):
                checkout.granted = True
                self._grant(account, now)
            else:
                self._look(now)
                self.book.arrivals += 1
                checkout.arrival = self.book.arrivals
                self._queue(checkout).append(checkout)
                account.holder.waiting.append(checkout)
                self._serve(now)
        self.book.settle()

    def give_up(self, checkout: Checkout, may_keep: bool) -> bool:
        """Have a checkout wait no longer; tell whether it was granted meanwhile and keeps that."""
        with self.book.lock:
            self._forget(checkout)
            keeps = checkout.granted and may_keep
            if checkout.granted and not keeps:
                self.enter_return(checkout.account)
            else:
                self._serve(time.monotonic())
        self.book.settle()
        return keeps

    def _queue(self, checkout: Checkout) -> deque[Checkout]:
        if checkout.where == LOOP:
            return self.on_loop
        return self.others if checkout.account.held else self.first

    def _note(self, account: Account, where: int, now: float) -> None:
        """Take note of what an account asks for, whether it gets it or not."""
        if not account.held:
            if account.takes:
                account.again = max(account.again, now - account.emptied)
            else:
                account.idle = now - account.began
        account.takes += 1
        account.most = max(account.most, account.held + 1)
        if account.most > 1:
            account.is_simple = False
        if where != HOP:
            account.most_elsewhere = max(account.most_elsewhere, account.held + 1)
        habit = account.habit
        habits = account.holder.habits
        if habits is not None and not habits.requests and account.takes == 1:
            # The first of its kind. Its loop may be busy beginning the others.
            account.idle = min(account.idle, habits.seconds_of_looks())
        if habit is not None and (account.most > 1 or not habit.requests):
            habit.raise_to(account)

    def _may_take(self, account: Account, where: int) -> bool:
        """Tell whether a checkout may go on now.

        1. None is free: no.
        2. On the loop: yes, whoever it was set aside for. Nobody can wait there.
        3. One is set aside for this account: yes.
        4. Others are before it: no.
        5. There are as many that aren't set aside as it takes elsewhere than in a hop's thread,
           where it may not be able to wait for them; and all could still come to their end.
        """
        if self.capacity - self.held - self.adrift <= 0:
            return False
        if where == LOOP or account.claim > account.held:
            return True
        if self.others or (self.first and not account.held):
            return False
        return self._has_for(account)

    def _has_for(self, account: Account) -> bool:
        """Tell whether an account may take a connection in a thread whose turn it is."""
        free = self.capacity - self.held - self.adrift
        if free <= 0:
            return False
        if account.claim > account.held:
            return True
        outright = account.outright()
        if free - self.aside < outright + (0 if account.held else self.spare):
            return False
        limit = account.limit()
        # One that takes a single connection comes to its end whatever the others do.
        return limit <= 1 or self._is_safe(account, max(account.held + 1, outright), limit)

    def _is_safe(self, account: Account, has: int, limit: int) -> bool:
        """Tell whether all who have a stake could come to their end, if this account `has` so many.

        The banker's algorithm, over what each has and may take at most. What nobody here knows of
        comes back by itself.
        """
        left = self.capacity - min(self.adrift, 0) - has
        wants = [(max(limit - has, 0), has)]
        for each in self.stakes:
            if each is not account:
                stake = max(each.held, each.claim)
                left -= stake
                wants.append((max(each.limit() - stake, 0), stake))
        wants.sort()
        for want, stake in wants:
            if want > left:
                return False
            left += stake
        return True

    def _grant(self, account: Account, now: float) -> None:
        self._leave_out(account)
        if not account.held:
            account.filled = now
            outright = account.outright()
            free = self.capacity - self.held - self.adrift - self.aside
            if (
                account.claim < outright <= free
                and outright > 1
                and self._is_safe(account, outright, account.limit())
            ):
                account.claim = outright
                self._promise(account, now)
            # What it asks for besides is by one who holds something now.
            for other in account.holder.waiting:
                if other.account is account and other in self.first:
                    self.first.remove(other)
                    self.others.append(other)
        account.held += 1
        self.held += 1
        self.checkouts += 1
        account.is_awaited = False
        self._count(account)

    def _leave_out(self, account: Account) -> None:
        """Take an account out of the sums, before it changes."""
        self.aside -= max(account.claim - account.held, 0)
        self.awaited -= account.is_awaited

    def _count(self, account: Account) -> None:
        self.aside += max(account.claim - account.held, 0)
        self.awaited += account.is_awaited
        if account.held or account.claim:
            self.stakes[account] = None
        else:
            self.stakes.pop(account, None)

    def look_at(self, checkout: Checkout, until: float) -> None:
        """Look whether a checkout may go on.

        :param until: time.monotonic() at which its time is up
        :raises NoConnection: where waiting can't end, or the time is up
        """
        with self.book.lock:
            now = time.monotonic()
            if not checkout.granted:
                self._give_up_late(now)
                self._look(now)
                self._serve(now)
            if checkout.granted:
                return
            helpers = self._who_could_help(checkout)
        self.book.settle()
        on_loop = checkout.where == LOOP
        if now >= until:
            self._fail(checkout, "the pool's timeout is over", time_is_up=True)
        if helpers is None or self.book.has_one_at_work(helpers, on_loop, current_thread()):
            checkout.hopeless = 0
            return
        checkout.hopeless += 1
        if checkout.hopeless < HOPELESS_LOOKS or self._need_not_fail(checkout):
            return
        if on_loop:
            self._fail(
                checkout,
                "on the event loop nobody can wait for it: no request that has one can go on while"
                " the loop stands still",
            )
        self._fail(checkout, "all who have one wait for another, and this request was the last to")

    def _forget(self, checkout: Checkout) -> None:
        """Have a checkout wait no longer."""
        for queue in (self.on_loop, self.others, self.first):
            if checkout in queue:
                queue.remove(checkout)
        if checkout in checkout.account.holder.waiting:
            checkout.account.holder.waiting.remove(checkout)

    def _fail(self, checkout: Checkout, reason: str, time_is_up: bool = False) -> None:
        """Have requests like this one held back from now on, where they can't wait in their hop.

        :raises NoConnection: always
        """
        habit = checkout.account.habit
        if habit is not None and checkout.where != HOP:
            habit.raise_to(checkout.account)
            habit.press(time.monotonic(), in_vain=checkout.where == THREAD and time_is_up)
        if checkout.where == LOOP and self.capacity > 2:
            self._pressed_until = time.monotonic() + PRESSED_SECONDS
            self.spare = 1
        raise NoConnection(reason)

    def _need_not_fail(self, checkout: Checkout) -> bool:
        """Tell whether a checkout that was about to fail may go on, or wait.

        In doubt the pool is right about what is there.
        """
        with self.book.lock:
            missing = self.held - len(self.out)  # about to be handed out
            if self.pool.out() + missing < self.pool.capacity() and not checkout.granted:
                self.adrift = self._adrift_seen = self.pool.out() + missing - self.held
                self._serve(time.monotonic())
            holders = None if checkout.granted else self._who_could_help(checkout)
            return holders is None or (
                checkout.where != LOOP and self._break_circle(checkout, holders)
            )

    @staticmethod
    def _break_circle(checkout: Checkout, holders: list[Holder]) -> bool:
        """Serve one of those that wait for each other, be it safe or not, if one is free.

        All may come to their end by that, where else one fails for sure.
        """
        for each in [checkout, *(each for holder in holders for each in holder.waiting)]:
            ledger = each.account.ledger
            if ledger.held + ledger.adrift < ledger.capacity:
                queue = next(q for q in (ledger.others, ledger.first, ledger.on_loop) if each in q)
                ledger._serve_one(queue, each, time.monotonic())
                return True
        return False

    def _who_could_help(self, checkout: Checkout) -> list[Holder] | None:
        """Return who might end this wait if something of it is at work; None if it will end anyway.

        On the loop it will where somebody else's connection is about to come back. In a thread it
        will unless all who hold a connection wait for another, in whatever pool, this one since
        last.
        """
        if checkout.where == LOOP:
            if self.adrift > 0 or self.held > len(self.out):
                return None
            return [
                each.holder for each in self.stakes if each.held and each is not checkout.account
            ]
        return self._who_waits_in_a_circle(checkout)

    def _who_waits_in_a_circle(self, checkout: Checkout) -> list[Holder] | None:
        account = checkout.account
        habit = account.habit
        if not account.holder.holds_something:
            # Where its kind has waited in vain so lately: those who have one may wait for this very
            # thread, behind others of the app's.
            starved = habit is not None and time.monotonic() < habit.starved_until
            if starved and checkout.where == THREAD:
                return [each.holder for each in self.stakes if each.held]
            return None
        ledgers = [self]
        holders = []
        for ledger in ledgers:
            if ledger.adrift > 0 or ledger.held > len(ledger.out):
                return None
            for account in ledger.stakes:
                holder = account.holder
                if not holder.waiting or not account.held:
                    return None
                holders.append(holder)
                for other in holder.waiting:
                    if other.arrival > checkout.arrival:
                        return None
                    if other.account.ledger not in ledgers:
                        ledgers.append(other.account.ledger)
        return holders

    # ---- a connection comes back

    def give_back(self, account: Account) -> None:
        """Enter that a connection of this account is back."""
        lock = self._lock
        if not lock.acquire(False):
            self.book.give_back(account)
            return
        try:
            if (
                account.held == 1
                and not account.claim
                and account.is_quick
                and not (self.on_loop or self.others or self.first or self.entries)
            ):
                account.held = 0
                self.held -= 1
                del self.stakes[account]
                if account.habit is not None:
                    account.emptied = now = time.monotonic()
                    account.kept += now - account.filled
                    self.seconds_held += now - account.filled
                    self.seconds_idle += account.unused - account.idled
                    account.idled = account.unused
            else:
                self.enter_return(account)
        finally:
            lock.release()
        if self._returned:
            self.book.settle()

    def enter_return(self, account: Account) -> None:
        """Enter that a connection of this account is back; called with the book."""
        now = self.moved = time.monotonic()
        self._leave_out(account)
        account.held -= 1
        self.held -= 1
        if not account.held:
            account.kept += now - account.filled
            account.emptied = now
            if account.filled:
                self.seconds_held += now - account.filled
            self.seconds_idle += account.unused - account.idled
            account.idled = account.unused
        if account.claim:
            habit = account.habit
            goes_on = (
                habit is not None
                and not account.holder.has_ended
                and (not habit.requests or habit.goes_on(account, now))
            )
            if goes_on:
                self._promise(account, now)
            else:
                account.claim = account.held
        self._count(account)
        if not (account.held or account.is_quick):  # of a task outside of any request: it has ended
            account.holder.accounts.pop(self, None)
            if account.habit is not None:
                account.habit.learn(account)
        self._serve(now)

    # ---- a request is about to begin

    def lets_in(self, account: Account, claim: int) -> bool:
        """Let a request in that holds nothing, if that can be at once; tell whether it is in.

        :param claim: connections to set aside for it; 0 for one that can wait in its thread
        """
        now = time.monotonic()
        with self.book.lock:
            self._give_up_late(now)
            is_in = not self.entries and self._has_room(account, claim)
            if is_in:
                self._let_in(account, claim, now)
        if self.book.returned:
            self.book.settle()
        return is_in

    def queue(self, account: Account, claim: int, wake: Callable[[], None]) -> Entry:
        """Have a request wait until it is let in.

        :param wake: called once then, in any thread
        """
        entry = Entry(account, claim, wake)
        with self.book.lock:
            self._look(entry.since)
            if account.claim > account.held:  # by the app's habit: its route's is about to be known
                self._give_up(account)
            self.entries.append(entry)
            self._serve(entry.since)
        self.book.settle()
        return entry

    def seconds_left(self, since: float) -> float:
        """Return for how long somebody who waits may go on: the pool's timeout without a return.

        :param since: time.monotonic() when it began to wait
        """
        return max(since, self.moved) + self.pool.timeout() - time.monotonic()

    def leave(self, entry: Entry) -> bool:
        """Have a request wait no longer; tell whether it was let in."""
        with self.book.lock:
            if not entry.is_in:
                self.entries.remove(entry)
                self._give_up(entry.account)
                self._serve(time.monotonic())
            seconds = time.monotonic() - entry.since
            entry.account.waited += seconds
            self.seconds_waited += seconds
        self.book.settle()
        return entry.is_in

    def held_back(self) -> list[Holder]:
        """Return the requests that wait to be let in; from any thread."""
        return [entry.account.holder for entry in list(self.entries)]

    def waiting_since(self) -> list[float]:
        """Return since when somebody waits, for each; from any thread."""
        waiting: list[Any] = [
            *list(self.on_loop),
            *list(self.others),
            *list(self.first),
            *list(self.entries),
        ]
        return [each.since for each in waiting]

    def renew(self, account: Account, claim: int) -> bool:
        """Tell whether so many are still set aside; then they are for as long again."""
        with self.book.lock:
            if account.claim < claim:
                return False
            self._promise(account, time.monotonic())
        self.book.settle()
        return True

    def _has_room(self, account: Account, claim: int) -> bool:
        """Tell whether a request may be let in.

        Threads at the checkout go first. Where it needs connections set aside, these must be free,
        and all who have a stake could still come to their end. Else so few may be on their way to
        one that there is always somebody to take what comes back.
        """
        free = self.capacity - self.held - self.adrift - self.aside
        if not claim:
            return free - self.spare + AHEAD > self.awaited and len(self.first) < AHEAD
        if self.first or self.others or self.on_loop:
            return False
        claim = min(claim, self.capacity)
        if free < claim - account.claim:
            return False
        limit = account.limit()
        return limit <= claim or self._is_safe(account, claim, limit)

    def _let_in(self, account: Account, claim: int, now: float) -> None:
        account.began = now
        self._leave_out(account)
        if claim:
            account.claim = max(account.claim, min(claim, self.capacity))
        else:
            account.is_awaited = True
        self._promise(account, now)
        self._count(account)

    def _promise(self, account: Account, now: float) -> None:
        """Give up what is set aside for an account when it is late."""
        habit = account.habit
        usual = 0.0 if habit is None else PATIENCE * max(habit.idle, habit.again)
        until = now + min(max(usual, LEAST_PATIENCE), MOST_PATIENCE)
        self._withdraw_promise(account)
        self._promised += 1
        account.promise = [until, self._looks + PATIENCE_LOOKS, self._promised, account]
        heappush(self._promises, account.promise)

    @staticmethod
    def _withdraw_promise(account: Account) -> None:
        promise = account.promise
        if promise is not None:
            promise[3] = None  # the list stays until its time comes
            account.promise = None

    def release(self, account: Account) -> None:
        """Set nothing aside any longer for an account: its request has ended."""
        if account.claim or account.is_awaited or account.promise is not None:
            with self.book.lock:
                self._give_up(account)
                self._serve(time.monotonic())
            self.book.settle()

    def _give_up(self, account: Account) -> None:
        self._leave_out(account)
        account.claim = account.held
        account.is_awaited = False
        self._withdraw_promise(account)
        self._count(account)

    # ---- who is next

    @property
    def is_watched(self) -> bool:
        """Whether an event loop has to look from time to time."""
        return bool(self.entries or self._promises)

    def look(self) -> None:
        """Give up what was set aside for too long, and serve those who wait.

        Called from an event loop from time to time while something is set aside, or somebody waits.
        """
        with self.book.lock:
            now = time.monotonic()
            self._looks += 1
            self._give_up_late(now)
            self._look(now)
            self._serve(now)
            oldest = self.entries[0] if self.entries else None
        self.book.settle()
        if oldest is not None and not oldest.is_told and now - oldest.since >= TELL_SECONDS:
            oldest.is_told = True
            self.book.somebody_waited(self)

    def _give_up_late(self, now: float) -> None:
        promises = self._promises
        while promises and promises[0][0] <= now:
            until, looks, _, account = promises[0]
            # A loop that stands or has ended looks no more.
            if account is not None and looks > self._looks and now < until + MOST_PATIENCE:
                return
            heappop(promises)
            if account is not None:
                self._give_up(account)

    def _look(self, now: float) -> None:
        """Ask the pool what is out. What is on its way makes it differ for a moment."""
        if now - self._looked < LOOK_SECONDS / 2:
            return
        self._looked = now
        if self.spare and now >= self._pressed_until:
            self.spare = 0
        self.capacity = self.pool.capacity()
        # What is granted may be out already, or not yet.
        least = self.pool.out() - self.held
        adrift = min(max(self.adrift, least), least + max(self.held - len(self.out), 0))
        if adrift == self._adrift_seen:
            self.adrift = adrift
        self._adrift_seen = adrift

    def _serve(self, now: float) -> None:
        """Let go on whoever may, until the invariants hold.

        First who waits on a loop, then threads that hold one already, then what is set aside for a
        request that has waited for long, then the other threads by age, then the requests that are
        about to begin.
        """
        while (self.on_loop or self.others or self.first) and (
            self.held + self.adrift < self.capacity
        ):
            if self.on_loop:
                self._serve_one(self.on_loop, self.on_loop[0], now)
                continue
            self._collect_for_old(now)
            for queue in (self.others, self.first):
                found = next((each for each in queue if self._has_for(each.account)), None)
                if found is not None:
                    self._serve_one(queue, found, now)
                    break
            else:
                break
        while self.entries:
            self._collect_for_old(now)
            found_entry = next(
                (
                    entry
                    for entry in islice(self.entries, PASSING)
                    if self._has_room(entry.account, entry.claim) or self._is_collected(entry)
                ),
                None,
            )
            if found_entry is None:
                return
            self.entries.remove(found_entry)
            found_entry.is_in = True
            self._let_in(found_entry.account, found_entry.claim, now)
            found_entry.wake()

    def _is_collected(self, entry: Entry) -> bool:
        return 0 < min(entry.claim, self.capacity) <= entry.account.claim

    def _collect_for_old(self, now: float) -> None:
        """Set aside what is free, one after the other, for the first that waits to be let in.

        Not while threads wait that hold one already: they come before it.
        """
        entry = self.entries[0] if self.entries else None
        if entry is None or not entry.claim or self._is_collected(entry):
            return
        account = entry.account
        if self.others or int((now - entry.since) / OLD) % 2 == 0:
            if account.claim:
                self._give_up(account)
            return
        free = self.capacity - self.held - self.adrift - self.aside
        claim = min(entry.claim, self.capacity)
        most = max(account.limit(), claim)
        collected = min(account.claim + free, claim)
        if free > 0 and (most <= collected or self._is_safe(account, collected, most)):
            self._leave_out(account)
            account.claim = collected
            self._count(account)

    def _serve_one(self, queue: deque[Checkout], checkout: Checkout, now: float) -> None:
        queue.remove(checkout)
        checkout.account.holder.waiting.remove(checkout)
        checkout.granted = True
        self._grant(checkout.account, now)
        checkout.lock.release()
