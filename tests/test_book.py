"""The lock of all ledgers, and what comes back while it is held.

Run by pytest, one thread at a time: see ledger_tools.
"""

import pytest

from fastapi_overflow._connections.ledger import Ledger
from ledger_tools import World


@pytest.fixture
def world():
    world = World(1)
    yield world
    world.close()


class TestReturns:
    def test_at_the_book(self, world):
        """One that comes back while this thread has the book is entered when it has left it."""
        (ledger,) = world.ledgers
        request = world.request()
        request.take(ledger)
        with world.book.lock:
            request.give_back()
            assert ledger.stock.held == 1
        world.book.settle()
        assert ledger.stock.held == 0

    def test_while_another_is_entered(self, world):
        """One that comes back in the middle of entering another is entered after it."""
        (ledger,) = world.ledgers
        accounts = []
        for _ in range(2):
            ledger.pool.size = ledger.stock.capacity = 2
            request = world.request()
            request.take(ledger)
            accounts.append(request.out[0][0])
        original = Ledger.enter_return

        def enter_return(self, account):
            if accounts:
                world.book.give_back(accounts.pop())
            original(self, account)

        world.patches.setattr(Ledger, "enter_return", enter_return)
        world.book.give_back(accounts.pop())
        assert ledger.stock.held == 0

    def test_failure(self, world):
        """Whatever fails while one is entered, the book is free afterwards."""
        (ledger,) = world.ledgers
        request = world.request()
        request.take(ledger)

        def fail(self, account):
            raise RecursionError

        world.patches.setattr(Ledger, "enter_return", fail)
        with pytest.raises(RecursionError):
            world.book.give_back(request.out[0][0])
        assert not world.book.lock.locked()
