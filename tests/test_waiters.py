"""The queue of waiters: who is next by age and by depth, at any size.

Run by pytest; against lists that are searched from end to end.
"""

from unittest.mock import Mock

from hypothesis import given
from hypothesis import strategies as st

from fastapi_overflow._threads.lease import MANY_HOPS, Waiter
from fastapi_overflow._threads.waiters import WaiterQueue


def waiter(depth):
    return Waiter(object(), None, depth, Mock(), None)


DEPTHS = st.sampled_from([0, 0, 1, 2, 3, MANY_HOPS - 1, MANY_HOPS, 1000])
LEAVE = st.sampled_from(["oldest", "oldest_later", "deepest", "under_way"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("comes"), DEPTHS),
        st.tuples(st.just("served"), LEAVE),
        st.tuples(st.just("gives up"), st.integers(0, 1000)),
        st.tuples(st.just("promoted"), st.integers(0, 1000)),
    ),
    max_size=150,
)


def expected(waiting, order):
    """Return who is next of a list in the order of arrival, None if nobody is."""
    later = [each for each in waiting if each.depth]
    under_way = [each for each in later if 1 < each.depth < MANY_HOPS]
    candidates = {
        "oldest": waiting,
        "oldest_later": later,
        "deepest": later,
        "under_way": under_way,
    }
    by_depth = order in ("deepest", "under_way")
    return max(candidates[order], key=lambda each: each.depth if by_depth else 0, default=None)


class TestOrder:
    @given(STEPS)
    def test_next(self, steps):
        """Whoever comes, is served, gives up or is promoted: the next of each order is known."""
        queue, waiting = WaiterQueue(), []
        for step, what in steps:
            if step == "comes":
                waiting.append(waiter(what))
                queue.add(waiting[-1])
            elif step == "served":
                if (chosen := expected(waiting, what)) is not None:
                    assert getattr(queue, what)() is chosen
                    queue.remove(chosen)
                    waiting.remove(chosen)
                elif what == "under_way":  # the others are asked for only where there is somebody
                    assert queue.under_way() is None
            elif step == "gives up" and waiting:
                chosen = waiting.pop(what % len(waiting))
                queue.remove(chosen)
            elif step == "promoted" and (first := [each for each in waiting if not each.depth]):
                chosen = first[what % len(first)]
                queue.promote(chosen)  # and as old as it was
            queue.check()
            later = sum(each.depth > 0 for each in waiting)
            assert (queue.size, queue.later) == (len(waiting), later)
            assert queue.oldest_since() == min((each.since for each in waiting), default=None)

    def test_equal_depth(self):
        """Of several equally deep the one that has waited longest is first."""
        queue = WaiterQueue()
        waiters = [waiter(2) for _ in range(5)]
        for each in waiters:
            queue.add(each)
        for each in waiters:
            assert queue.deepest() is each
            queue.remove(each)


class TestTurns:
    def test_in_turn(self):
        """First and later hops take turns, the oldest of each, as long as there are both."""
        queue = WaiterQueue()
        first, later = ([waiter(depth) for _ in range(3)] for depth in (0, 1))
        for each in (*first, *later, late := waiter(0)):
            queue.add(each)
        served = []
        while queue.size:
            served.append(queue.in_turn())
            queue.remove(served[-1])
        assert served == [later[0], first[0], later[1], first[1], later[2], first[2], late]

    def test_later_only(self):
        """Without first hops later ones are served in the order in which they came."""
        queue = WaiterQueue()
        waiters = [waiter(depth) for depth in (1, MANY_HOPS, 1)]
        for each in waiters:
            queue.add(each)
        for each in waiters:
            assert queue.in_turn() is each
            queue.remove(each)


class TestSize:
    def test_stale_entries(self):
        """However many come and give up, what is kept stays in proportion to who waits."""
        queue = WaiterQueue()
        stays = waiter(1)
        queue.add(stays)
        for depth in range(2, 5000):
            each = waiter(depth)
            queue.add(each)
            queue.remove(each)
            queue.check()
        assert queue.deepest() is stays
