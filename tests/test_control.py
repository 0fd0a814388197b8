"""set_thread_limit() and anyio's own way to set the limit: from wherever an app may call them."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import to_thread
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

import fastapi_overflow
from fastapi_overflow import _settings, set_thread_limit
from observed import until
from support import PATIENCE

fastapi_overflow.patch()  # for installations without the hook


@pytest.fixture
def settings(monkeypatch):
    """The settings of this process, put back after the test."""
    monkeypatch.setattr(_settings, "_decided", _settings.read({}))
    monkeypatch.setattr(_settings, "_chosen", {})


def limiter():
    return to_thread.current_default_thread_limiter()


async def statistics():
    return limiter().statistics()


class TestArguments:
    @pytest.mark.parametrize("value", [True, False, 40.0, "40", None])
    def test_limit_must_be_an_int(self, value):
        """What is not an int, a bool neither, is a TypeError that shows it."""
        with pytest.raises(TypeError, match=f"^limit must be an int, got {value!r}$"):
            set_thread_limit(value)

    @pytest.mark.parametrize("value", [True, 1.0, "1", None])
    def test_reserve_must_be_an_int(self, value):
        """The same holds for the reserve."""
        with pytest.raises(
            TypeError, match=f"^anti_deadlock_reserve must be an int, got {value!r}$"
        ):
            set_thread_limit(40, value)

    @pytest.mark.parametrize("limit", [2, 1, 0, -1])
    def test_limit_is_at_least_3(self, limit):
        """A limit below 3 is a ValueError that tells the rule."""
        with pytest.raises(ValueError, match=f"limit must be a whole number of .* 3, got {limit}$"):
            set_thread_limit(limit)

    @pytest.mark.parametrize(("limit", "reserve"), [(40, 0), (40, -1), (40, 39), (3, 2), (10, 9)])
    def test_reserve_is_less_than_the_limit_but_one(self, limit, reserve):
        """A reserve of nothing, or of all but one, is a ValueError that tells the rule."""
        rule = r"0 < anti_deadlock_reserve < limit - 1 \(the limit is "
        with pytest.raises(ValueError, match=f"{rule}{limit}\\), got {reserve}$"):
            set_thread_limit(limit, anti_deadlock_reserve=reserve)

    def test_wrong_ones_change_nothing(self, settings):
        """A call that raises has changed nothing."""
        before = _settings.current()
        with pytest.raises(ValueError, match="anti_deadlock_reserve"):
            set_thread_limit(50, 49)
        assert _settings.current() is before


def served(where, call):
    """Return an app that calls `call` at a moment of its life, and answers with its limiter."""

    @asynccontextmanager
    async def lifespan(app):
        if where == "lifespan":
            call()
        if where == "thread of lifespan":
            await to_thread.run_sync(call)
        yield

    async def in_loop(request):
        call()
        return await state(request)

    def in_thread(request):
        call()
        return JSONResponse({})

    async def state(request):
        found = limiter().statistics()
        return JSONResponse([found.total_tokens, found.borrowed_tokens, found.tasks_waiting])

    routes = [Route("/async", in_loop), Route("/sync", in_thread), Route("/state", state)]
    return Starlette(routes=routes, lifespan=lifespan)


async def visit(app, *paths):
    """Run the app's lifespan in this task, request the paths, and return the last body."""
    body = b""

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        nonlocal body
        body = message.get("body", body)

    async with app.router.lifespan_context(app):
        for path in paths:
            scope = {"type": "http", "method": "GET", "path": path, "headers": []}
            await app({**scope, "query_string": b""}, receive, send)
    return body.decode()


PLACES = {
    "lifespan": ["/state"],
    "thread of lifespan": ["/state"],
    "async endpoint": ["/async", "/state"],
    "sync endpoint": ["/sync", "/state"],
}


@pytest.mark.anyio
@pytest.mark.parametrize("where", PLACES)
class TestPlaces:
    async def test_set_thread_limit(self, where):
        """It holds at once in the loop of the app that called it, wherever the app did."""
        app = served(where, lambda: set_thread_limit(7, 2))
        assert await visit(app, *PLACES[where]) == "[7,0,0]"
        assert fastapi_overflow.stats().reserve == 2

    async def test_total_tokens(self, where):
        """Setting total_tokens of anyio's default limiter works as ever, requests before or not."""

        def raise_limit():
            if where in ("sync endpoint", "thread of lifespan"):
                anyio.from_thread.run_sync(raise_limit_here)
            else:
                raise_limit_here()

        def raise_limit_here():
            limiter().total_tokens = 100

        app = served(where, raise_limit)
        assert await visit(app, "/state", *PLACES[where]) == "[100,0,0]"


@pytest.mark.anyio
class TestRunning:
    async def test_raising_wakes_those_waiting(self):
        """Hops that wait for a thread run as soon as the limit allows them."""
        set_thread_limit(3)
        together = threading.Barrier(8)
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(to_thread.run_sync, together.wait, PATIENCE)
            await until(lambda: limiter().statistics().tasks_waiting == 5, "five that wait")
            set_thread_limit(8)
        assert limiter().statistics().borrowed_tokens == 0

    async def test_lowering_ends_nothing(self):
        """Hops that run when the limit falls below their number run on to their end."""
        set_thread_limit(5)
        together, ended = threading.Barrier(5), []

        def hop():
            together.wait(PATIENCE)
            anyio.from_thread.run_sync(set_thread_limit, 3)
            ended.append(True)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(to_thread.run_sync, hop)
        assert (len(ended), limiter().total_tokens) == (5, 3)

    async def test_holds_for_this_loop_only(self, settings):
        """In a loop it changes nothing for other loops."""
        set_thread_limit(9)
        assert (await to_thread.run_sync(anyio.run, statistics)).total_tokens == 40

    async def test_statistics_are_true(self):
        """statistics() counts the hops that run and those that wait."""
        set_thread_limit(3)
        ours, opened = limiter(), threading.Event()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(to_thread.run_sync, opened.wait, PATIENCE)
            await until(lambda: ours.statistics().borrowed_tokens == 3, "three hops that run")
            found = ours.statistics()
            assert (found.tasks_waiting, found.total_tokens, len(found.borrowers)) == (2, 3, 3)
            opened.set()
        found = ours.statistics()
        assert (found.borrowed_tokens, found.tasks_waiting) == (0, 0)


class TestBeforeAnyLoop:
    def test_holds_for_loops_to_come(self, settings):
        """Called where no loop runs, it holds for every loop that starts later."""
        set_thread_limit(7, 3)
        for _ in range(2):
            assert anyio.run(statistics).total_tokens == 7
        assert _settings.current().reserve == 3

    def test_its_source_is_known(self, settings):
        """The settings tell that limit and reserve came from set_thread_limit()."""
        set_thread_limit(7)
        source = "set_thread_limit()"
        assert _settings.current().sources == {"limit": source, "reserve": source}

    def test_defaults(self, settings):
        """Called without arguments it sets what is the default."""
        set_thread_limit(7, 3)
        set_thread_limit()
        assert (_settings.current().limit, _settings.current().reserve) == (40, 1)

    def test_in_a_thread_without_a_loop(self, settings):
        """A thread that no event loop has started counts as such a place."""
        thread = threading.Thread(target=set_thread_limit, args=[6])
        thread.start()
        thread.join(PATIENCE)
        assert anyio.run(statistics).total_tokens == 6


class TestDisabled:
    def test_says_that_it_has_no_effect(self, settings, monkeypatch, caplog):
        """With FASTAPI_OVERFLOW_DISABLE set it changes nothing and says so."""
        disabled = _settings.current().but(disabled=True)
        monkeypatch.setattr(_settings, "_decided", disabled)
        before = _settings.current()
        set_thread_limit(7)
        assert _settings.current() is before
        assert "FASTAPI_OVERFLOW_DISABLE" in caplog.text
