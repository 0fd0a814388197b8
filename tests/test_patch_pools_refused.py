"""Where SQLAlchemy isn't as expected: its pools are left alone, and all else is as ever.

Every claim is made of a new process, in which a hook damages SQLAlchemy just before ours.
"""

from __future__ import annotations

from textwrap import dedent

import pytest

from child_tools import run_child


def child(*codes: str, **env: str):
    return run_child("\n".join(map(dedent, codes)), env=env)


# Damages SQLAlchemy at the end of its import, just before it is patched.
BEFORE_OURS = """
import json, wrapt
from child_tools import told
def before_ours(function):
    wrapt.register_post_import_hook(lambda module: function(module.pool), "sqlalchemy")
"""

LEFT_ALONE = """
import starlette.applications
records = told()
import sqlite3, sqlalchemy, fastapi_overflow
from pool_tools import is_stock
made = sqlalchemy.pool.QueuePool(lambda: sqlite3.connect(":memory:"), 1, 0, 0.05)
taken = made.connect()
try:
    made.connect()
except sqlalchemy.exc.TimeoutError as exc:
    assert not getattr(exc, "__notes__", None), exc.__notes__
taken.close()
fastapi_overflow.patch()
print(json.dumps({"patched": fastapi_overflow.patched(), "stock": is_stock(),
    "told": [r.getMessage() for r in records if r.levelname == "WARNING"]}))
"""


class TestUnexpected:
    @pytest.mark.parametrize(
        ("damage", "named"),
        [
            pytest.param(
                """
                original = pool.Pool.connect
                def connect(this):
                    return original(this)
                pool.Pool.connect = connect
                """,
                "Pool.connect",
                id="connect with other parameters",
            ),
            pytest.param(
                """
                original = pool.QueuePool.__init__
                def init(self, creator, size=5, max_overflow=10, timeout=30.0, **more):
                    original(self, creator, size, max_overflow, timeout, **more)
                pool.QueuePool.__init__ = init
                """,
                "QueuePool.__init__",
                id="__init__ with other parameters",
            ),
            pytest.param(
                """
                original = pool.QueuePool.recreate
                def recreate(pool):
                    return original(pool)
                pool.QueuePool.recreate = recreate
                """,
                "QueuePool.recreate",
                id="recreate with other parameters",
            ),
            pytest.param("pool.QueuePool.timeout = 30", "timeout", id="timeout not a method"),
            pytest.param("del pool.AsyncAdaptedQueuePool", "AsyncAdaptedQueuePool", id="no async"),
            pytest.param(
                """
                class Other(pool.QueuePool):
                    def __init__(self, creator, pool_size=5, max_overflow=10, timeout=30.0, **more):
                        super().__init__(creator, pool_size, max_overflow, timeout, **more)
                        del self._max_overflow
                        self._most = max_overflow
                    def _inc_overflow(self):
                        if self._overflow >= self._most:
                            return False
                        self._overflow += 1
                        return True
                    def _dec_overflow(self):
                        self._overflow -= 1
                    def _do_get(self):
                        from sqlalchemy import exc
                        try:
                            return self._pool.get(False)
                        except Exception:
                            if self._inc_overflow():
                                return self._create_connection()
                        raise exc.TimeoutError("none left", code="3o7r")
                pool.QueuePool = Other
                """,
                "_max_overflow",
                id="another attribute for its bound",
            ),
        ],
    )
    def test_one_warning(self, damage, named):
        """One warning says what isn't as expected; the pools are stock, threads protected."""
        hook = "@before_ours\ndef damage(pool):\n" + "\n".join(
            f"    {line}" for line in dedent(damage).strip().splitlines()
        )
        found = child(BEFORE_OURS, hook, LEFT_ALONE)
        (text,) = found["told"]
        assert named in text, text
        assert "connection pools alone" in text
        assert found["patched"]

    def test_as_expected(self):
        """The SQLAlchemy that is installed looks as expected."""
        code = """
        import json, starlette.applications
        from child_tools import told
        records = told()
        import sqlalchemy
        from fastapi_overflow._patching import pools
        print(json.dumps([pools.failure(), [r.getMessage() for r in records
                                            if r.levelname == "WARNING"]]))
        """
        assert child(code) == [None, []]
