"""What goes wrong with connections: the ledger is right after it, and where in doubt the pool is.

Each fault is brought about with a pool of three, in threads that must end; afterwards all three can
be taken, and not a fourth.
"""

from __future__ import annotations

import gc
import sqlite3
import threading
import weakref

import pytest
import starlette.applications  # noqa: F401 - arms the patch, before SQLAlchemy is imported
from sqlalchemy import create_engine, event, exc, text
from sqlalchemy.pool import QueuePool

from fastapi_overflow._connections.route_habits import MOST_POOLS
from pool_tools import PATIENCE, check, engine, held, in_thread, on_loop, other_lock, raw


class Broken(Exception):
    """What a database raises in these tests."""


def connect_sqlite():
    return sqlite3.connect(":memory:", check_same_thread=False)


def engine_of(creator, **options):
    options = {"pool_size": 2, "max_overflow": 1, "pool_timeout": 600, **options}
    return create_engine("sqlite://", creator=creator, poolclass=QueuePool, **options)


def waits(made, number: int = 1) -> None:
    """Return once so many threads wait in our queue or in the pool's."""
    ledger = made.pool.__dict__["_fastapi_overflow_ledger"]
    done = threading.Event()
    for _ in range(PATIENCE * 500):
        if len(ledger.queues.all()) >= number:
            return
        done.wait(0.002)
    raise AssertionError("nobody waits")


class TestCreator:
    def test_fails(self):
        """A creator that fails leaves nothing behind, and its error is the app's."""
        broken = True

        def create():
            if broken:
                raise Broken
            return connect_sqlite()

        made = engine_of(create)
        for _ in range(5):
            with pytest.raises(Broken):
                in_thread(made.connect)
        broken = False
        check(made)

    def test_fails_while_others_wait(self):
        """Who waits behind a creator that fails gets the next turn."""
        go_on, at_it = threading.Event(), threading.Semaphore(0)
        calls = []

        def create():
            calls.append(1)
            at_it.release()
            if len(calls) == 1:
                assert go_on.wait(PATIENCE)
                raise Broken
            return connect_sqlite()

        made = engine_of(create, pool_size=1, max_overflow=0)
        got = []

        def first():
            with pytest.raises(Broken):
                made.connect()

        def second():
            with made.connect():
                got.append(1)

        threads = [threading.Thread(target=first, daemon=True)]
        threads[0].start()
        assert at_it.acquire(timeout=PATIENCE)
        threads.append(threading.Thread(target=second, daemon=True))
        threads[1].start()
        waits(made)
        go_on.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert got == [1]
        check(made)

    def test_hangs(self):
        """While a creator hangs, others take what is left, and go on as its connection comes."""
        go_on, hangs = threading.Event(), threading.Event()
        calls = []

        def create():
            calls.append(1)
            if len(calls) == 1:
                hangs.set()
                assert go_on.wait(PATIENCE)
            return connect_sqlite()

        made = engine_of(create)
        thread = threading.Thread(target=lambda: made.connect().close(), daemon=True)
        thread.start()
        assert hangs.wait(PATIENCE)

        def two():
            with made.connect(), made.connect():
                return held(made)

        assert in_thread(two) == (3, 2)
        go_on.set()
        thread.join(PATIENCE)
        check(made)

    def test_interrupted(self):
        """KeyboardInterrupt in the middle of a checkout leaves nothing behind."""
        calls = []

        def create():
            calls.append(1)
            if len(calls) == 1:
                raise KeyboardInterrupt
            return connect_sqlite()

        made = engine_of(create)
        with pytest.raises(KeyboardInterrupt):
            made.connect()
        check(made)


class TestEnds:
    @pytest.mark.parametrize("soft", [False, True])
    def test_invalidate(self, soft):
        """A connection that is invalidated is back."""
        made = engine()
        for _ in range(4):
            connection = made.raw_connection()
            connection.invalidate(soft=soft)
            connection.close()
        check(made)

    def test_invalidate_and_go_on(self):
        """A Connection that is invalidated takes another one when it is used again."""
        made = engine()
        with made.connect() as connection:
            connection.invalidate()
            assert held(made) == (0, 0)
            connection.execute(text("select 1"))
            assert held(made) == (1, 1)
        check(made)

    def test_detach(self):
        """A connection that is detached doesn't count from then on, nor when it is closed."""
        made = engine()
        detached = []
        for _ in range(4):
            connection = made.raw_connection()
            connection.detach()
            detached.append(connection)
        assert held(made) == (0, 0)
        for connection in detached:
            connection.close()
        check(made)

    def test_detach_beside_a_checkout(self):
        """Who takes a place before the one who has detached is done with it keeps what is its."""
        made = engine(1, 0)
        taken = []
        event.listen(made, "detach", lambda *_: taken.append(made.raw_connection()), insert=True)
        connection = made.raw_connection()
        in_thread(connection.detach)
        assert held(made) == (1, 1)
        taken.pop().close()
        connection.close()
        assert held(made) == (0, 0)

    def test_forgotten(self):
        """A connection that nobody refers to any longer is back."""
        made = engine()
        connection = made.raw_connection()
        assert held(made) == (1, 1)
        del connection
        gc.collect()
        check(made)

    def test_by_another_thread(self):
        """A connection that another thread gives back is back for the one that has taken it."""
        made = engine()
        connection = in_thread(made.connect)
        assert held(made) == (1, 1)
        in_thread(connection.close)
        check(made)

    def test_closed_twice(self):
        """A connection that is closed twice is back once."""
        made = engine()
        with made.connect():
            connection = made.raw_connection()
            connection.close()
            connection.close()
            assert held(made) == (1, 1)
        check(made)

    def test_reset_fails(self):
        """A connection whose rollback fails on its return is back."""
        made = engine()

        def fail(*_):
            raise Broken

        event.listen(made, "reset", fail)
        connection = made.raw_connection()
        try:
            connection.close()
        except Broken:
            pass
        event.remove(made, "reset", fail)
        check(made)

    def test_listener_of_the_return_fails(self):
        """A connection whose return a listener of the app's breaks off counts as the pool says."""
        made = engine()

        def fail(*_):
            raise Broken

        event.listen(made, "checkin", fail, insert=True)
        with pytest.raises(Broken):
            made.raw_connection().close()
        event.remove(made, "checkin", fail)
        ledger_and_pool = held(made)[0] - made.pool.checkedout()
        assert ledger_and_pool == 0


class TestDispose:
    def test_with_connections_out(self):
        """After dispose() with all out, three more can be taken; the old ones may come back."""
        made = engine()
        old = [made.connect() for _ in range(3)]
        made.dispose()
        check(made)
        for connection in old:
            connection.close()
        check(made)

    def test_pool_disposed_of_in_place(self):
        """Where the pool itself says that none is out, it is believed: in a thread."""
        made = engine()
        old = [made.connect() for _ in range(3)]
        made.pool.dispose()
        in_thread(lambda: made.connect().close())
        for connection in old:
            connection.close()

    def test_pool_disposed_of_in_place_on_the_loop(self):
        """So it is on the loop, where nobody waits for long."""
        made = engine()

        def dispose_of_all_and_take():
            old = [made.connect() for _ in range(3)]
            made.pool.dispose()
            made.connect().close()
            for connection in old:
                connection.close()

        on_loop(dispose_of_all_and_take)

    def test_recreate(self):
        """A pool made anew by recreate() has books of its own."""
        made = engine()
        with made.connect():
            other = made.pool.recreate()
            made.pool, old = other, made.pool
            check(made)
            made.pool = old
            assert held(made) == (1, 1)
        check(made)

    def test_while_others_wait(self):
        """Who waits for a connection of a pool that is disposed of gets one that comes back."""
        made = engine(1, 0)
        old = made.connect()
        got = []
        thread = threading.Thread(
            target=lambda: (got.append(made.connect()), got[0].close()), daemon=True
        )
        thread.start()
        waits(made)
        made.dispose()
        old.close()
        thread.join(PATIENCE)
        assert got
        check(made)


class TestDeadConnections:
    @pytest.mark.parametrize("place", [in_thread, on_loop])
    def test_pre_ping(self, place):
        """A connection that turns out dead before it is handed out is replaced, and counts once."""
        made = engine(pool_pre_ping=True)
        for _ in range(3):
            connection = made.raw_connection()
            raw(connection).close()
            connection.close()

            def use():
                with made.connect() as again:
                    return again.execute(text("select 1")).scalar(), held(made)

            assert place(use) == (1, (1, 1))
        check(made)

    def test_pre_ping_of_a_database_that_is_gone(self):
        """Where no connection can be had in its place, the error is the app's, and none is out."""
        gone = False

        def create():
            if gone:
                raise Broken
            return connect_sqlite()

        made = engine_of(create, pool_pre_ping=True)
        connection = made.raw_connection()
        raw(connection).close()
        connection.close()
        gone = True
        for _ in range(4):
            with pytest.raises(Broken):
                in_thread(made.connect)
        gone = False
        check(made)

    def test_recycle(self):
        """A connection that is too old is replaced at its checkout, and counts once."""
        made = engine(pool_recycle=0)
        for _ in range(3):
            with made.connect():
                assert held(made) == (1, 1)
        check(made)

    def test_disconnect_in_a_query(self):
        """A connection that breaks in the middle of a query is back once it is closed."""
        made = engine()
        with made.connect() as connection:
            raw(connection.connection).close()
            with pytest.raises(exc.DBAPIError):
                connection.execute(text("select 1"))
        check(made)


class TestReturn:
    def test_taken_by_another_at_once(self):
        """A connection that another thread takes the moment it is back is that thread's."""
        made = engine()
        made.connect().close()
        put, taken = made.pool._pool.put, []

        def put_and_take(*args):
            put(*args)
            if not taken:
                taken.append(in_thread(made.connect))

        made.pool._pool.put = put_and_take
        made.connect().close()
        assert held(made) == (1, 1)
        taken[0].close()
        check(made)

    def test_detached_by_a_listener(self):
        """A connection that a listener detaches at its checkout leaves nothing in the books."""
        made = engine()

        def detach(_connection, _record, proxy):
            proxy.detach()

        event.listen(made, "checkout", detach)
        for _ in range(3):
            made.raw_connection().close()
        event.remove(made, "checkout", detach)
        check(made)


class InterruptedLock:
    """Raises KeyboardInterrupt right after it was got or given back so many times."""

    def __init__(self, lock, left):
        self.lock = lock
        self.left = left

    def count(self):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt

    def acquire(self, *args, **kwargs):
        got = self.lock.acquire(*args, **kwargs)
        self.count()
        return got

    def release(self):
        self.lock.release()
        self.count()

    def _is_owned(self):
        return self.lock._is_owned()

    def __enter__(self):
        return self.lock.__enter__()

    def __exit__(self, *exc_info):
        self.lock.release()


class TestInterruption:
    @pytest.mark.parametrize("after", [1, 2], ids=["got", "given back"])
    def test_of_a_checkout(self, after):
        """KeyboardInterrupt at the lock of the books leaves the lock free, and nothing taken."""
        made = engine()
        made.connect().close()
        with (
            other_lock(made, lambda lock: InterruptedLock(lock, after)),
            pytest.raises(KeyboardInterrupt),
        ):
            made.connect()
        in_thread(lambda: made.connect().close())
        check(made)

    @pytest.mark.parametrize("after", [3, 4], ids=["got", "given back"])
    def test_of_a_return(self, after):
        """KeyboardInterrupt there leaves the lock free, and the connection is back."""
        made = engine()
        made.connect().close()
        with other_lock(made, lambda lock: InterruptedLock(lock, after)):
            connection = made.raw_connection()
            with pytest.raises(KeyboardInterrupt):
                connection.close()
        in_thread(lambda: made.connect().close())
        check(made)


class TestGarbage:
    @pytest.mark.parametrize("times", [1, 2, 3])
    def test_collector_in_the_middle(self, times):
        """A connection that the collector gives back while the books are open is entered then.

        The collector may run at any line, so it does here just after the lock has been taken: for a
        checkout, for its return, for the next checkout.
        """
        made = engine()
        forgotten = [made.raw_connection()]

        class CollectingLock:
            def __init__(self, lock):
                self.lock = lock
                self.left = times

            def acquire(self, *args, **kwargs):
                got = self.lock.acquire(*args, **kwargs)
                if got:
                    self.left -= 1
                    if not self.left:
                        forgotten.clear()
                        gc.collect()
                return got

            def release(self):
                self.lock.release()

            def __enter__(self):
                return self.acquire()

            def __exit__(self, *exc_info):
                self.release()

        with other_lock(made, CollectingLock):
            in_thread(lambda: [made.connect().close() for _ in range(2)])
        assert not forgotten
        check(made)

    @pytest.mark.parametrize("kept", [True, False])
    def test_taken_in_the_middle(self, kept):
        """What a `__del__` or the handler of a signal takes while the books are open is counted.

        They may run at any line, so here it is where a ledger enters for whom a connection is.
        """
        made = engine()
        made.connect().close()
        ledger = made.pool.__dict__["_fastapi_overflow_ledger"]
        taken = []

        class Stakes(dict):
            def __setitem__(self, account, value):
                super().__setitem__(account, value)
                if not taken:
                    taken.append(None)
                    taken[0] = made.connect()
                    if not kept:
                        taken[0].close()

        ledger.stock.stakes = Stakes()
        in_thread(lambda: made.connect().close())
        if kept:
            assert held(made) == (1, 1)
            taken[0].close()
        check(made)

    def test_engine(self):
        """An engine that is dropped takes its pool and its ledger along."""
        made = engine()
        in_thread(made.connect).close()
        pool = weakref.ref(made.pool)
        ledger = weakref.ref(made.pool.__dict__["_fastapi_overflow_ledger"])
        made.dispose()
        del made
        gc.collect()
        assert pool() is None
        assert ledger() is None

    def test_engines_of_a_thread_that_goes_on(self):
        """A thread that lives on, and makes an engine for each job, keeps but a few ledgers."""
        ledgers = []
        for _ in range(3 * MOST_POOLS):
            made = engine()
            made.connect().close()
            ledgers.append(weakref.ref(made.pool.__dict__["_fastapi_overflow_ledger"]))
            made.dispose()
        del made
        gc.collect()
        assert sum(ledger() is not None for ledger in ledgers) <= MOST_POOLS

    def test_connection_outlives_its_engine(self):
        """A connection whose engine is gone is closed as ever."""
        made = engine()
        connection = made.connect()
        del made
        gc.collect()
        assert connection.execute(text("select 1")).scalar() == 1
        connection.close()

    def test_thread_that_ends_with_a_connection(self):
        """What a thread has that has ended is out until somebody gives it back."""
        made = engine()
        kept = in_thread(made.connect)
        gc.collect()
        assert held(made) == (1, 1)
        kept.close()
        check(made)
