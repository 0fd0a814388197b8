"""A leaked connection comes back, at the worst of moments: nobody hangs, and it is told.

Run by pytest. The garbage collector gives it back in the middle of a lock, or a fork's child does.
"""

from __future__ import annotations

import os

import pytest

from child_tools import run_child

LEAK = """
import asyncio, gc, json, os, queue, sys, threading, time
from logging.handlers import QueueHandler
import logging
import starlette.applications
from fastapi import FastAPI
from child_tools import PATIENCE, call, in_fork, told
from fastapi_overflow._requests import checkouts
from pool_tools import engine, in_thread
checkouts.TELL_SECONDS = 0.02
made, kept, records = engine(), [], told()
app = FastAPI()

@app.get("/")
def endpoint():
    kept.append(made.connect())

async def main():
    await call(app, "/")
    until = time.monotonic() + PATIENCE
    while not any(each[0].holder.has_leaked for each in pool().out.values()):
        assert time.monotonic() < until
        await asyncio.sleep(0.005)

def pool():
    return made.pool.__dict__["_fastapi_overflow_ledger"]

def events():
    # Nothing of ours is asked to hurry up.
    until = time.monotonic() + PATIENCE
    while "connection_back" not in [getattr(record, "event", "") for record in records]:
        assert time.monotonic() < until, records
        time.sleep(0.005)
    return [record.event for record in records if hasattr(record, "event")]

def give_back_by_collector():
    # As an exception's traceback keeps it: in a cycle.
    cycle = [kept.pop()]
    cycle.append(cycle)
    del cycle
    gc.collect()

asyncio.run(main())
"""

IN_A_HANDLER = """
lines = queue.Queue()
logging.getLogger("fastapi_overflow").addHandler(QueueHandler(lines))

def in_the_middle():
    with lines.mutex:  # a log record of the app's own is put there
        give_back_by_collector()

in_thread(in_the_middle)
print(json.dumps(events()), flush=True)
os._exit(0)
"""

IN_A_CHILD = """
def child():
    del records[:]
    made.dispose()
    asyncio.run(main())  # a leak of its own; the parent has told one less than a minute ago
    kept.pop().close()
    return events()

print(json.dumps(in_fork(child)))
"""


def program(*parts: str) -> list[str]:
    """Return the events that a program's log has told."""
    return run_child("".join(parts), timeout=60, env={"PYTHONWARNINGS": "ignore"})


def test_in_a_handler():
    """The collector gives it back in the middle of a log handler, whose lock its thread has."""
    assert program(LEAK, IN_A_HANDLER) == ["connection_leaked", "connection_back"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_a_child():
    """In the child of a fork it is told, be its leak one too many for the minute."""
    assert program(LEAK, IN_A_CHILD) == ["connection_back"]
