"""What a checkout raises that finds no connection, and for how long it waits."""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest
import starlette.applications  # noqa: F401 - arms the patch, before SQLAlchemy is imported
from sqlalchemy import exc

from child_tools import run_child
from pool_tools import engine, fails_at_once, in_thread

WITH_NOTES = sys.version_info >= (3, 11)


def child(*codes: str, **env: str):
    return run_child("\n".join(map(dedent, codes)), env=env)


class TestErrors:
    def test_sqlalchemys_own(self):
        """The error is SQLAlchemy's: its class, its text, its code."""
        code = """
        import json, starlette.applications, sqlalchemy
        from pool_tools import engine, in_thread
        made = engine(1, 2, pool_timeout=0.125)
        taken = [made.connect() for _ in range(3)]
        try:
            in_thread(made.connect)
        except sqlalchemy.exc.TimeoutError as exc:
            print(json.dumps([type(exc).__qualname__, str(exc), exc.code, repr(exc.args),
                [c.__name__ for c in type(exc).__mro__]]))
        """
        ours = child(code)
        assert ours == child(code, FASTAPI_OVERFLOW_CONNECTIONS="0")
        assert ours[2] == "3o7r"

    @pytest.mark.skipif(not WITH_NOTES, reason="exceptions have notes since Python 3.11")
    def test_note(self):
        """A note says why, and how many have a connection."""
        (note,) = fails_at_once(engine()).__notes__
        assert note.startswith("fastapi-overflow: ")
        assert "event loop" in note
        assert "3" in note

    def test_text_on_the_loop(self):
        """On the loop it has the same text."""
        assert str(fails_at_once(engine())).startswith(
            "QueuePool limit of size 2 overflow 1 reached, connection timed out, timeout 600.00"
        )

    def test_timeout_0(self):
        """With pool_timeout=0 a checkout that finds none fails, and one that finds one doesn't."""
        made = engine(1, 0, pool_timeout=0)
        for _ in range(3):
            with made.connect(), pytest.raises(exc.TimeoutError):
                in_thread(made.connect)

    @pytest.mark.parametrize("timeout", [None, "30", -1, float("inf"), 10**12, True])
    def test_odd_timeouts(self, timeout):
        """Whatever the timeout, a checkout that needn't wait doesn't look at it."""
        made = engine(pool_timeout=timeout)
        for _ in range(2):
            made.connect().close()

    @pytest.mark.parametrize("timeout", [None, float("inf"), 10**12])
    def test_timeouts_without_an_end(self, timeout):
        """Where the pool would wait for ever, a wait that can't end on the loop ends at once."""
        assert fails_at_once(engine(1, 0, pool_timeout=timeout))

    def test_unknown_checkouts(self):
        """What was lent past Pool.connect counts as out, as the pool says so."""
        from sqlalchemy.pool.base import _ConnectionFairy

        made = engine(2, 0, pool_timeout=0.5)
        with made.connect():
            unknown = _ConnectionFairy._checkout(made.pool)
            with pytest.raises(exc.TimeoutError):
                in_thread(made.connect)
            unknown.close()
            in_thread(made.connect).close()
