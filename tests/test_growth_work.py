"""What the event loop does for a stalled pool: counted, not timed."""

from __future__ import annotations

from child_tools import run_child

PROGRAM = """
import json, sys, threading
import anyio
import fastapi_overflow
from child_tools import Door, begin_requests, until
from fastapi_overflow import set_thread_limit, stats

FOLDER = fastapi_overflow.__file__.rpartition("/")[0]
GROWN = 60
waiting = int(sys.argv[1])
lines = 0


def trace(frame, event, arg):
    global lines
    if not frame.f_code.co_filename.startswith(FOLDER):
        return None
    lines += 1
    return trace


async def main():
    set_thread_limit(3)
    door = Door()
    async with anyio.create_task_group() as group:
        go_on = await begin_requests(group, waiting + 3, door)
        go_on.set()
        try:
            await until(lambda: stats().hops == waiting + 6, "three blocked threads")
            await until(lambda: stats().waiting_later > waiting * 0.8, "later hops that wait")
            # With the first one all that wait are put in order, once in a stall.
            await until(lambda: stats().threads_grown > 0, "the first thread more")
            before = stats().threads_grown
            sys.settrace(trace)
            # Not by what the package says: its lines count.
            while lines == 0 or threading.active_count() < GROWN:
                await anyio.sleep(0.002)
            sys.settrace(None)
            grown = stats().threads_grown - before
        finally:
            sys.settrace(None)
            door.open()
    assert grown > GROWN / 2, grown
    print(json.dumps(lines / grown))


anyio.run(main)
"""

# Enough time between two looks that all wait before the pool has grown far.
SLOW = {"FASTAPI_OVERFLOW_STALL_SECONDS": "0.3", "FASTAPI_OVERFLOW_STALL_THREADS": "80"}


class TestGrowth:
    def test_does_not_look_at_every_waiter(self):
        """Choosing whom a stalled pool grows by costs the loop no more the more hops wait.

        Counted in lines of the package for each thread after the first, with 20 times as many that
        wait.
        """
        few, many = (run_child(PROGRAM, number, env=SLOW) for number in ("100", "2000"))
        assert many < 2 * few
