"""Pools of the app's own making that fail later, and waits that are for one checkout only."""

from __future__ import annotations

import threading

import pytest
import starlette.applications  # noqa: F401 - arms the patch, before SQLAlchemy is imported
from sqlalchemy import exc, text
from sqlalchemy.pool import QueuePool

from fastapi_overflow._requests import checkouts, holder_here
from pool_tools import LONG, PATIENCE, check, engine, held, in_thread, on_loop


def query(made):
    with made.connect() as connection:
        connection.execute(text("select 1"))
    return "fine"


def waiting(made):
    """Return who waits in our queue."""
    return made.pool.__dict__["_fastapi_overflow_ledger"].queues.all()


def until(condition):
    done = threading.Event()
    for _ in range(PATIENCE * 500):
        if condition():
            return
        done.wait(0.002)
    raise AssertionError("in vain")


class Broken(Exception):
    """What a pool raises in these tests."""


class Fickle(QueuePool):
    """A pool of the app's that answers as long as nothing is wrong with it."""

    broken = ""

    def size(self):
        return self._answer("size", super().size)

    def checkedout(self):
        return self._answer("checkedout", super().checkedout)

    def timeout(self):
        return self._answer("timeout", super().timeout)

    def _answer(self, name, method):
        if name == self.broken:
            raise Broken(name)
        return method()


class TestPoolThatBreaks:
    """A pool that no longer says how it is is left alone from then on."""

    @pytest.fixture(autouse=True)
    def told(self, monkeypatch):
        told = []
        monkeypatch.setattr(checkouts, "on_failure", told.append)
        return told

    @pytest.mark.parametrize("name", ["size", "checkedout"])
    def test_while_somebody_waits(self, name, told):
        """Who waits gets the next connection, and it is told once."""
        made = engine(1, 0, poolclass=Fickle)
        taken = [made.connect()]
        got = []
        threads = [
            threading.Thread(target=lambda: got.append(query(made)), daemon=True) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        until(lambda: len(waiting(made)) == 3)
        made.pool.broken = name
        until(lambda: not waiting(made))
        taken.pop().close()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(got) == 3
        assert [repr(each) for each in told] == [repr(Broken(name))]

    @pytest.mark.parametrize("name", ["size", "checkedout", "timeout"])
    def test_before_somebody_waits(self, name, told):
        """Who comes after that waits in the pool's own queue."""
        made = engine(1, 0, poolclass=Fickle)
        taken = [made.connect()]
        made.pool.broken = name
        thread = threading.Thread(target=query, args=[made], daemon=True)
        thread.start()
        until(lambda: told)
        taken.pop().close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        in_thread(lambda: query(made))
        assert held(made) == (0, 0)
        assert len(told) == 1

    def test_on_a_loop(self, told):
        """A checkout on an event loop that waits is the pool's own from then on."""
        made = engine(1, 0, poolclass=Fickle, pool_timeout=0.1)
        taken = [made.connect()]
        made.pool.broken = "checkedout"
        with pytest.raises(exc.TimeoutError):
            on_loop(lambda: query(made))
        taken.pop().close()
        on_loop(lambda: query(made))
        assert len(told) == 1


class TestWaitedBefore:
    """What a request has waited for before it began is taken off its first checkout's timeout."""

    def test_taken_at_once(self):
        """Its second checkout waits as long as any, where the first one didn't have to."""
        made = engine(1, 0)

        def first_and_second():
            holder_here.find_holder()[0].waited = LONG
            made.connect().close()
            self.second(made, [in_thread(made.connect)])

        in_thread(first_and_second)
        check(made)

    def test_first_fails(self):
        """Its second checkout waits as long as any, though the first one's time was up."""
        made = engine(1, 0)

        def first_and_second():
            holder_here.find_holder()[0].waited = LONG
            taken = [in_thread(made.connect)]
            with pytest.raises(exc.TimeoutError):
                made.connect()
            self.second(made, taken)

        in_thread(first_and_second)
        check(made)

    @staticmethod
    def second(made, taken):
        """Take a connection, which another thread gives back once this one waits for it."""

        def give_back():
            until(lambda: waiting(made))
            taken.pop().close()

        thread = threading.Thread(target=give_back, daemon=True)
        thread.start()
        made.connect().close()
        thread.join(PATIENCE)
