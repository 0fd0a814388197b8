"""All pools that are known: by whoever looks, while other threads make and drop engines.

Run by pytest. A trace function does what another thread may: between any two lines that Python's
own collections of weak references run.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest
import starlette.applications  # noqa: F401 - arms the patch, before SQLAlchemy is imported
from sqlalchemy.pool import QueuePool

from fastapi_overflow._requests import holder_here

MOST = 20  # times that it is done: each makes more lines to run


def meanwhile(do: Callable[[], Any], look: Callable[[], Any]) -> Any:
    """Return what `look` returns, while `do` is called at each line of weak collections."""
    times = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal times
        if not frame.f_code.co_filename.endswith(("weakref.py", "_weakrefset.py")):
            return None
        if event == "line" and times < MOST:
            times += 1
            sys.settrace(None)
            try:
                do()
            finally:
                sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = look()
    finally:
        sys.settrace(before)
    assert times, "nothing came between: this shows nothing"
    return result


def make_pool() -> QueuePool:
    return QueuePool(lambda: None, pool_size=1, max_overflow=0)


def ledger(pool: QueuePool) -> Any:
    return pool.__dict__["_fastapi_overflow_ledger"]


@pytest.mark.parametrize("name", ["pools", "ledgers"])
class TestLook:
    def test_while_pools_are_made(self, name):
        """Pools that are made meanwhile don't keep those from it that were there."""
        mine, others = [make_pool() for _ in range(3)], []
        look = getattr(holder_here.governor, name)
        found = meanwhile(lambda: others.append(make_pool()), look)
        assert {id(ledger(each)) for each in mine} <= set(map(id, found))

    def test_while_pools_are_dropped(self, name):
        """Nor do those that are dropped, which are left out."""
        mine, others = make_pool(), [make_pool() for _ in range(MOST)]

        def drop():
            if others:
                others.pop()
                gc.collect()

        found = meanwhile(drop, getattr(holder_here.governor, name))
        assert None not in found
        assert id(ledger(mine)) in map(id, found)
