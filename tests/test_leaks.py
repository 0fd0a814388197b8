"""Nothing is kept once it is over: tokens, leases, tasks, contexts, event loops.

Run by pytest. What is claimed of whole loops runs them here, one after another; what forks runs in
a child process.
"""

import asyncio
import contextvars
import gc
import sys
import weakref

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import RunVar

import fastapi_overflow
from fastapi_overflow._requests import limiters
from fastapi_overflow._requests.lease_of_request import current_lease
from fastapi_overflow._requests.limiter import OverflowLimiter
from fastapi_overflow._threads.lease import Lease
from limiter_tools import as_request, requests, settle
from support import run_python
from test_overload import Refusal

fastapi_overflow.patch()


class Canary:
    """Something that a request holds; it must die with the request."""


def collected(*references):
    for _ in range(3):  # what is finalized in one collection is free in the next
        gc.collect()
    return [reference() for reference in references] == [None] * len(references)


@pytest.mark.anyio
class TestRequest:
    async def test_canary(self):
        """What a request's context variables held is free once the request is over.

        Although its hops waited, so that the limiter has asked the loop to call back.
        """
        limiter = OverflowLimiter(1)
        variable = contextvars.ContextVar("variable")
        canaries = []

        async def app():
            canary = Canary()
            variable.set(canary)
            canaries.append(weakref.ref(canary))
            for _ in range(3):
                async with limiter:
                    await anyio.lowlevel.checkpoint()

        async with requests(limiter) as group:
            for _ in range(10):
                group.start_soon(as_request, limiter, app)
        assert len(canaries) == 10
        assert collected(*canaries)

    async def test_lease(self):
        """The lease is free once its request is over."""
        limiter = OverflowLimiter(2)
        leases = weakref.WeakSet()

        class Seen(Lease):
            __slots__ = ("__weakref__",)

        async def hops():
            for _ in range(3):
                async with limiter:
                    await anyio.lowlevel.checkpoint()

        async def request():
            from fastapi_overflow._requests.lease_of_request import current_lease

            lease = Seen(limiter.pool, 0, weakref.ref(limiter.pool.current_task()))
            leases.add(lease)
            reset = current_lease.set(lease)
            try:
                await hops()
            finally:
                limiter.pool.close_lease(lease)
                current_lease.reset(reset)

        async with requests(limiter) as group:
            for _ in range(10):
                group.start_soon(request)
        gc.collect()
        assert len(leases) == 0

    async def test_borrowers(self):
        """A borrower that has waited for a token and returned it isn't kept, whatever its depth."""
        limiter = OverflowLimiter(2)
        under_way = anyio.Event()
        go = anyio.Event()
        borrowers = []

        async def app():
            async with limiter:
                pass
            await under_way.wait()
            borrower = Canary()
            borrowers.append(weakref.ref(borrower))
            await limiter.acquire_on_behalf_of(borrower)
            await go.wait()
            limiter.release_on_behalf_of(borrower)

        async with requests(limiter) as group:
            for _ in range(8):
                group.start_soon(as_request, limiter, app)
            await settle(limiter)
            under_way.set()
            await settle(limiter)
            go.set()
        assert len(borrowers) == 8
        assert collected(*borrowers)

    async def test_cancelled(self):
        """Nor is one that was cancelled while it waited."""
        limiter = OverflowLimiter(1)
        borrowers = []

        async def app():
            borrower = Canary()
            borrowers.append(weakref.ref(borrower))
            await limiter.acquire_on_behalf_of(borrower)

        async with requests(limiter) as group:
            await limiter.acquire()
            for _ in range(8):
                group.start_soon(app)
            await settle(limiter)
            group.cancel_scope.cancel()
            limiter.release()
        assert len(borrowers) == 8
        assert collected(*borrowers)


async def hop_and_wait():
    """Requests whose first and later hops wait for tokens of the loop's own limiter."""
    limiter = to_thread.current_default_thread_limiter()
    limiter.total_tokens = 2
    under_way = anyio.Event()
    done = anyio.Event()

    async def app():
        async with limiter:
            await anyio.lowlevel.checkpoint()
        await under_way.wait()
        async with limiter:
            await done.wait()

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(as_request, limiter, app)
        await settle(limiter)
        under_way.set()
        await settle(limiter)
        assert limiter.statistics().tasks_waiting
        done.set()
    assert limiter.borrowed_tokens == 0
    return weakref.ref(limiter)


class TestLoops:
    def test_short_loops(self):
        """Nothing stays of 1,000 event loops run in a row: no loop, no limiter, no task."""

        async def main():
            limiter = await hop_and_wait()
            tasks.add(asyncio.current_task())
            return limiter, weakref.ref(asyncio.get_running_loop())

        tasks = weakref.WeakSet()
        kept = []
        for _ in range(1000):
            kept += asyncio.run(main())
        gc.collect()
        assert sum(reference() is not None for reference in kept) == 0
        assert len(tasks) == 0

    def test_pending_timer(self):
        """A loop that ends while the limiter's timers are set is freed at once."""

        async def main():
            limiter = OverflowLimiter(1, stall_seconds=3600)
            async with limiter:
                waiter = asyncio.ensure_future(limiter.acquire_on_behalf_of("x"))
                await asyncio.sleep(0)
                waiter.cancel()
            return weakref.ref(asyncio.get_running_loop()), weakref.ref(limiter)

        assert collected(*asyncio.run(main()))

    def test_patience(self):
        """So is one in which a request was served that might have been turned away later."""

        async def main():
            limiter = OverflowLimiter(1, max_wait=3600)
            limiters._limiters.set(limiter)  # the loop's own

            async def app():
                current_lease.get().refusal = Refusal()
                async with limiter:
                    await anyio.lowlevel.checkpoint()

            async with requests(limiter) as group:
                for _ in range(3):
                    group.start_soon(as_request, limiter, app)
            return weakref.ref(asyncio.get_running_loop()), weakref.ref(limiter)

        assert collected(*asyncio.run(main()))

    def test_trio(self):
        """Nothing stays of a trio run either."""
        limiters = [anyio.run(hop_and_wait, backend="trio") for _ in range(20)]
        assert collected(*limiters)

    def test_one_each(self):
        """Each loop has its own limiter, and it is the same throughout the loop."""

        async def main():
            first = to_thread.current_default_thread_limiter()
            assert await asyncio.create_task(again()) is first
            return id(first), first

        async def again():
            return to_thread.current_default_thread_limiter()

        (one, keep), (other, _) = asyncio.run(main()), asyncio.run(main())
        assert one != other
        assert isinstance(keep, OverflowLimiter)

    def test_loop_inside_a_hop(self):
        """A loop run inside a hop has its own limiter and nothing of the request's."""
        inside = RunVar("inside")

        async def nested():
            inside.set(True)
            limiter = to_thread.current_default_thread_limiter()
            assert await to_thread.run_sync(lambda: limiter.borrowed_tokens) == 1
            return limiter

        async def app():
            limiter = to_thread.current_default_thread_limiter()
            other = await to_thread.run_sync(lambda: asyncio.run(nested()))
            assert other is not limiter
            assert (limiter.borrowed_tokens, other.borrowed_tokens) == (0, 0)

        async def main():
            limiter = to_thread.current_default_thread_limiter()
            await as_request(limiter, app)

        asyncio.run(main())


FORK = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: a fork beside other threads
import fastapi_overflow
fastapi_overflow.patch()
from anyio import to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def hops(limit):
    limiter = to_thread.current_default_thread_limiter()
    limiter.total_tokens = limit
    assert (limiter.borrowed_tokens, limiter.statistics().tasks_waiting) == (0, 0)
    done = await asyncio.gather(*(run_in_threadpool(abs, -n) for n in range(20)))
    assert done == list(range(20))

def fork(then):
    child = os.fork()
    if not child:
        try:
            then()
            os._exit(0)
        except BaseException as exc:
            print(repr(exc), flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def endpoint(request):
    if request.query_params:  # in a worker thread, its token taken
        return PlainTextResponse(str(fork(lambda: asyncio.run(hops(2)))))
    return PlainTextResponse("0")

async def call(app, query):
    sent = []
    async def receive():
        return {"type": "http.request", "body": b""}
    async def send(message):
        sent.append(message.get("body", b""))
    await app({"type": "http", "method": "GET", "path": "/", "query_string": query, "headers": []},
        receive, send)
    return b"".join(sent)

async def main():
    app = Starlette(routes=[Route("/", endpoint)])
    assert await call(app, b"") == b"0"
    from_thread = await call(app, b"fork=1")
    assert from_thread == b"0", from_thread
    await hops(3)

asyncio.run(main())
assert fork(lambda: asyncio.run(hops(2))) == 0  # after a loop
print("ok")
"""


@pytest.mark.skipif(not hasattr(sys.modules["os"], "fork"), reason="the system has no fork")
class TestFork:
    def test_fork(self):
        """A forked child, even one forked from a hop, starts with all its threads free."""
        child = run_python(sys.executable, FORK, timeout=60)
        assert (child.stdout.strip(), child.stderr) == ("ok", "")
