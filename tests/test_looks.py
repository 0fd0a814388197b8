"""Looks at a ledger from time to time, as long as somebody waits or has something set aside.

Run by pytest.
"""

import threading

import pytest

import fastapi_overflow
from fastapi_overflow._requests.limiters import current_pool
from fastapi_overflow._requests.looks import look_at
from observed import until
from support import PATIENCE

fastapi_overflow.patch()  # for installations without the hook


class Door:
    """In the place of a ledger's: it is watched for so many looks.

    :ivar threads: in which somebody has looked
    """

    def __init__(self, looks):
        self.left = looks
        self.threads = []

    def look(self):
        self.threads.append(threading.current_thread())
        self.left -= 1
        if self.left == 1:
            raise RuntimeError("a fault of ours")

    @property
    def is_watched(self):
        return self.left > 0


class Ledger:
    def __init__(self, looks=3):
        self.door = Door(looks)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestLooks:
    async def test_until_nobody_wants_anything(self):
        """The loop looks for as long as that matters, after a look that has failed too."""
        pool, ledger = current_pool(), Ledger()
        look_at(pool, ledger)
        look_at(pool, ledger)
        await until(lambda: ledger not in pool.looked_at, "end of the looks")
        assert ledger.door.threads == [threading.current_thread()] * 3

    async def test_again(self):
        """It looks anew when that matters once more."""
        pool, ledger = current_pool(), Ledger(1)
        for _ in range(2):
            ledger.door.left = 1
            look_at(pool, ledger)
            await until(lambda: ledger not in pool.looked_at, "end of the looks")
        assert len(ledger.door.threads) == 2

    async def test_from_a_thread(self):
        """It is the request's own loop that looks, also for a loop in one of its threads."""
        pool, ledger = current_pool(), Ledger()
        thread = threading.Thread(target=look_at, args=(pool, ledger))
        thread.start()
        thread.join(PATIENCE)
        await until(lambda: ledger not in pool.looked_at, "end of the looks")
        assert ledger.door.threads == [threading.current_thread()] * 3

    async def test_from_a_thread_at_the_end(self):
        """A thread asks for looks as the loop is about to look no longer: it goes on looking."""
        pool, ledger = current_pool(), Ledger(1)

        class Asked(Door):
            @property
            def is_watched(self):
                was_watched = super().is_watched
                if not was_watched and len(self.threads) == 1:
                    self.left += 2
                    thread = threading.Thread(target=look_at, args=(pool, ledger))
                    thread.start()
                    thread.join(PATIENCE)
                return was_watched

        ledger.door = Asked(1)
        look_at(pool, ledger)
        await until(lambda: len(ledger.door.threads) == 3, "looks")
        await until(lambda: ledger not in pool.looked_at, "end of the looks")

    async def test_cannot_begin(self, monkeypatch):
        """Where a look can't be arranged for, the next who asks has it tried again."""

        def fail(*args):
            raise RuntimeError("a fault of ours")

        pool, ledger = current_pool(), Ledger()
        with monkeypatch.context() as patches:
            patches.setattr("fastapi_overflow._requests.looks._look_later", fail)
            look_at(pool, ledger)
        assert ledger not in pool.looked_at
        look_at(pool, ledger)
        await until(lambda: ledger.door.threads, "look")
