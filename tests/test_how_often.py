"""How often an operator is told: once a minute of each kind and pool, in each process.

Run by pytest. No test waits for a minute.
"""

from __future__ import annotations

import os
from threading import Event, Thread

import pytest

from child_tools import run_child
from fastapi_overflow._watching import how_often
from fastapi_overflow._watching.how_often import HowOften

FORK = """
import json, os, threading
from child_tools import PATIENCE, in_fork
from fastapi_overflow._watching.how_often import HowOften

often, held = HowOften(), threading.Event()

def hold():
    with often._lock:
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
assert held.wait(PATIENCE)
print(json.dumps(in_fork(lambda: often.may_tell("kind", "pool"))), flush=True)
os._exit(0)
"""


def test_first():
    """The first of a kind and a pool is told, and none was left out before it."""
    often = HowOften()
    assert often.may_tell("kind", "pool") == 0
    assert often.may_tell("kind", "other pool") == 0
    assert often.may_tell("other kind", "pool") == 0


def test_within_a_minute(monkeypatch):
    """The next ones within a minute aren't, and the one after it says how many."""
    often = HowOften()
    often.may_tell("kind", "pool")
    assert [often.may_tell("kind", "pool") for _ in range(3)] == [None] * 3
    monkeypatch.setattr(how_often, "SECONDS_BETWEEN", 0.0)
    assert often.may_tell("kind", "pool") == 3
    assert often.may_tell("kind", "pool") == 0


def test_pools_without_end(monkeypatch):
    """An app that makes pools without end doesn't fill the memory."""
    monkeypatch.setattr(how_often, "MOST_KEYS", 3)
    often = HowOften()
    for number in range(100):
        for _ in range(2):
            often.may_tell("kind", str(number))
    assert len(often._last) <= 3
    assert len(often._suppressed) <= 3


def test_by_the_collector():
    """The garbage collector may ask in the middle of another question of its thread's."""
    often, answered = HowOften(), Event()

    def ask():
        with often._lock:
            often.may_tell("kind", "pool")
        answered.set()

    Thread(target=ask, daemon=True).start()
    assert answered.wait(20)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork():
    """The child of a fork gets an answer, though a thread of the parent's was asking."""
    assert run_child(FORK, timeout=30) == 0
