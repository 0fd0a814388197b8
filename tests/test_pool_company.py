"""One pool in company: of requests, event loops, threads, processes and other pools."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextvars import copy_context
from functools import partial
from textwrap import dedent

import pytest
import starlette.applications  # noqa: F401 - arms the patch, before SQLAlchemy is imported
from sqlalchemy import exc, text
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from child_tools import call, run_child
from pool_tools import PATIENCE, capacity, check, engine, held, in_thread


@pytest.fixture
def nobody_held_back():
    """Here they are: it is what these tests are about."""


def run(main):
    """Run a coroutine function on a loop in a thread that must end."""
    return in_thread(lambda: asyncio.run(main()))


def app_of(endpoint) -> Starlette:
    async def answer(request):
        await endpoint()
        return PlainTextResponse("fine")

    return Starlette(routes=[Route("/", answer)])


def query(made) -> None:
    with made.connect() as connection:
        connection.execute(text("select 1"))


def all_at_once(functions) -> None:
    """Run functions in a thread each, begun together; all must end and none fail."""
    barrier = threading.Barrier(len(functions))
    errors = []

    def run_one(function):
        try:
            barrier.wait(PATIENCE)
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run_one, args=[f], daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not [thread for thread in threads if thread.is_alive()]
    assert not errors, errors


class TestThreads:
    def test_many_without_a_loop(self):
        """Threads outside of any request share a pool, and all get their turn."""
        made = engine()
        all_at_once([lambda: [query(made) for _ in range(20)]] * 20)
        check(made)

    def test_several_loops(self):
        """So do hops of requests on several event loops, and threads without one."""
        made = engine()

        async def endpoint():
            await run_in_threadpool(query, made)

        def serve():
            app = app_of(endpoint)

            async def main():
                answers = await asyncio.gather(*(call(app, "/") for _ in range(30)))
                assert answers == [[200]] * 30

            asyncio.run(main())

        all_at_once([serve, serve, serve, lambda: [query(made) for _ in range(20)]])
        check(made)

    def test_on_several_loops(self):
        """So do requests that query on the loop, on several at once."""
        made = engine()

        async def endpoint():
            connection = made.connect()
            try:
                await asyncio.sleep(0)
                connection.execute(text("select 1"))
            finally:
                connection.close()

        def serve():
            app = app_of(endpoint)

            async def main():
                answers = await asyncio.gather(*(call(app, "/") for _ in range(30)))
                assert answers == [[200]] * 30

            asyncio.run(main())

        all_at_once([serve, serve])
        check(made)

    def test_loop_after_loop(self):
        """What one loop's requests did is no burden to the next loop."""
        made = engine()

        async def endpoint():
            connection = made.connect()
            await asyncio.sleep(0)
            connection.close()

        app = app_of(endpoint)

        async def main():
            return await asyncio.gather(*(call(app, "/") for _ in range(20)))

        for _ in range(3):
            assert run(main) == [[200]] * 20
        check(made)


class TestOnTheLoop:
    """A checkout on the loop waits, as in stock, for what a thread is about to give back."""

    @staticmethod
    def take_beside(work):
        """Take one on the loop while work of another task has it in a thread."""
        made = engine(1, 0)
        begun = threading.Event()

        def keep():
            with made.connect():
                begun.set()
                time.sleep(0.3)

        async def main():
            task = asyncio.create_task(work(keep))
            while not begun.is_set():  # noqa: ASYNC110 - of another thread
                await asyncio.sleep(0.001)
            made.connect().close()
            await task

        run(main)
        check(made)

    def test_hop_outside_of_any_request(self):
        """Of a task of the app's own, as one that its lifespan has begun."""
        self.take_beside(run_in_threadpool)

    @pytest.mark.parametrize("how", ["to_thread", "run", "handed on"])
    def test_executor(self, how):
        """Of a request's own, in its context."""

        def call_it(function, argument):
            function(argument)

        async def in_executor(keep):
            if how == "to_thread":
                await asyncio.to_thread(keep)
                return
            run_in_context = copy_context().run
            function = partial(call_it, run_in_context) if how == "handed on" else run_in_context
            await asyncio.get_running_loop().run_in_executor(None, function, keep)

        async def work(keep):
            await call(app_of(lambda: in_executor(keep)), "/")

        self.take_beside(work)


BOTH_ORDERS = """
import json, sys, threading
import starlette.applications
from pool_tools import PATIENCE, engine
timeout = float(sys.argv[1])
primary, replica = engine(2, 0, pool_timeout=timeout), engine(2, 0, pool_timeout=timeout)
lost, barrier = [], threading.Barrier(20)
def take(first, second):
    barrier.wait(PATIENCE)
    for _ in range(10):
        try:
            with first.connect():
                both.wait(0.01)
                with second.connect():
                    pass
        except Exception as exc:
            lost.append(repr(exc))
both = threading.Event()
orders = [(primary, replica), (replica, primary)] * 10
threads = [threading.Thread(target=take, args=order, daemon=True) for order in orders]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(3 * PATIENCE)
assert not any(thread.is_alive() for thread in threads), "hangs"
print(json.dumps([len(lost), *sorted(set(lost))[:2]]))
"""


class TestTwoPools:
    def test_both_orders_freeze_without(self):
        """Threads that take a primary's and a replica's in both orders time out without us."""
        lost, *_ = run_child(BOTH_ORDERS, "0.5", env={"FASTAPI_OVERFLOW_CONNECTIONS": "0"})
        assert lost

    def test_both_orders(self):
        """With us all come to their end: none waits for the pool's timeout of ten minutes."""
        lost, *errors = run_child(BOTH_ORDERS, "600")
        # Who was the last to wait in a circle has failed at once, where one came about at all.
        assert all(error.startswith("TimeoutError") for error in errors), errors
        assert lost < 200


BOTH_ROUTES = """
import json, sys, time
import anyio, fastapi, sqlalchemy
from child_tools import call
from pool_tools import engine
timeout = float(sys.argv[1])
primary, replica = engine(2, 0, pool_timeout=timeout), engine(2, 0, pool_timeout=timeout)
select = sqlalchemy.text("select 1")
app = fastapi.FastAPI()
@app.get("/primary")
def primary_first():
    with primary.connect() as one:
        one.execute(select)
        time.sleep(0.01)
        with replica.connect() as two:
            two.execute(select)
@app.get("/replica")
def replica_first():
    with replica.connect() as one:
        one.execute(select)
        time.sleep(0.01)
        with primary.connect() as two:
            two.execute(select)
lost = []
async def one(path):
    try:
        assert await call(app, path) == [200]
    except Exception as exc:
        lost.append(repr(exc))
async def main():
    for _ in range(5):
        async with anyio.create_task_group() as group:
            for n in range(40):
                group.start_soon(one, ["/primary", "/replica"][n % 2])
anyio.run(main)
print(json.dumps([len(lost), *sorted(set(lost))[:2]]))
"""


class TestTwoRoutes:
    def test_both_orders_freeze_without(self):
        """Requests that take a primary's and a replica's in both orders time out without us."""
        lost, *_ = run_child(BOTH_ROUTES, "0.5", env={"FASTAPI_OVERFLOW_CONNECTIONS": "0"})
        assert lost

    def test_both_orders(self):
        """With us, none waits for the timeout of ten minutes: who closes a circle fails at once."""
        lost, *errors = run_child(BOTH_ROUTES, "600")
        assert all(error.startswith("TimeoutError") for error in errors), errors
        assert lost <= 100


FORKED = """
import json, os
import starlette.applications
from child_tools import in_fork
from pool_tools import capacity, check, engine, held, in_thread
made = engine(2, 0, pool_timeout=0.3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
class TestFork:
    def child(self, code: str):
        return run_child(FORKED + dedent(code), env={"PYTHONWARNINGS": "ignore"})

    def test_preload(self):
        """An engine used and disposed of before a fork is whole in the child, as with --preload."""
        code = """
        with made.connect():
            pass
        made.dispose()
        def work():
            check(made)
            return held(made)
        print(json.dumps([in_fork(work), held(made)]))
        """
        assert self.child(code) == [[0, 0], [0, 0]]

    def test_own_view(self):
        """With all of the parent's out, a child that makes the pool anew has all of its own."""
        code = """
        taken = [made.connect(), made.connect()]
        def work():
            made.pool = made.pool.recreate()  # dispose(close=False), since 1.4.33
            check(made)
            return held(made)
        print(json.dumps([in_fork(work), held(made)]))
        """
        assert self.child(code) == [[0, 0], [2, 1]]

    def test_without_dispose(self):
        """A child that goes on with the parent's pool is told by it what is out, as in stock."""
        code = """
        taken = made.connect()
        def work():
            import sqlalchemy
            with made.connect():
                try:
                    made.connect()
                except sqlalchemy.exc.TimeoutError:
                    pass
                else:
                    return "one more than there are"
            taken.close()
            with made.connect(), made.connect():
                return "two"
        print(json.dumps([in_fork(work), held(made)]))
        """
        assert self.child(code) == ["two", [1, 1]]

    def test_in_the_middle_of_a_checkout(self):
        """A fork while other threads have the books and wait leaves the child free of them."""
        code = """
        import threading
        taken = [made.connect(), made.connect()]
        made.pool._timeout = 600
        thread = threading.Thread(target=lambda: made.connect().close(), daemon=True)
        thread.start()
        ledger = made.pool.__dict__["_fastapi_overflow_ledger"]
        while not ledger.queues.first:
            pass
        have, go_on = threading.Event(), threading.Event()
        def keep():
            with ledger.book.lock:
                have.set()
                go_on.wait(20)
        keeper = threading.Thread(target=keep, daemon=True)
        keeper.start()
        have.wait(20)
        def work():
            made.pool = made.pool.recreate()  # dispose(close=False), since 1.4.33
            made.pool._timeout = 0.3
            check(made)
            return held(made)
        pipe = in_fork(work)
        go_on.set()
        for each in taken:
            each.close()
        thread.join(20)
        print(json.dumps([pipe, held(made), thread.is_alive()]))
        """
        assert self.child(code) == [[0, 0], [0, 0], False]

    def test_with_a_lock_of_ours_held(self):
        """A request of the child's is answered, whatever the parent's threads were at."""
        code = """
        import anyio, threading
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        from child_tools import call
        from fastapi_overflow._requests import connections
        app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("fine"))])
        kind = type(threading.Lock())
        locks = [each for each in vars(connections).values() if type(each) is kind]
        for lock in locks:
            lock.acquire()
        def work():
            import signal
            signal.alarm(20)
            return anyio.run(call, app, "/")
        import sys
        done = in_fork(work) if locks else [200]
        print(json.dumps(done))
        """
        assert self.child(code) == [200]


class TestRequests:
    def test_ends_with_its_connection_out(self):
        """A request may end with its connection out: it counts until it comes back."""
        made, kept = engine(), []

        async def endpoint():
            kept.append(await run_in_threadpool(made.connect))

        async def main():
            return await call(app_of(endpoint), "/")

        assert run(main) == [200]
        assert held(made) == (1, 1)
        kept.pop().close()
        check(made)

    def test_forgets_it(self):
        """One that forgets its connection gives it back with its last reference."""
        import gc

        made = engine()

        async def endpoint():
            await run_in_threadpool(made.connect)

        async def main():
            return await call(app_of(endpoint), "/")

        assert run(main) == [200]
        gc.collect()
        check(made)

    def test_fails(self):
        """One that fails with a connection in a `with` leaves nothing behind."""
        made = engine()

        def fail():
            with made.connect():
                raise KeyError

        async def endpoint():
            await run_in_threadpool(fail)

        async def main():
            with pytest.raises(KeyError):
                await call(app_of(endpoint), "/")

        for _ in range(4):
            run(main)
        check(made)

    def test_request_alive_no_longer(self):
        """What is kept of a request that has ended with its connection out isn't the request."""
        import gc
        import weakref

        made, kept, seen = engine(), [], []

        class Big:
            pass

        async def endpoint():
            big = Big()
            seen.append(weakref.ref(big))
            kept.append(made.connect())
            await asyncio.sleep(0)
            del big

        async def main():
            return await call(app_of(endpoint), "/")

        assert run(main) == [200]
        gc.collect()
        assert seen[0]() is None
        kept.pop().close()


class TestCancellation:
    @pytest.mark.parametrize("turns", range(12))
    def test_at_every_point(self, turns):
        """A request that is cancelled after any number of the loop's turns leaves nothing behind.

        Others hold all connections or wait to be let in meanwhile, and are answered all the same.
        """
        made = engine()

        async def endpoint():
            connection = made.connect()
            try:
                await asyncio.sleep(0)
                connection.execute(text("select 1"))
                # Not the query: a task that is cancelled goes on before its thread has ended, and
                # SQLite crashes where a connection is closed in the middle of a query.
                await run_in_threadpool(int)
                await asyncio.sleep(0)
            finally:
                connection.close()

        app = app_of(endpoint)

        async def main():
            await call(app, "/")  # so that it is known what the route does
            requests = [asyncio.ensure_future(call(app, "/")) for _ in range(12)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for request in requests[::2]:
                request.cancel()
            results = await asyncio.gather(*requests, return_exceptions=True)
            assert results[1::2] == [[200]] * 6
            assert all(r == [200] or isinstance(r, asyncio.CancelledError) for r in results[::2])

        run(main)
        check(made)

    def test_while_it_waits_to_be_let_in(self):
        """One that is cancelled before it begins leaves its place to the next."""
        made = engine(1, 0)
        door = None

        async def endpoint():
            with made.connect():
                await door.wait()

        app = app_of(endpoint)

        async def main():
            nonlocal door
            door = asyncio.Event()
            door.set()
            await call(app, "/")
            door.clear()
            requests = [asyncio.ensure_future(call(app, "/")) for _ in range(4)]
            ledger = made.pool.__dict__["_fastapi_overflow_ledger"]
            for _ in range(PATIENCE * 100):
                if len(ledger.entries.waiting) == 3:
                    break
                await asyncio.sleep(0.01)
            assert len(ledger.entries.waiting) == 3
            requests[1].cancel()
            requests[2].cancel()
            door.set()
            results = await asyncio.gather(*requests, return_exceptions=True)
            assert (results[0], results[3]) == ([200], [200])

        run(main)
        check(made)


class TestTimeouts:
    def test_own_timeout_in_a_thread(self):
        """A checkout that waits in vain ends with the pool's error and leaves nothing behind."""
        made = engine(pool_timeout=0.3)
        taken = [made.connect() for _ in range(capacity(made))]
        with pytest.raises(exc.TimeoutError):
            in_thread(made.connect)
        for connection in taken:
            connection.close()
        made.pool._timeout = 600
        check(made)
