"""The lock of all ledgers, and what comes back while it is held.

Run by pytest, one thread at a time: see ledger_tools.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from fastapi_overflow._connections.ledger import Ledger
from ledger_tools import World, check_empty, opened
from pool_tools import in_thread


@pytest.fixture
def world():
    world = World(1)
    yield world
    world.close()


def is_free(book):
    """Tell whether another thread can have the book."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(book.lock.acquire, blocking=False).result() and not book.is_open


class TestReturns:
    def test_at_the_book(self, world):
        """One that comes back while this thread has the book is entered when it has left it."""
        (ledger,) = world.ledgers
        request = world.request()
        request.take(ledger)
        with opened(world.book):
            request.give_back()
            assert ledger.stock.held == 1
        world.book.settle()
        assert ledger.stock.held == 0

    def test_taken_at_the_book(self, world):
        """What is taken while this thread has the book is had at once, and counted afterwards."""
        (ledger,) = world.ledgers
        request = world.request()

        def take_in_the_middle():
            with opened(world.book):
                taken = request.take(ledger)
                before = ledger.stock.held
            world.book.settle()
            return taken, before, ledger.stock.held

        assert in_thread(take_in_the_middle) == (True, 0, 1)
        request.give_back()
        check_empty(ledger)

    def test_taken_and_given_back_at_the_book(self, world):
        """What is taken and given back while this thread has the book is not counted for ever."""
        (ledger,) = world.ledgers
        request = world.request()

        def take_in_the_middle():
            with opened(world.book):
                request.take(ledger)
                request.give_back()
            world.book.settle()

        in_thread(take_in_the_middle)
        check_empty(ledger)

    def test_end_at_the_book(self, world):
        """A request that ends while this thread has the book has nothing set aside afterwards."""
        (ledger,) = world.ledgers
        request = world.request()
        assert request.enter(ledger, 1)
        waiting = world.request()
        assert not waiting.enter(ledger, 1)

        def end_in_the_middle():
            with opened(world.book):
                waiting.leave()
                request.end()
            world.book.settle()

        in_thread(end_in_the_middle)
        world.let_promises_end()
        check_empty(ledger)

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
        assert is_free(world.book)
