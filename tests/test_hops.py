"""Hops: what a function that runs in a worker thread, and who awaits it, may rely on.

Every claim is made of Starlette's functions as patched, of the package's own, and of Starlette's
originals: where these differ the package has changed a promise that isn't its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from functools import partial

import anyio
import pytest
import starlette.concurrency
from anyio import to_thread
from anyio._core._eventloop import get_async_backend
from anyio.lowlevel import checkpoint

import fastapi_overflow
from limiter_tools import as_request
from observed import Gate, until
from support import PATIENCE

fastapi_overflow.patch()  # for installations without the hook

pytestmark = pytest.mark.anyio

variable = contextvars.ContextVar("variable", default="nobody's")


@pytest.fixture(params=["patched", "own", "stock"])
def run_in_threadpool(request):
    """The function in each of its three kinds."""
    patched = starlette.concurrency.run_in_threadpool
    return {
        "patched": patched,
        "own": fastapi_overflow.run_in_threadpool,
        "stock": patched.__wrapped__,
    }[request.param]


@pytest.fixture(params=["patched", "own", "stock"])
def iterate_in_threadpool(request):
    patched = starlette.concurrency.iterate_in_threadpool
    return {
        "patched": patched,
        "own": fastapi_overflow.iterate_in_threadpool,
        "stock": patched.__wrapped__,
    }[request.param]


def limiter():
    return to_thread.current_default_thread_limiter()


class TestRunInThreadpool:
    async def test_runs_in_another_thread(self, run_in_threadpool):
        """The function runs, but not in the event loop's thread."""
        assert await run_in_threadpool(threading.get_ident) != threading.get_ident()

    async def test_passes_arguments(self, run_in_threadpool):
        """Positional and keyword arguments reach the function as given."""
        result = await run_in_threadpool(
            lambda *args, **kwargs: (args, kwargs), 1, "b", c=3, limiter=4
        )
        assert result == ((1, "b"), {"c": 3, "limiter": 4})

    async def test_function_by_keyword(self, run_in_threadpool):
        """The function itself may be given as `func=`."""
        assert await run_in_threadpool(func=lambda: 7) == 7

    async def test_no_function(self, run_in_threadpool):
        """Without a function the error is that of any call with an argument missing."""
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'func'"):
            await run_in_threadpool()

    async def test_sees_context_variables(self, run_in_threadpool):
        """The function sees the context variables of its caller."""
        reset = variable.set("the caller's")
        try:
            assert await run_in_threadpool(variable.get) == "the caller's"
        finally:
            variable.reset(reset)

    async def test_sets_context_variables_for_itself(self, run_in_threadpool):
        """What the function sets in its context stays there."""
        await run_in_threadpool(variable.set, "the function's")
        assert variable.get() == "nobody's"

    async def test_raises_what_the_function_raises(self, run_in_threadpool):
        """An exception comes out as the very object, BaseExceptions too."""
        for exc in (ValueError("no"), type("Grave", (BaseException,), {})()):

            def fail(exc=exc):
                raise exc

            with pytest.raises(type(exc)) as caught:
                await run_in_threadpool(fail)
            assert caught.value is exc

    async def test_stop_iteration(self, run_in_threadpool):
        """A StopIteration, which a coroutine can't raise, comes out as RuntimeError."""
        with pytest.raises(RuntimeError, match="StopIteration"):
            await run_in_threadpool(next, iter(()))

    async def test_holds_one_token_while_it_runs(self, run_in_threadpool):
        """While the function runs one token is out; when it has ended none is."""
        gate = Gate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_in_threadpool, gate)
            await gate.until_entered()
            assert limiter().borrowed_tokens == 1
            gate.open()
        assert limiter().borrowed_tokens == 0

    async def test_gives_its_token_back_after_an_error(self, run_in_threadpool):
        """A function that raises has given its token back."""
        with pytest.raises(ZeroDivisionError):
            await run_in_threadpool(lambda: 1 / 0)
        assert limiter().borrowed_tokens == 0

    async def test_cancelled_while_waiting_never_runs(self, run_in_threadpool):
        """A hop that is cancelled while it waits for a thread leaves the queue and doesn't run."""
        limiter().total_tokens = 1
        gate, ran = Gate(), []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_in_threadpool, gate)
            await gate.until_entered()
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(run_in_threadpool, ran.append, "ran")
                await until(lambda: limiter().statistics().tasks_waiting, "a hop that waits")
                waiting.cancel_scope.cancel()
            assert limiter().statistics().tasks_waiting == 0
            gate.open()
        assert ran == []

    async def test_cancelled_as_it_gets_its_thread(self, anyio_backend_name):
        """A hop that is cancelled when it has a thread and hasn't begun gives it to who waits."""
        if anyio_backend_name == "trio":
            pytest.skip("there is no turn in between")
        limiter().total_tokens = 1
        gate, ran, held = Gate(), [], []
        loop = asyncio.get_running_loop()

        def cancel(scope):
            held.append(limiter().borrowed_tokens)
            scope.cancel()

        async def request():
            await to_thread.run_sync(gate)
            with anyio.CancelScope() as scope:
                # The first turn is anyio's, before it asks for a thread; the next is this one.
                loop.call_soon(loop.call_soon, cancel, scope)
                await to_thread.run_sync(ran.append, "cancelled")

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(as_request, limiter(), request)
                await gate.until_entered()
                tasks.start_soon(as_request, limiter(), to_thread.run_sync, ran.append, "waiting")
                await until(lambda: limiter().statistics().tasks_waiting, "a hop that waits")
                gate.open()
        assert held == [1]
        assert ran == ["waiting"]
        assert limiter().borrowed_tokens == 0

    async def test_cancelled_while_running_is_awaited(self, run_in_threadpool):
        """A function that runs when its caller is cancelled is awaited to its end."""
        gate, ended = Gate(), []

        def work():
            gate()
            ended.append(True)

        async def cancel_then_open(scope):
            await gate.until_entered()
            scope.cancel()
            gate.open()

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(cancel_then_open, scope)
                await run_in_threadpool(work)
                await checkpoint()  # where the cancellation is delivered at the latest
                pytest.fail("not cancelled")
            assert ended == [True]
        assert limiter().borrowed_tokens == 0

    async def test_cancelled_before_it_begins(self, run_in_threadpool):
        """In a scope already cancelled nothing runs."""
        ran = []
        with anyio.CancelScope() as scope:
            scope.cancel()
            await run_in_threadpool(ran.append, "ran")
        assert ran == []

    async def test_calls_back_into_the_loop(self, run_in_threadpool):
        """The function may run code in the event loop with anyio.from_thread."""
        assert await run_in_threadpool(anyio.from_thread.run, anyio.sleep, 0) is None


class TestIterateInThreadpool:
    async def test_yields_each_item(self, iterate_in_threadpool):
        """Iterators and other iterables come out item by item, None among them."""
        for items in ([1, None, 3], "abc", []):
            assert [item async for item in iterate_in_threadpool(items)] == list(items)
            assert [item async for item in iterate_in_threadpool(iter(items))] == list(items)

    async def test_runs_in_another_thread(self, iterate_in_threadpool):
        """The items are made in worker threads."""
        threads = (threading.get_ident() for _ in range(3))
        assert threading.get_ident() not in [item async for item in iterate_in_threadpool(threads)]

    async def test_holds_no_token_between_items(self, iterate_in_threadpool):
        """A token is out while an item is made, and none while the consumer has it."""
        made, ours = [], limiter()

        def items():
            for number in range(3):
                made.append(ours.borrowed_tokens)
                yield number

        async for _ in iterate_in_threadpool(items()):
            assert limiter().borrowed_tokens == 0
        assert made == [1, 1, 1]

    async def test_more_streams_than_threads(self, iterate_in_threadpool):
        """Streams that are all open at once, more than there are threads, all move on."""
        limiter().total_tokens = 2
        with anyio.fail_after(PATIENCE):
            streams = [iterate_in_threadpool(iter(range(2))) for _ in range(7)]
            for number in range(2):
                assert [await anext(stream) for stream in streams] == [number] * 7
            for stream in streams:
                await stream.aclose()

    async def test_raises_what_the_iterator_raises(self, iterate_in_threadpool):
        """An exception in the middle comes out as the very object, after the items before it."""
        error, found = ValueError("no"), []

        def items():
            yield 1
            raise error

        stream = iterate_in_threadpool(items())
        found.append(await anext(stream))
        with pytest.raises(ValueError, match="no") as caught:
            await anext(stream)
        assert (caught.value, found) == (error, [1])

    async def test_sees_context_variables(self, iterate_in_threadpool):
        """The iterator sees the context variables of its consumer."""
        reset = variable.set("the consumer's")
        try:
            items = (variable.get() for _ in range(2))
            found = [item async for item in iterate_in_threadpool(items)]
            assert found == ["the consumer's"] * 2
        finally:
            variable.reset(reset)

    async def test_what_is_no_iterable(self, iterate_in_threadpool):
        """What can't be iterated over raises TypeError at the first item."""
        with pytest.raises(TypeError, match="not iterable"):
            await anext(iterate_in_threadpool(5))


class TestAnyio:
    async def test_default_limiter_is_ours(self):
        """The limiter that anyio calls its default is the package's."""
        assert type(limiter()).__module__.startswith("fastapi_overflow")

    async def test_without_limiter_takes_a_token(self):
        """A hop made with anyio directly takes one of the same tokens."""
        ours = limiter()
        assert await to_thread.run_sync(lambda: ours.borrowed_tokens) == 1

    async def test_explicit_limiter_is_used(self):
        """A limiter that the caller names is used, and ours left alone."""
        own = anyio.CapacityLimiter(1)
        ours = limiter()

        def tokens():
            return own.borrowed_tokens, ours.borrowed_tokens

        assert await to_thread.run_sync(tokens, limiter=own) == (1, 0)

    async def test_abandoned_hop_gives_its_token_back(self):
        """A function abandoned by its cancelled caller keeps nobody waiting, and leaks no token."""
        gate = Gate()

        async def cancel(scope):
            await gate.until_entered()
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(cancel, scope)
                await to_thread.run_sync(gate, abandon_on_cancel=True)
            assert scope.cancelled_caught  # although the function waits at the gate still
            gate.open()
        # On trio not before the function has ended.
        await until(lambda: not limiter().borrowed_tokens, "the token of the abandoned hop")

    async def test_described_before_it_is_made(self):
        """A hop may be described first and awaited later."""
        hop = to_thread.run_sync(threading.get_ident)
        assert await hop != threading.get_ident()


class TestOwnLimiter:
    """Hops of a request with a limiter of the caller's, as FastAPI leaves a sync dependency."""

    @pytest.fixture
    async def tokens(self):
        """Return a limiter, and a function that counts the tokens that are out: its, and ours."""
        own, ours = anyio.CapacityLimiter(1), limiter()
        return own, lambda: (own.borrowed_tokens, ours.borrowed_tokens)

    async def test_keeps_the_thread(self, tokens, anyio_backend_name):
        """It counts as the request's own thread, which no other request gets before it ends."""
        own, count = tokens
        seen = []

        async def request():
            await to_thread.run_sync(count)
            seen.append(await to_thread.run_sync(count, limiter=own))
            seen.append(count())
            seen.append(await to_thread.run_sync(count))

        with anyio.fail_after(PATIENCE):
            await as_request(limiter(), request)
        kept = 0 if anyio_backend_name == "trio" else 1
        assert seen == [(1, kept), (0, 0), (0, 1)]
        assert count() == (0, 0)

    async def test_looks_like_it(self, monkeypatch, tokens):
        """Whoever wraps what anyio calls finds the caller's limiter as it is."""
        own, count = tokens
        seen = []
        backend = get_async_backend()
        run = backend.run_sync_in_worker_thread

        async def look(*args, **kwargs):
            seen.append((kwargs["limiter"].total_tokens, kwargs["limiter"].statistics()))
            return await run(*args, **kwargs)

        async def request():
            await to_thread.run_sync(count)
            monkeypatch.setattr(backend, "run_sync_in_worker_thread", look)
            await to_thread.run_sync(count, limiter=own)

        await as_request(limiter(), request)
        assert seen == [(1, own.statistics())]

    async def test_keeps_none_while_it_waits(self, tokens):
        """While it waits for that limiter, the thread goes to another request."""
        own, count = tokens
        limiter().total_tokens = 1
        own.acquire_on_behalf_of_nowait(self)
        first = anyio.Event()

        async def request():
            await to_thread.run_sync(count)
            first.set()
            assert await to_thread.run_sync(count, limiter=own) == (1, 0)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(as_request, limiter(), request)
                await first.wait()
                await as_request(limiter(), to_thread.run_sync, count)
                own.release_on_behalf_of(self)
        assert count() == (0, 0)

    async def test_cancelled_while_it_waits(self, tokens):
        """Cancelled while it waits it leaves nothing behind."""
        own, count = tokens
        own.acquire_on_behalf_of_nowait(self)

        async def request():
            await to_thread.run_sync(count)
            async with anyio.create_task_group() as group:
                group.start_soon(partial(to_thread.run_sync, count, limiter=own))
                await until(lambda: own.statistics().tasks_waiting, "a hop that waits")
                group.cancel_scope.cancel()

        await as_request(limiter(), request)
        own.release_on_behalf_of(self)
        assert count() == (0, 0)
        assert own.statistics().tasks_waiting == 0

    async def test_raises(self, tokens):
        """What the function raises is raised, and both tokens are given back."""
        own, count = tokens

        def fail():
            raise KeyError("function's")

        async def request():
            await to_thread.run_sync(count)
            with pytest.raises(KeyError, match="function's"):
                await to_thread.run_sync(fail, limiter=own)
            assert count() == (0, 0)

        await as_request(limiter(), request)

    async def test_ours(self):
        """Our limiter may be named like any other: a token is taken once."""
        ours = limiter()

        async def request():
            for _ in range(3):
                count = await to_thread.run_sync(lambda: ours.borrowed_tokens, limiter=ours)
                assert count == 1

        await as_request(ours, request)
        assert ours.borrowed_tokens == 0
