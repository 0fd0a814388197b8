"""What is learned of the requests of a route.

Run by pytest.
"""

from fastapi_overflow._connections.habits import PRESSED_SECONDS, WINDOW
from fastapi_overflow._connections.route_habits import (
    MOST_POOLS,
    MOST_TICKS,
    TICKS_WITHOUT,
    RouteHabits,
)
from fastapi_overflow._connections.visit import Visit


def visit(takes=1, most=1, elsewhere=0, idle=0.0, kept=0.01):
    made = Visit(0.0)
    made.takes, made.most, made.most_elsewhere = takes, most, elsewhere
    made.idle, made.kept = idle, kept
    return made


def learned(*visits):
    habits = RouteHabits()
    for each in visits:
        habits.learn({} if each is None else {"pool": each})
    return habits.of("pool")


class TestClaim:
    def test_hop(self):
        """Nothing is set aside for requests that take theirs in a hop, where they can wait."""
        assert learned(visit()).claim(0.0) == 0

    def test_loop(self):
        """As many are set aside as they take elsewhere."""
        assert learned(visit(takes=2, most=2, elsewhere=2)).claim(0.0) == 2

    def test_late(self):
        """Nothing is set aside for requests that work for long before they take one."""
        habit = learned(*[visit(elsewhere=1, idle=1.0)] * 20)
        assert habit.claim(0.0) == 0

    def test_seldom_early(self):
        """Nor where but one of many takes one at once; it is where all do so again."""
        late, early = visit(elsewhere=1, idle=0.5), visit(elsewhere=1)
        visits = [early, *[late] * 49, early]
        assert learned(*visits).claim(0.0) == 0
        assert learned(*visits, *[early] * 20).claim(0.0) == 1

    def test_seldom(self):
        """Nothing is set aside where few requests take one at all."""
        assert learned(*[visit(elsewhere=1), *[None] * 9] * 3).claim(0.0) == 0

    def test_pressed(self):
        """It is all the same for a while where requests have failed for want of one."""
        habit = learned(*[visit(elsewhere=1, idle=1.0)] * 20)
        habit.press(0.0)
        assert habit.claim(PRESSED_SECONDS - 1) == 1
        assert habit.claim(PRESSED_SECONDS + 1) == 0


class TestMemory:
    def test_forgets_slowly(self):
        """The most that any had is forgotten once very many in a row had less."""
        habit = learned(visit(takes=3, most=3), *[visit()] * (WINDOW - 1))
        assert habit.most == 3
        for _ in range(WINDOW):
            habit.learn(visit())
        assert habit.most == 1

    def test_bounded(self):
        """An engine for each request doesn't make it grow without end."""
        habits = RouteHabits()
        for number in range(1000):
            habits.learn({number: visit()})
        assert len(habits.by_kind) <= MOST_POOLS

    def test_beside_an_engine_for_each_request(self):
        """Nor does such a route forget what it does with the pool that stays."""
        habits = RouteHabits()
        for number in range(100):
            habits.of(number)
            habits.learn({number: visit(), **({"pool": visit()} if number % 3 else {})})
        assert habits.of("pool").requests > 90
        # Once another one has taken its place, that one is kept.
        for number in range(100, 200):
            habits.learn({number: visit(), "other": visit()})
        assert habits.of("other").requests > 90
        assert len(habits.by_kind) <= MOST_POOLS


class First:
    """In the place of the first request of a route."""

    def __init__(self):
        self.waiting = []
        self.holds_something = self.is_held_back = False


class TestFirst:
    def wait(self, first, looks):
        """Have others wait for the first one; tell after how many looks they don't any longer."""
        habits = RouteHabits()
        habits.first = first
        opened = []
        habits.waiting.append(lambda: opened.append(True))
        for number, does in enumerate(looks, 1):
            first.holds_something, first.waiting = does == "holds", [does] * (does == "waits")
            first.is_held_back = does == "is held back"
            habits.look_at_first()
            assert habits.is_open == bool(opened)
            if opened:
                return number, habits.is_first_idle
        return None, habits.is_first_idle

    def test_takes_none(self):
        """The others wait for a few looks while it has taken none."""
        assert self.wait(First(), ["idle"] * 50) == (TICKS_WITHOUT, True)

    def test_gave_it_back(self):
        """They wait as long once it has given back what it had."""
        assert self.wait(First(), ["holds"] * 3 + ["idle"] * 50) == (3 + TICKS_WITHOUT, True)

    def test_takes_it_again(self):
        """It takes another one after a while: they wait again as long."""
        looks = [*["idle"] * (TICKS_WITHOUT - 1), "holds", *["idle"] * 50]
        assert self.wait(First(), looks) == (2 * TICKS_WITHOUT, True)

    def test_never_begins(self):
        """They are woken without being let in: one of them is the first now."""
        habits = RouteHabits()
        first = habits.first = First()
        woken = []
        first.holds_something = True
        for _ in range(MOST_TICKS - 1):
            habits.look_at_first()
        habits.waiting.append(lambda: woken.append(True))
        habits.forget_first()
        assert (woken, habits.is_open, habits.first) == ([True], False, None)
        habits.first = first
        habits.look_at_first()
        assert not habits.is_open

    def test_holds_it(self):
        """They wait longer while it has one."""
        assert self.wait(First(), ["holds"] * 50) == (MOST_TICKS, False)

    def test_waits_for_it(self):
        """They do so while it waits for one: it isn't idle."""
        assert self.wait(First(), ["waits"] * 50) == (MOST_TICKS, False)

    def test_is_held_back(self):
        """Nor is it as long as it is held back itself: it has shown nothing yet."""
        looks = ["is held back"] * 5 + ["idle"] * 50
        assert self.wait(First(), looks) == (5 + TICKS_WITHOUT, True)

    def test_failed(self):
        """One that has failed for want of one has shown what it asked for, but not its end."""
        habits = RouteHabits()
        failed = visit(takes=2, most=2, elsewhere=2)
        failed.has_failed = True
        habits.learn({"pool": failed})
        habit = habits.of("pool")
        assert habits.is_open
        assert (habits.requests, habit.requests, habit.most_elsewhere) == (0, 0, 2)
        habits.learn({"pool": visit()})
        habits.learn({"pool": failed})
        assert (habits.requests, habit.requests) == (2, 2)
