"""The ledger of a pool: who may go on, and who waits.

Run by pytest, one thread at a time, without time passing: see ledger_tools.
"""

import weakref

import pytest

from fastapi_overflow._connections.checkout import LOOK_SECONDS, NoConnection
from fastapi_overflow._connections.entries import LATE_IN_A_ROW, OLD, PASSING
from fastapi_overflow._connections.habits import UNKNOWN_MOST, UNKNOWN_SECONDS
from fastapi_overflow._connections.holder import HOP, LOOP
from fastapi_overflow._connections.route_habits import RouteHabits
from ledger_tools import World, alive, check_empty, is_safe, known_route, known_visits


@pytest.fixture
def world():
    world = World(2, 1)
    yield world
    world.close()


def look_until_it_fails(world, party):
    for _ in range(5):
        world.time.now += LOOK_SECONDS
        if party.look():
            raise AssertionError("it has been served")


class TestCheckout:
    def test_free(self, world):
        """Whoever asks first gets what is free, and the next one waits."""
        ledger, _ = world.ledgers
        first, second, third = world.request(), world.request(), world.request()
        assert first.take(ledger)
        assert second.take(ledger)
        assert not third.take(ledger)
        first.give_back()
        assert third.look()
        for party in (first, second, third):
            party.finish()

    def test_served_by_its_own_look(self, world):
        """A checkout that goes on at once, as the pool knows more, waits no longer for anybody."""
        _, ledger = world.ledgers
        ledger.pool.unknown = 1
        world.look(3)
        ledger.pool.unknown = 0
        world.look()
        world.time.now += LOOK_SECONDS
        request = world.request()
        assert request.take(ledger)
        assert not request.holder.waiting

    def test_on_loop(self, world):
        """On the loop it fails at once where nobody at work can bring one."""
        _, ledger = world.ledgers
        world.request().take(ledger, LOOP)
        other = world.request()
        assert not other.take(ledger, LOOP)
        with pytest.raises(NoConnection, match="event loop"):
            look_until_it_fails(world, other)

    def test_on_loop_beside_threads(self, world):
        """On the loop it waits for what a thread is about to give back."""
        _, ledger = world.ledgers
        thread = world.request()
        thread.take(ledger, HOP)
        other = world.request()
        assert not other.take(ledger, LOOP)
        for _ in range(5):
            assert not other.look()
        thread.give_back()
        assert other.look()


class TestSafety:
    def test_known(self, world):
        """Requests that take two at once get their first only where both can come to their end."""
        ledger, _ = world.ledgers
        habits = known_route((ledger, 2, 0))
        first, second = world.request(habits), world.request(habits)
        assert first.take(ledger)
        assert not second.take(ledger)
        assert first.take(ledger)
        first.finish()
        assert second.look()

    @pytest.mark.parametrize("timeout", [0, LOOK_SECONDS])
    def test_timeout(self, world, timeout):
        """One whose time is up takes what is free, as in stock, instead of failing beside it."""
        ledger, _ = world.ledgers
        habits = known_route((ledger, 2, 0))
        first, second, third = (world.request(habits) for _ in range(3))
        assert first.take(ledger)
        assert not second.take(ledger, timeout=timeout)
        world.time.now += timeout
        assert second.look()
        assert not third.take(ledger, timeout=timeout)
        world.time.now += timeout
        with pytest.raises(NoConnection):
            third.look()
        for each in (first, second):
            each.finish()

    def test_learned_meanwhile(self, world):
        """What a route turns out to take holds for its requests that are under way as well."""
        ledger, _ = world.ledgers
        habits = known_route((ledger, 1, 0))
        first, second = world.request(habits), world.request(habits)
        second.enter(ledger)
        first.take(ledger)
        first.take(ledger)
        first.give_back()
        assert not second.take(ledger)
        assert is_safe(ledger.stock)
        first.finish()
        assert second.look()

    def test_let_in(self, world):
        """What takes one on the loop and another in a hop is let in where it can get both."""
        ledger, _ = world.ledgers
        habits = known_route((ledger, 2, 1))
        assert world.request(habits).enter(ledger, 1)
        assert not world.request(habits).enter(ledger, 1)

    def test_two_pools(self, world):
        """Where two wait for each other in two pools, the newer one fails and the other goes on."""
        _, replica = world.ledgers
        primary = world.other_ledger(1)
        first, second = world.request(), world.request()
        first.take(primary)
        second.take(replica)
        assert not first.take(replica)
        assert not second.take(primary)
        assert not first.look()
        with pytest.raises(NoConnection, match="all who have one wait"):
            look_until_it_fails(world, second)
        second.finish()
        assert first.look()

    def test_forgotten(self, world):
        """What a pool has forgotten, when it was disposed of, makes nobody fail."""
        ledger, _ = world.ledgers
        party = world.request()
        party.take(ledger)
        party.take(ledger)
        ledger.pool.unknown = -2
        if not party.take(ledger):
            for _ in range(3):
                world.time.now += LOOK_SECONDS
                if party.look():
                    break
        assert len(party.out) == 3

    def test_more_is_set_aside(self, world):
        """With its first one no more is set aside for a request than leaves others able to end."""
        ledger = world.other_ledger(3)
        assert world.request(known_route((ledger, 2, 0))).enter(ledger, claim=1)
        request = world.request(known_route((ledger, 3, 2)))
        assert request.enter(ledger, claim=1)  # less than its kind is known to need by now
        assert request.take(ledger)
        assert is_safe(ledger.stock)

    def test_nobody_fails_beside_a_free_one(self, world):
        """Who waits in a circle takes what is free, though not all may be able to end then.

        Both have taken theirs on the loop, where nobody asks whether all could still end.
        """
        ledger = world.other_ledger(3)
        habits = known_route((ledger, 3, 0))
        first, second = world.request(habits), world.request(habits)
        assert first.take(ledger, LOOP)
        assert second.take(ledger, LOOP)
        assert not is_safe(ledger.stock)
        assert not first.take(ledger)
        assert not second.take(ledger)
        for _ in range(5):
            world.time.now += LOOK_SECONDS
            if second.look():
                break
        assert len(second.out) == 2
        second.finish()
        assert first.look()
        first.finish()


class TestEntries:
    def test_starving(self, world):
        """A request that waits to be let in is in the end, beside threads that never stop."""
        _, ledger = world.ledgers
        holder = world.request()
        holder.take(ledger)
        request = world.request(known_route((ledger, 1, 1)))
        assert not request.enter(ledger, 1)
        for _ in range(50):
            other = world.request()
            other.take(ledger)
            holder.finish()
            world.time.now += LOOK_SECONDS
            if request.woken:
                return
            assert other.look()
            holder = other
        raise AssertionError("it starves")

    def test_promise(self, world):
        """What is set aside and not taken is given up, also where no loop looks any longer."""
        _, ledger = world.ledgers
        assert world.request(known_route((ledger, 1, 1))).enter(ledger, 1)
        thread = world.thread()
        assert not thread.take(ledger)
        world.time.now += 10
        assert thread.look()

    def test_renew(self, world):
        """All there are being set aside is as much as there can be, though more were asked for."""
        _, ledger = world.ledgers
        first, waiting = world.request(RouteHabits()), world.request(known_route((ledger, 1, 1)))
        account = first.holder.account(ledger)
        assert first.enter(ledger, 3)
        assert account.claim < 3
        assert not waiting.enter(ledger, 1)
        assert ledger.door.renew(account, 3)
        world.let_promises_end()
        assert not ledger.door.renew(account, 3)
        assert waiting.leave()
        first.finish()
        waiting.finish()

    def test_needless(self, world):
        """Those that wait need not any longer once requests of their kind turn out to take none."""
        _, ledger = world.ledgers
        habits = known_route((ledger, 1, 1), requests=1)
        holder, *waiting = [world.request(habits) for _ in range(4)]
        assert holder.enter_as_usual(ledger)
        assert holder.take(ledger)
        assert not any(each.enter_as_usual(ledger) for each in waiting)
        habits.learn({})
        world.look()
        assert not any(each.woken for each in waiting)  # half of them do: maybe it does, too
        habits.learn({})
        world.look()
        assert [each.woken for each in waiting] == [1, 1, 1]
        assert ledger.stock.aside == ledger.stock.awaited == 0
        assert all(each.leave() for each in waiting)
        holder.finish()

    def test_needless_for_a_while(self, world):
        """Those that wait go on waiting where only the latest of many have taken none."""
        _, ledger = world.ledgers
        habits = known_route((ledger, 1, 1), requests=20)
        holder, waiting = world.request(habits), world.request(habits)
        assert holder.enter_as_usual(ledger)
        assert holder.take(ledger)
        assert not waiting.enter_as_usual(ledger)
        for _ in range(16):
            habits.learn({})
        world.look()
        assert not waiting.woken
        holder.finish()
        assert waiting.woken
        waiting.leave()
        waiting.finish()

    def test_needed_for_once(self, world):
        """One that waits for more than its kind usually needs goes on waiting."""
        _, ledger = world.ledgers
        habits = known_route((ledger, 1, 0))
        holder, waiting = world.request(habits), world.request(habits)
        assert holder.take(ledger)
        assert not waiting.enter(ledger, 1)
        for _ in range(20):
            habits.learn({})
        world.look()
        assert not waiting.woken
        holder.finish()
        assert waiting.woken
        waiting.leave()
        waiting.finish()

    def test_others_behind_who_waits_for_more(self, world):
        """One that waits its turn is let in before one that needs more than is free."""
        ledger = world.other_ledger(2)
        holder = world.request(known_route((ledger, 1, 1)))
        assert holder.take(ledger)
        more = world.request(known_route((ledger, 2, 2)))
        assert not more.enter_as_usual(ledger)
        assert world.request(known_route((ledger, 1, 1))).enter_as_usual(ledger)
        assert not more.woken
        holder.finish()
        more.leave()

    def test_has_begun(self, world):
        """One that has begun, and waits at a hop of its own, comes before all that have not."""
        _, ledger = world.ledgers
        holder, thread = world.request(), world.request(known_route((ledger, 1, 0)))
        assert holder.take(ledger)
        assert not thread.take(ledger)
        beginning = world.request(known_route((ledger, 1, 1)))
        assert not beginning.enter_as_usual(ledger)
        begun = [world.request(known_route((ledger, 1, 1))) for _ in range(2)]
        assert not any(each.enter(ledger, 1, is_late=True) for each in begun)
        holder.finish()
        for number, each in enumerate(begun):
            assert [other.woken for other in begun] == [1] * (number + 1) + [0] * (1 - number)
            assert each.take(ledger, LOOP)
            each.finish()
        assert not beginning.woken
        assert thread.look()
        thread.finish()
        assert beginning.woken
        beginning.finish()

    def test_begun_before_what_is_put_by(self, world):
        """What was put by for one that waits to begin isn't kept from one that has begun."""
        ledger, _ = world.ledgers
        holders = [world.request() for _ in range(2)]
        assert all(each.take(ledger) for each in holders)
        beginning = world.request(known_route((ledger, 2, 2)))
        assert not beginning.enter_as_usual(ledger)
        world.time.now += OLD
        holders[0].finish()
        assert ledger.stock.aside == 1
        begun = world.request(known_route((ledger, 1, 1)))
        assert begun.enter(ledger, 1, is_late=True)
        assert begun.take(ledger, LOOP)
        begun.finish()
        holders[1].finish()
        assert beginning.woken
        beginning.finish()

    @pytest.mark.parametrize("is_entry", [False, True])
    def test_beside_ever_more_that_have_begun(self, world, is_entry):
        """However many wait at their hops, the others have their turn."""
        _, ledger = world.ledgers
        route = known_route((ledger, 1, 1))
        holder, other = world.request(route), world.request(route)
        assert holder.take(ledger, LOOP)
        assert not (other.enter_as_usual(ledger) if is_entry else other.take(ledger))
        begun = [world.request(route) for _ in range(9)]
        assert not any(each.enter(ledger, 1, is_late=True) for each in begun)
        for each in begun[:LATE_IN_A_ROW]:
            holder.finish()
            assert each.take(ledger, LOOP)
            holder = each
        assert not other.woken
        assert not any(each.granted for each in other.waits)
        holder.finish()
        assert other.woken or other.look()
        assert not begun[LATE_IN_A_ROW].woken
        other.finish()
        for each in begun[LATE_IN_A_ROW:]:  # nobody else waits
            assert each.take(ledger, LOOP)
            each.finish()

    def test_more_is_known(self, world):
        """What is set aside for one that waits is what its kind is known to need by then."""
        ledger, _ = world.ledgers
        route = known_route((ledger, 1, 1))
        holders = [world.request() for _ in range(2)]
        assert all(each.take(ledger) for each in holders)
        waiting = world.request(route)
        assert not waiting.enter_as_usual(ledger)
        route.learn(known_visits((ledger, 2, 2)))
        holders[0].finish()
        assert not waiting.woken
        holders[1].finish()
        assert waiting.woken
        assert waiting.take(ledger, LOOP)
        assert waiting.take(ledger, LOOP)
        waiting.finish()

    def test_less_is_known(self, world):
        """It is less where that turns out to be enough."""
        ledger, _ = world.ledgers
        route = RouteHabits()
        holders = [world.request() for _ in range(2)]
        assert all(each.take(ledger) for each in holders)
        waiting = world.request(route)
        assert not waiting.enter(ledger, UNKNOWN_MOST, is_usual=True)
        route.learn(known_visits((ledger, 1, 1)))
        holders[0].finish()
        assert waiting.woken
        for each in (holders[1], waiting):
            each.finish()

    def test_beside_those_that_never_wait_here(self, world):
        """Of kinds that aren't held back ever more are at the checkout: as many are let in."""
        ledger, _ = world.ledgers
        seldom, always = known_route((ledger, 1, 0)), known_route((ledger, 1, 0))
        for _ in range(8):
            seldom.learn({})
        unasked = [world.request(seldom) for _ in range(6)]
        assert all(each.enter_as_usual(ledger) for each in unasked)
        assert [each.take(ledger) for each in unasked] == [True] * 2 + [False] * 4
        waiting = [world.request(always) for _ in range(5)]
        assert [each.enter_as_usual(ledger) for each in waiting] == [True] * 4 + [False]
        assert not any(each.take(ledger) for each in waiting[:4])
        for each in unasked[:2]:
            each.finish()  # the first of those behind it, too, comes before any that was let in
        assert not waiting[4].woken
        for each in unasked[2:]:
            assert each.look()
            each.finish()
        for each in waiting[:4]:
            assert each.look()
            each.finish()
        assert waiting[4].woken
        waiting[4].leave()
        waiting[4].finish()

    def test_behind_many_that_wait_for_more(self, world):
        """At the next look one is let in that needs no more than is free, however many wait."""
        ledger = world.other_ledger(3)
        holder = world.request(known_route((ledger, 2, 2)))
        assert holder.take(ledger)
        assert holder.take(ledger)
        habits = known_route((ledger, 2, 2))
        more = [world.request(habits) for _ in range(3 * PASSING)]
        assert not any(each.enter_as_usual(ledger) for each in more)
        for elsewhere in (0, 1):
            one = world.request(known_route((ledger, 1, elsewhere)))
            assert not one.enter_as_usual(ledger)
            world.look()
            assert one.woken
            one.leave()
            one.finish()
        assert not any(each.woken for each in more)
        holder.finish()
        for each in more:
            world.look()
            assert each.leave()
            each.finish()

    def test_after_who_has_one(self, world):
        """What was put by for one that waits for long is for a thread that needs a further one."""
        ledger, _ = world.ledgers
        thread = world.thread()
        assert thread.take(ledger)
        waiting = world.request()
        assert not waiting.enter(ledger, claim=2)
        world.time.now += OLD
        world.look()
        assert ledger.stock.aside == 1
        assert thread.take(ledger)
        thread.finish()
        assert waiting.entry.is_in
        waiting.leave()
        waiting.finish()

    def test_put_by_if_all_can_end(self, world):
        """Nothing is put by for one that waits for long where somebody then couldn't end."""
        ledger = world.other_ledger(3)
        holder = world.request(known_route((ledger, 3, 0)))
        assert holder.take(ledger)
        assert holder.take(ledger)
        waiting = world.request(known_route((ledger, 2, 2)))
        assert not waiting.enter(ledger, claim=2)
        world.time.now += OLD
        world.look()
        assert ledger.stock.aside == 0
        assert holder.take(ledger)
        holder.finish()
        assert waiting.entry.is_in
        waiting.leave()
        waiting.finish()


class TestUnknown:
    def test_in_threads(self, world):
        """Of routes never seen to their end, each counts as about to take a second one, not more.

        Once it has held what it has for a while, it counts as taking no more.
        """
        ledger = world.other_ledger(3)
        parties = [world.request(RouteHabits()) for _ in range(4)]
        assert [each.take(ledger) for each in parties[:3]] == [True, True, False]
        world.time.now += UNKNOWN_SECONDS
        assert parties[2].look()
        assert not parties[3].take(ledger)
        parties[0].finish()
        assert parties[3].look()
        for each in parties[1:]:
            each.finish()


class TestFirst:
    """The first request of a route: the others begin once it has been idle for a while."""

    def enter(self, world, ledger, is_idle):
        """Let a second request in that takes one and gives it back; return its account."""
        habits = RouteHabits()
        first = world.request(habits)
        assert first.take(ledger, LOOP)
        first.give_back()
        habits.first, habits.is_first_idle = first.holder, is_idle
        second = world.request(habits)
        assert second.enter(ledger, 1)
        assert second.take(ledger, LOOP)
        second.give_back()
        account = second.holder.account(ledger)
        claim = account.claim
        second.finish()
        first.finish()
        return claim

    def test_is_at_work(self, world):
        """What a request gives back stays set aside for it while little is known of its route."""
        assert self.enter(world, world.ledgers[0], is_idle=False) == 1

    def test_is_idle(self, world):
        """It doesn't once the first one has taken no second one for long."""
        assert self.enter(world, world.ledgers[0], is_idle=True) == 0


class TestEnd:
    def test_with_connections_out(self, world):
        """A request that has ended has nothing set aside, however few of its connections return."""
        ledger, _ = world.ledgers
        request = world.request(known_route((ledger, 2, 2)))
        request.enter(ledger, 2)
        request.take(ledger, LOOP)
        request.take(ledger, LOOP)
        request.end()
        request.give_back()
        assert ledger.stock.aside == 0

    def test_interrupted_when_served(self, world):
        """Interrupted in the moment in which it was served, it gives the connection to the next."""
        _, ledger = world.ledgers
        first, second, third = (world.request() for _ in range(3))
        first.take(ledger)
        second.take(ledger)
        third.take(ledger)
        first.finish()
        assert second.waits[0].granted
        second.give_up(second.waits[0])
        assert third.look()
        third.finish()
        check_empty(ledger)

    def test_nothing_kept_alive(self, world):
        """Requests are forgotten when they have ended, though nobody looks at the ledger."""
        ledger, _ = world.ledgers
        habits = known_route((ledger, 2, 2))
        references = []
        for _ in range(50):
            request = world.request(habits)
            request.take(ledger, LOOP)
            request.finish()
            references.append(weakref.ref(request.holder))
        del request
        assert not alive(references)


class TestPool:
    def test_slow_creators(self, world):
        """Connections that are still being made count once."""
        ledger, _ = world.ledgers
        accounts = [world.request().holder.account(ledger) for _ in range(2)]
        for account in accounts:
            assert ledger.takes_at_once(account, HOP) or not ledger.take(account, HOP, 0)
            ledger.pool.taken += 1
        world.look(4)
        assert ledger.stock.adrift == 0
