"""Whatever goes wrong with a request, its tokens come back.

Run by pytest: a Starlette app with real worker threads, called as a server calls it.
test_closing.py has what ends the loop or the server itself.
"""

import gc
import threading
from functools import partial

import anyio
import pytest
from anyio import from_thread, to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

import fastapi_overflow
from observed import Gate, until
from support import PATIENCE

fastapi_overflow.patch()

pytestmark = pytest.mark.anyio


class Thread(Gate):
    """A worker thread that is blocked in an endpoint until the test opens the gate."""

    def endpoint(self, request=None):
        self()
        return PlainTextResponse("done")


class Boom(BaseException):
    """Not even an Exception."""


class Client:
    """One request to an app, and what became of it."""

    def __init__(self, endpoint):
        self.app = Starlette(routes=[Route("/", endpoint)])
        self.scope = anyio.CancelScope()
        self.disconnected = anyio.Event()
        self.body = b""
        self.error = None
        self.over = False
        self.asked = False

    async def receive(self):
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await anyio.lowlevel.checkpoint()
        if self.disconnected.is_set():
            raise OSError("the client is gone")
        self.body += message.get("body", b"")

    async def request(self):
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}
        with self.scope:
            try:
                await self.app(scope, self.receive, self.send)
            except (KeyboardInterrupt, anyio.get_cancelled_exc_class()):
                raise
            except BaseException as exc:
                self.error = exc
        self.over = True


def statistics(limiter):
    """Return how many tokens are out, and how many hops wait for one."""
    found = limiter.statistics()
    return found.borrowed_tokens, found.tasks_waiting


@pytest.fixture
async def limiter(anyio_backend):
    """The loop's limiter with 3 threads, of which first hops may use 2."""
    limiter = to_thread.current_default_thread_limiter()
    before = limiter.total_tokens
    limiter.total_tokens = 3
    yield limiter
    # All tokens are back: as many hops as there are threads run side by side, once more.
    await until(lambda: statistics(limiter) == (0, 0), "all tokens")
    limiter.pool._check()
    together = threading.Barrier(3)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(to_thread.run_sync, together.wait, PATIENCE)
    await until(lambda: statistics(limiter) == (0, 0), "the tokens of three more hops")
    assert limiter.pool.snapshot().lingering == 0
    limiter.total_tokens = before


class TestDisconnect:
    async def test_in_the_queue(self, limiter):
        """A client that goes away while its request waits for a thread leaves the queue."""
        threads = [Thread() for _ in range(3)]  # the last gets the reserve, after a stall
        async with anyio.create_task_group() as group:
            for thread in threads:
                group.start_soon(Client(thread.endpoint).request)
            for thread in threads:
                await thread.until_entered()
            gone, waiting = Client(lambda _: PlainTextResponse("")), Client(threads[0].endpoint)
            group.start_soon(gone.request)
            await until(lambda: statistics(limiter)[1] == 1, "a hop that waits")
            group.start_soon(waiting.request)
            await until(lambda: statistics(limiter)[1] == 2, "two hops that wait")
            gone.scope.cancel()
            await until(lambda: gone.over, "the end of the request whose client is gone")
            assert limiter.statistics().tasks_waiting == 1
            for thread in threads:
                thread.open()
            await until(lambda: waiting.body == b"done", "the answer to the other client")

    async def test_in_a_hop(self, limiter):
        """One that goes away while its sync endpoint runs: the token is back when that ends."""
        thread = Thread()
        client = Client(thread.endpoint)
        async with anyio.create_task_group() as group:
            group.start_soon(client.request)
            await thread.until_entered()
            client.scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert limiter.borrowed_tokens == 1
            thread.open()
        assert client.over
        assert limiter.borrowed_tokens == 0

    # trio says so of Starlette's own function too, when its generator happens to be collected.
    @pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
    async def test_in_a_stream(self, limiter):
        """One that goes away in the middle of a sync stream: the stream ends, so does its hop."""
        items = []

        def stream():
            while True:
                items.append(len(items))
                yield b"item"

        client = Client(lambda _: StreamingResponse(stream()))
        async with anyio.create_task_group() as group:
            group.start_soon(client.request)
            await until(lambda: len(items) > 5, "a stream under way")
            client.disconnected.set()
            await until(lambda: client.over, "the end of the request")
            made = len(items)
            await anyio.wait_all_tasks_blocked()
            assert len(items) == made
        client = None
        gc.collect()  # here, where the warning is expected

    async def test_in_a_blocked_stream(self, limiter):
        """And one that goes away while the next item is awaited in its thread."""
        thread = Thread()

        def stream():
            yield b"first"
            thread.endpoint()

        client = Client(lambda _: StreamingResponse(stream()))
        async with anyio.create_task_group() as group:
            group.start_soon(client.request)
            await thread.until_entered()
            client.scope.cancel()
            client.disconnected.set()
            thread.open()
            await until(lambda: client.over, "the end of the request")


class TestErrors:
    @pytest.mark.parametrize("error", [ValueError, Boom])
    async def test_in_a_hop(self, limiter, error):
        """What an endpoint raises comes through, BaseException too, and the token comes back."""

        def endpoint(request):
            raise error("mine")

        client = Client(endpoint)
        await client.request()
        assert type(client.error) is error
        assert limiter.borrowed_tokens == 0

    async def test_stop_iteration(self, limiter):
        """StopIteration, that no future can carry, comes out as RuntimeError as ever."""
        with pytest.raises(RuntimeError, match="StopIteration"):
            await run_in_threadpool(next, iter(()))

    @pytest.mark.parametrize("error", [ValueError, Boom])
    async def test_in_a_stream(self, limiter, error):
        """So does what a stream raises between its items, after those before it."""
        mine = error("mine")

        def stream():
            yield b"first"
            raise mine

        client = Client(lambda _: StreamingResponse(stream()))
        await client.request()
        found = client.error
        while hasattr(found, "exceptions"):  # the group that Starlette's task group makes of it
            (found,) = found.exceptions
        assert (found, client.body) == (mine, b"first")


class TestOutlives:
    async def test_abandoned(self, limiter):
        """A hop that was abandoned to its fate doesn't cost a token once its thread has ended."""
        thread = Thread()

        async def endpoint(request):
            async with anyio.create_task_group() as group:
                run_sync = partial(to_thread.run_sync, abandon_on_cancel=True)
                group.start_soon(run_sync, thread.endpoint)
                await thread.until_entered()
                group.cancel_scope.cancel()
            return PlainTextResponse("late")

        client = Client(endpoint)
        await client.request()
        assert client.body == b"late"
        thread.open()
        await until(lambda: limiter.borrowed_tokens == 0, "the token of the abandoned hop")

    async def test_task_left_behind(self, limiter):
        """A task that goes on after its request has been answered, its hop still running."""
        thread = Thread()
        async with anyio.create_task_group() as group:

            async def endpoint(request):
                group.start_soon(run_in_threadpool, thread.endpoint)
                await thread.until_entered()
                return PlainTextResponse("")

            client = Client(endpoint)
            await client.request()
            assert client.over
            assert limiter.borrowed_tokens == 1
            thread.open()


class TestNested:
    async def test_cancelled(self, limiter):
        """A request cancelled while its sync endpoint awaits a hop inside: both tokens are back."""
        inner = Thread()

        def endpoint(request):
            from_thread.run(run_in_threadpool, inner.endpoint)
            return PlainTextResponse("")

        client = Client(endpoint)
        async with anyio.create_task_group() as group:
            group.start_soon(client.request)
            await inner.until_entered()
            assert limiter.borrowed_tokens == 2
            client.scope.cancel()
            await anyio.wait_all_tasks_blocked()
            inner.open()
        assert client.over

    async def test_cancelled_in_the_queue(self, limiter):
        """And one cancelled while the hop inside waits for its thread."""
        nested = threading.Event()

        def endpoint(request):
            nested.set()
            from_thread.run(run_in_threadpool, bool)
            return PlainTextResponse("")

        client = Client(endpoint)
        async with anyio.create_task_group() as group:
            limiter.total_tokens = 0
            group.start_soon(client.request)
            await until(lambda: statistics(limiter)[1] == 1, "a hop that waits")
            limiter.total_tokens = 1
            limiter.total_tokens = 0  # it has its thread, the hop inside gets none
            await until(nested.is_set, "the endpoint")
            await until(lambda: statistics(limiter)[1] == 1, "a hop that waits")
            client.scope.cancel()
            await until(lambda: client.over, "the end of the request")
            assert limiter.statistics().tasks_waiting == 0
            limiter.total_tokens = 3
