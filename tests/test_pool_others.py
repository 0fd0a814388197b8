"""Who else has a hand in SQLAlchemy's pools: subclasses, wrappers and listeners of the app's."""

from __future__ import annotations

from textwrap import dedent

import pytest
import starlette.applications  # noqa: F401 - arms the patch, before SQLAlchemy is imported
from sqlalchemy import event, exc, pool

from child_tools import run_child
from pool_tools import engine, fails_at_once


def child(*codes: str, **env: str):
    return run_child("\n".join(map(dedent, codes)), env=env)


class TestSubclasses:
    def test_own_connect(self):
        """A pool with a `connect` of its own runs it, and asks where it calls SQLAlchemy's."""
        calls = []

        class Own(pool.QueuePool):
            def connect(self):
                calls.append(self)
                return super().connect()

        made = engine(poolclass=Own)
        assert fails_at_once(made)
        assert len(calls) == 4
        made.dispose()

    def test_made_in_two_steps(self):
        """A pool is left to its own __init__: what that sets last, its methods may need."""

        class Own(pool.QueuePool):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.more = 1

            def size(self):
                return super().size() + self.more

        made = engine(poolclass=Own)
        made.connect().close()
        made.dispose()

    def test_methods_that_fail(self):
        """A pool whose methods fail lends its connections as in stock."""

        class Own(pool.QueuePool):
            def size(self):
                raise NotImplementedError

        made = engine(poolclass=Own)
        made.connect().close()

    def test_wrapper_of_others(self):
        """A wrapper that others put around Pool.connect, before us or after, is called."""
        code = """
        import json, functools
        calls = []
        def wrap():
            import sqlalchemy.pool
            original = sqlalchemy.pool.Pool.connect
            @functools.wraps(original)
            def connect(self):
                calls.append(1)
                return original(self)
            sqlalchemy.pool.Pool.connect = connect
        wrap()
        import starlette.applications
        wrap()
        from pool_tools import engine, fails_at_once
        assert fails_at_once(engine())
        print(json.dumps(len(calls)))
        """
        # One finds none: what was there before us isn't called for it, as nothing would come of it.
        assert child(code) == 4 + 3

    def test_connect_looks_the_same(self):
        """Pool.connect has its name, its signature and its docstring."""
        code = """
        import inspect, json
        import sqlalchemy
        def looks():
            f = sqlalchemy.pool.Pool.connect
            return f.__name__, f.__qualname__, f.__doc__, str(inspect.signature(f))
        before = looks()
        import starlette.applications
        print(json.dumps(looks() == before))
        """
        assert child(code)


EVENTS = """
import json, sys
import starlette.applications, sqlalchemy
from sqlalchemy import event
from pool_tools import engine
made = engine(pool_pre_ping=True)
seen = []
for name in ("connect", "first_connect", "checkout", "checkin", "reset", "invalidate",
             "soft_invalidate", "detach", "close", "close_detached"):
    event.listen(made, name, lambda *args, name=name: seen.append([name, len(args)]))
made.connect().close()
one, two = made.raw_connection(), made.raw_connection()
one.invalidate()
two.invalidate(soft=True)
two.close()
three = made.raw_connection()
three.detach()
three.close()
made.connect().detach()
made.dispose()
made.connect().close()
print(json.dumps(seen))
"""


class TestEvents:
    def test_as_before(self):
        """An app's listeners hear the same events, in the same order, as without us."""
        heard = child(EVENTS)
        assert heard
        assert heard == child(EVENTS, FASTAPI_OVERFLOW_CONNECTIONS="0")

    def test_listener_that_refuses(self):
        """A listener that refuses a connection three times fails the checkout as in stock."""
        made = engine()

        def refuse(*args):
            raise exc.DisconnectionError("no")

        event.listen(made, "checkout", refuse)
        with pytest.raises(exc.InvalidRequestError):
            made.connect()
        event.remove(made, "checkout", refuse)
        assert fails_at_once(made)

    def test_no_pile_of_listeners(self):
        """An engine that is disposed of again and again has no more listeners than at first."""

        def listeners(made):
            return [
                sum(1 for _ in getattr(made.pool.dispatch, name)) for name in ("checkin", "detach")
            ]

        made, kept = engine(), []
        made.connect().close()
        first = listeners(made)
        for _ in range(20):
            kept.append(made.pool)  # so that no two have one id
            made.dispose()
            made.connect().close()
        assert listeners(made) == first
