"""Ledgers, book and habits under whatever order of events Hypothesis thinks of.

Run by pytest, one thread at a time, without time passing: see ledger_tools. At every decision no
more may be handed out than there are, and what was safe must stay so. After every event the sums
must be right, and nobody may wait for what is free while it is their turn. Who fails before their
time is up must have waited in a circle, or where nobody at work could help. In the end whoever
holds something and waits for nothing gives it back: then all others must be served or fail, until
nothing is left.

The pool may have connections out that the ledger doesn't know of, or have forgotten some. While it
has, it isn't asserted that those go on who wait for what is free: what is safe is a guess then.
"""

import gc
import itertools
import sys
import weakref

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from fastapi_overflow._connections.checkout import LOOK_SECONDS, NoConnection
from fastapi_overflow._connections.entries import PASSING
from fastapi_overflow._connections.holder import LOOP, THREAD
from fastapi_overflow._connections.route_habits import RouteHabits
from ledger_tools import (
    PLACES,
    World,
    accounts_of,
    alive,
    check_empty,
    check_sums,
    is_safe,
    known_route,
    opened,
    stake,
)

PICK = st.integers(0, 10**6)  # one of those there are, by its number modulo theirs
MOST_PARTIES = 12
MOST_ROUNDS = 300  # in the end


class Connections(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = None
        self.parties = []
        self.routes = []
        self.references = []  # to all parties' holders and accounts that ever were

    @initialize(
        sizes=st.lists(st.integers(1, 3), min_size=1, max_size=2),
        known=st.lists(st.tuples(PICK, st.integers(1, 3), st.integers(0, 3)), max_size=3),
        drifts=st.booleans(),
    )
    def make(self, sizes, known, drifts):
        gc.freeze()  # what is there already is none of ours: a collection takes no time then
        self.world = World(*sizes)
        self.drifts = drifts
        self.ledgers = self.world.ledgers
        self.routes = [RouteHabits(), RouteHabits()]
        for number, most, elsewhere in known:
            ledger = self.ledgers[number % len(self.ledgers)]
            self.routes.append(known_route((ledger, most, min(elsewhere, most))))

    # ---- what must hold

    def holds(self):
        """Check what must hold after every event."""
        granted = [
            checkout for party in self.parties for checkout in party.waits if checkout.granted
        ]
        for ledger in self.ledgers:
            mine = [each for each in granted if each.account.ledger is ledger]
            check_sums(ledger, accounts_of(self.parties), len(mine))
            self.check_turn(ledger)
            self.check_entries(ledger)

    def check_turn(self, ledger):
        """Nobody waits for what is free, at the next look at the latest."""
        if self.waits_for_free(ledger):
            # What was learned since may let somebody go on who could not when it was his turn.
            self.world.time.now += LOOK_SECONDS
            ledger.door.look()
            assert not self.waits_for_free(ledger)

    def check_entries(self, ledger):
        """Nobody waits to be let in where there is room, or where he need not, after a look."""
        if self.waits_for_nothing(ledger):
            self.world.time.now += LOOK_SECONDS
            ledger.door.look()
            assert not self.waits_for_nothing(ledger)

    def waits_for_nothing(self, ledger):
        entries = ledger.entries
        foremost = itertools.islice(entries.waiting, PASSING)
        return any(entries.has_room(each.account, each.claim) for each in foremost) or any(
            each.is_usual and each.account.habit.takes_seldom(each.claim, self.world.time.now)
            for each in entries.waiting
        )

    def waits_for_free(self, ledger):
        free = ledger.stock.free
        if free <= 0:
            return False
        if ledger.queues.on_loop:
            return True
        if ledger.stock.adrift < 0:
            return False  # more are out than the pool knows: what is safe is anybody's guess
        waiting = [
            take.account
            for party in self.parties
            for take in party.waits
            if not take.granted and take.account.ledger is ledger
        ]
        if any(account.claim > account.held for account in waiting):
            return True
        return any(
            free - ledger.stock.aside >= account.outright() and self.is_safe_for(ledger, account)
            for account in waiting
            if account.held
        )

    @staticmethod
    def is_safe_for(ledger, account):
        """Tell whether all could end if this one got another, and others what is set aside."""
        return is_safe(ledger.stock, {account: max(account.held + 1 - stake(account), 0)})

    def pick(self, number, condition):
        there = [party for party in self.parties if condition(party)]
        return there[number % len(there)] if there else None

    def ledger(self, number):
        return self.ledgers[number % len(self.ledgers)]

    def add(self, party):
        self.parties.append(party)
        self.references.append(weakref.ref(party.holder))
        return party

    # ---- requests and threads

    @precondition(lambda self: len(self.parties) < MOST_PARTIES)
    @rule(route=PICK)
    def request_begins(self, route):
        self.add(self.world.request(self.routes[route % len(self.routes)]))
        self.holds()

    @precondition(lambda self: len(self.parties) < MOST_PARTIES)
    @rule()
    def thread_begins(self):
        self.add(self.world.thread())
        self.holds()

    @precondition(lambda self: len(self.parties) < MOST_PARTIES)
    @rule(route=PICK, pool=PICK, claim=st.integers(0, 3))
    def request_asks_to_be_let_in(self, route, pool, claim):
        party = self.add(self.world.request(self.routes[route % len(self.routes)]))
        party.enter(self.ledger(pool), claim)
        self.holds()

    @precondition(lambda self: len(self.parties) < MOST_PARTIES)
    @rule(route=PICK, pool=PICK)
    def request_asks_for_what_is_usual(self, route, pool):
        """One of a route that is known; it goes on where its kind needs nothing."""
        known = [route for route in self.routes if route.requests]
        if known:
            party = self.add(self.world.request(known[route % len(known)]))
            party.enter_as_usual(self.ledger(pool))
            self.holds()

    @precondition(lambda self: self.parties)
    @rule(number=PICK, pool=PICK, claim=st.integers(0, 3))
    def asks_for_a_further_pool(self, number, pool, claim):
        """A request that was let in by one ledger asks the next, before it begins."""
        party = self.pick(number, lambda each: self.is_new(each) and each.entry is None)
        if party and not party.ended:
            party.enter(self.ledger(pool), claim)
            self.holds()

    @staticmethod
    def is_new(party):
        return not (party.out or party.waits or party.holder.thread)

    @precondition(lambda self: any(party.entry for party in self.parties))
    @rule(number=PICK)
    def entry_ends(self, number):
        """A request has been let in and goes on, or waits no longer for that."""
        if party := self.pick(number, lambda each: each.entry is not None):
            assert party.woken == party.entry.is_in  # once
            party.leave()
            self.holds()

    @precondition(lambda self: self.parties)
    @rule(number=PICK)
    def request_ends(self, number):
        """A request ends, cancelled maybe, whatever it has out or waits for in its threads."""
        party = self.pick(number, lambda each: not each.holder.thread and not each.ended)
        if party:
            if party.entry is not None:
                party.leave()
            party.end()
            self.holds()

    # ---- connections

    @precondition(lambda self: self.parties)
    @rule(number=PICK, pool=PICK, where=st.sampled_from(PLACES))
    def takes(self, number, pool, where):
        party = self.pick(number, lambda each: each.entry is None and len(each.waits) < 2)
        if party is not None:
            self.takes_one(party, pool, where)

    def takes_one(self, party, pool, where):
        if party.holder.thread and where == LOOP:
            return
        if any(checkout.where == LOOP for checkout in party.waits):
            return  # its loop stands
        party.take(self.ledger(pool), where)
        self.holds()

    @precondition(lambda self: len(self.parties) < MOST_PARTIES - 3)
    @rule(
        route=PICK,
        pool=PICK,
        where=st.sampled_from(PLACES),
        claims=st.lists(st.integers(0, 2), min_size=2, max_size=4),
    )
    def requests_under_way(self, route, pool, where, claims):
        """Requests that are let in, or wait for that, and take their first connection."""
        for claim in claims:
            party = self.add(self.world.request(self.routes[route % len(self.routes)]))
            if not claim or party.enter(self.ledger(pool), claim):
                self.holds()
                self.takes_one(party, pool, where)

    @precondition(lambda self: any(party.out for party in self.parties))
    @rule(numbers=st.lists(PICK, min_size=1, max_size=3), pool=PICK, where=st.sampled_from(PLACES))
    def holders_take_another(self, numbers, pool, where):
        """Who holds one takes another, of the same pool or of the next."""
        for number in numbers:
            if party := self.pick(number, lambda each: each.out and not each.waits):
                self.takes_one(party, pool, where)

    @precondition(lambda self: self.parties)
    @rule(number=PICK, pool=PICK)
    def fails_to_connect(self, number, pool):
        """What was granted can't be had: its creator fails."""
        party = self.pick(number, lambda each: each.entry is None and not each.waits)
        if party is None:
            return
        ledger = self.ledger(pool)
        account = party.holder.account(ledger)
        if ledger.takes_at_once(account, PLACES[-1]):
            ledger.give_back(account)
        self.holds()

    @precondition(lambda self: any(party.waits for party in self.parties))
    @rule(number=PICK, which=PICK)
    def interrupted(self, number, which):
        """A checkout waits no longer, maybe in the moment in which it was served."""
        if party := self.pick(number, lambda each: each.waits):
            party.give_up(party.waits[which % len(party.waits)])
            self.holds()

    @precondition(lambda self: any(party.out for party in self.parties))
    @rule(number=PICK, which=PICK, how=st.sampled_from(["now", "in the book"]))
    def comes_back(self, number, which, how):
        """A connection comes back from anywhere: maybe before it is in the pool again."""
        party = self.pick(number, lambda each: each.out)
        if party is None:
            return
        which %= len(party.out)
        if how == "in the book":
            with opened(self.world.book):
                party.give_back(which)
            self.world.book.settle()
        else:
            party.give_back(which)
        self.holds()

    @precondition(lambda self: self.drifts)
    @rule(pool=PICK, number=st.integers(-2, 2))
    def unknown_ones_are_out(self, pool, number):
        """Some are out past the ledger, or the pool has forgotten some that are."""
        self.ledger(pool).pool.unknown = number
        self.holds()

    # ---- time

    @precondition(lambda self: any(party.waits for party in self.parties))
    @rule(times=st.integers(1, 6))
    def all_look(self, times):
        """Whoever waits looks whether it goes on, so often."""
        for _ in range(times):
            self.world.time.now += LOOK_SECONDS
            for party in self.parties:
                for checkout in list(party.waits):
                    self.look_at(party, checkout)
                    self.holds()

    @rule(times=st.integers(1, 6))
    def loop_looks(self, times):
        for _ in range(times):
            self.world.look()
            self.holds()

    @rule()
    def promises_end(self):
        self.world.let_promises_end()
        self.holds()

    def look_at(self, party, take):
        """Have a checkout look; where it fails, that must be for a reason."""
        is_stuck = self.is_stuck(take)
        may_come_back = self.may_come_back(take)
        try:
            return party.look(take)
        except NoConnection:
            if take.until > self.world.time.now:
                habit = take.account.habit
                starved = habit is not None and self.world.time.now < habit.starved_until
                assert is_stuck or (
                    (take.where == LOOP or (take.where == THREAD and starved)) and not may_come_back
                )
            return None

    def is_stuck(self, checkout):
        """Tell whether all who hold one of the pools that matter wait, and none is free there.

        Whether it would be safe to take doesn't matter: better than to fail.
        """
        ledgers = [checkout.account.ledger]
        for ledger in ledgers:
            for account in [each for each in ledger.stock.stakes if each.held]:
                waits = account.holder.waiting
                if not waits or any(each.granted for each in waits):
                    return False
                for each in waits:
                    other = each.account.ledger
                    if other.stock.free > 0:
                        return False
                    if other not in ledgers:
                        ledgers.append(other)
        return True

    @staticmethod
    def may_come_back(checkout):
        """Tell whether somebody else has one who can bring it by himself."""
        ledger = checkout.account.ledger
        return ledger.stock.adrift > 0 or any(
            account.held
            and account is not checkout.account
            and (
                account.holder.owner.at_work
                if account.holder.owner is not None
                else not account.holder.waiting
            )
            for account in ledger.stock.stakes
        )

    # ---- the end

    def teardown(self):
        if self.world is None:
            return
        try:
            if sys.exc_info()[0] is None:  # else an event has failed
                self.drain()
        finally:
            gc.unfreeze()
            self.world.close()

    def drain(self):
        """Whoever waits for nothing gives all back: all are served, and nothing is left."""
        for ledger in self.ledgers:
            ledger.pool.unknown = 0
        self.rounds = 0
        while self.parties and self.rounds < MOST_ROUNDS:
            self.rounds += 1
            self.all_go_on()
        assert not self.parties, "nobody goes on"
        self.world.let_promises_end()
        for ledger in self.ledgers:
            check_empty(ledger)
        assert not alive(self.references)

    def all_go_on(self):
        for party in list(self.parties):
            self.go_on_to_the_end(party)
        self.world.time.now += 1.0
        self.world.look()
        self.holds()

    def go_on_to_the_end(self, party):
        failed = False
        for checkout in list(party.waits):
            if self.look_at(party, checkout) is None:
                failed = True
        if failed:  # as with an exception: all else that it does ends too
            for checkout in list(party.waits):
                party.give_up(checkout)
        if party.entry is not None:
            if not party.entry.is_in:
                return
            party.leave()
        self.holds()
        if not party.waits:
            while party.out:
                party.give_back()
                self.holds()
            party.end()
            self.holds()
            self.parties.remove(party)


TestConnections = Connections.TestCase
TestConnections.settings = settings(
    max_examples=1200,
    report_multiple_bugs=False,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],  # to explain takes minutes
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
