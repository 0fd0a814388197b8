"""What is learned of the requests of a route.

Run by pytest.
"""

from fastapi_overflow._connections.habits import (
    MOST_POOLS,
    PRESSED_SECONDS,
    WINDOW,
    RouteHabits,
    Visit,
)


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
