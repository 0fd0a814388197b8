"""The gate: requests that would only queue for a connection don't begin, and no others suffer.

Run by pytest: the gate by itself, on a pool without threads, and with SQLAlchemy's real pool.
"""

from __future__ import annotations

import math
import time
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import to_thread
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import QueuePool

import fastapi_overflow
import support
from fastapi_overflow._requests.limiter import OverflowLimiter
from fastapi_overflow._threads.gate import (
    CALM,
    FIRST_REST,
    LEAST,
    LONGEST_REST,
    PATIENCE,
    QUIET,
    Gate,
)
from fastapi_overflow._watching.observer import PoolObserver
from limiter_tools import (
    Request,
    as_request,
    end_all,
    first_hops,
    make_limiter,
    requests,
    settle,
    stall,
)
from observed import needs_stacks, until

fastapi_overflow.patch()  # for installations without the hook

TOTAL = 39  # regular tokens


def looks(gate, *seen):
    """Let the gate look so often, at (taken, queued) each time; return its width each time."""
    widths = []
    for taken, queued in seen:
        gate.look(taken, TOTAL, queued)
        widths.append(gate.width)
    return widths


class TestGate:
    def test_no_queue(self):
        """While no thread waits for a connection it stays open."""
        assert looks(Gate(True), *[(39, 0)] * 100) == [math.inf] * 100

    def test_closes(self):
        """It leaves as many threads as do something but wait."""
        assert looks(Gate(True), (39, 24)) == [15]

    def test_never_shut(self):
        """A quarter of the limit is for new requests whatever happens."""
        assert looks(Gate(True), (39, 38)) == [LEAST * TOTAL]

    def test_widens(self):
        """When the queue is gone it lets one more in now and then, later more, and opens."""
        gate = Gate(True)
        looks(gate, (39, 24))
        widths = looks(gate, *[(15, 0)] * CALM)
        assert widths == [15 + n // QUIET for n in range(1, CALM + 1)]
        assert looks(gate, *[(15, 0)] * 5)[-1] == math.inf

    def test_settles(self):
        """It stays about as wide as there are connections."""
        gate = Gate(True)
        looks(gate, (39, 24))
        taken = 15
        for _ in range(500):
            (taken,) = looks(gate, (taken, max(taken - 15, 0)))
            assert 15 <= taken <= 16

    def test_no_help(self):
        """Where the queue gets no shorter it opens again, for others' sake."""
        gate = Gate(True)
        assert looks(gate, *[(35, 20)] * PATIENCE) == [15] * PATIENCE
        assert looks(gate, (35, 20)) == [math.inf]

    def test_slow_help(self):
        """A queue that gets shorter, if slowly, is reason enough to keep it closed."""
        gate = Gate(True)
        assert math.inf not in looks(gate, *[(15 + n, n) for n in range(24, 0, -1)])

    def rest(self, gate):
        """Let closing the gate be no help; return for how many looks it then stays open."""
        while looks(gate, (35, 20)) == [15]:
            pass
        looks_open = 1
        while looks(gate, (35, 20)) == [math.inf]:
            looks_open += 1
        return looks_open - 1  # the first of them is the one that has opened it

    def test_rests(self):
        """Then it stays open for a while, twice as long each time, up to a bound."""
        gate = Gate(True)
        rests = [self.rest(gate) for _ in range(10)]
        assert rests == [min(FIRST_REST * 2**n, LONGEST_REST) for n in range(10)]

    def test_forgives(self):
        """Once closing it has helped, the next rest is a short one again."""
        gate = Gate(True)
        rests = [self.rest(gate) for _ in range(3)]
        looks(gate, (15, 0))
        rests.append(self.rest(gate))
        assert rests == [FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST, FIRST_REST]


@pytest.mark.anyio
class TestPool:
    """With threads that wait for connections only by word of mouth."""

    @pytest.fixture
    def queued(self, monkeypatch):
        """Return a list; its last number is how many threads wait for a connection."""
        queued = [0]
        monkeypatch.setattr(
            "fastapi_overflow._watching.stacks.waiting_for_connection", lambda loop: queued[-1]
        )
        return queued

    async def moving_look(self, limiter, clock, hops):
        """Let a hop end, and the stall watch look."""
        next(hop for hop in hops if hop.running).end()
        await settle(limiter)
        await stall(limiter, clock)

    @asynccontextmanager
    async def crowd(self, monkeypatch, queued, **options):
        """Yield a pool of 40 with 80 requests, after a look at 24 threads that wait."""
        limiter, clock = make_limiter(monkeypatch, 40, **options)
        async with requests(limiter) as group:
            hops = first_hops(limiter, group, 80)
            await settle(limiter)
            queued.append(24)
            await self.moving_look(limiter, clock, hops)
            yield limiter, clock, group, hops
            queued.append(0)
            end_all(hops)

    async def test_new_requests(self, monkeypatch, queued):
        """While threads queue for connections, those that come free are not for new requests."""
        async with self.crowd(monkeypatch, queued) as (limiter, _, _, hops):
            assert limiter.pool.snapshot().held_back == 24
            running = []
            for _ in range(30):
                next(hop for hop in hops if hop.running).end()
                await settle(limiter)
                running.append(limiter.borrowed_tokens)
            assert running == [*range(38, 14, -1), *[15] * 6]

    async def test_requests_under_way(self, monkeypatch, queued):
        """Requests under way get every thread that is free, and the reserve."""
        limiter, clock = make_limiter(monkeypatch, 10)
        async with requests(limiter) as group:
            under_way = [Request(limiter, group, hops=1) for _ in range(10)]
            await settle(limiter)
            hops = first_hops(limiter, group, 20)
            await settle(limiter)
            queued.append(6)
            await self.moving_look(limiter, clock, hops)
            end_all([hop for hop in hops if hop.running])
            await settle(limiter)
            new = limiter.borrowed_tokens
            later = [request.hop() for request in under_way]
            for request in under_way:
                request.finish()
            await settle(limiter)
            assert new == 3
            assert sum(hop.running for hop in later) == 10 - new
            queued.append(0)
            end_all([*hops, *later])

    async def test_stall(self, monkeypatch, queued):
        """When nothing finishes any more it opens: who is kept out may be who is waited for."""
        async with self.crowd(monkeypatch, queued) as (limiter, clock, _, hops):
            end_all([hop for hop in hops if hop.running][:20])
            await settle(limiter)
            await stall(limiter, clock)  # sees what has ended
            assert limiter.borrowed_tokens < 20
            await stall(limiter, clock, 2)
            assert limiter.borrowed_tokens == 40

    async def test_nobody_waits(self, monkeypatch, queued):
        """It is open again as soon as a look finds nobody waiting."""
        async with self.crowd(monkeypatch, queued) as (limiter, clock, group, hops):
            end_all(hops)
            await settle(limiter)
            await stall(limiter, clock)
            hops = first_hops(limiter, group, 39)
            await settle(limiter)
            assert sum(hop.running for hop in hops) == 39
            end_all(hops)

    async def test_resize(self, monkeypatch, queued):
        """A new limit counts from the first request on."""
        async with self.crowd(monkeypatch, queued) as (limiter, _, _, _):
            limiter.total_tokens = 50
            await settle(limiter)
            assert limiter.borrowed_tokens == 49

    async def test_off(self, monkeypatch, queued):
        """With FASTAPI_OVERFLOW_GATE=0 nobody is kept out."""
        async with self.crowd(monkeypatch, queued, gate=False) as (limiter, _, _, _):
            assert limiter.borrowed_tokens == 39

    async def test_unreadable_frames(self, monkeypatch):
        """Where an interpreter's frames can't be read the pool works as if there was no queue."""

        def fail(loop):
            raise AttributeError("f_back")

        monkeypatch.setattr("fastapi_overflow._watching.stacks.waiting_for_connection", fail)
        limiter, clock = make_limiter(monkeypatch, 40)
        async with requests(limiter) as group:
            hops = first_hops(limiter, group, 80)
            await settle(limiter)
            await self.moving_look(limiter, clock, hops)
            assert limiter.borrowed_tokens == 39
            end_all(hops)


@pytest.fixture
def engine():
    """A pool of five connections to SQLite, whose queries may take their time."""
    engine = create_engine(
        "sqlite://",
        poolclass=QueuePool,
        pool_size=5,
        max_overflow=0,
        connect_args={"check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def add_sleep(connection, _):
        connection.create_function("sleep", 1, time.sleep)

    yield engine
    engine.dispose()


def watched_limiter(**options):
    observer = PoolObserver()
    limiter = OverflowLimiter(40, observer=observer, **options)
    observer.attach(limiter.pool)
    return limiter


@pytest.mark.anyio
class TestSQLAlchemy:
    """With threads that queue for the connections of a real pool."""

    async def load(self, engine, limiter, number):
        """Send requests, each with a query of 5 ms; return most threads held back, and answers.

        When the last is answered and nobody waits, no thread may be held back.
        """
        held_back, answers = [0], []

        def query():
            with engine.connect() as connection:
                connection.execute(text("SELECT sleep(0.005)"))

        async def request():
            await to_thread.run_sync(query, limiter=limiter)
            answers.append(True)

        async def watch():
            while len(answers) < number:
                held_back.append(limiter.pool.snapshot().held_back)
                await anyio.sleep(0.01)

        with anyio.fail_after(support.PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                for _ in range(number):
                    group.start_soon(as_request, limiter, request)
        await until(lambda: limiter.pool.snapshot().held_back == 0, "the gate open again")
        return max(held_back), len(answers)

    @needs_stacks
    async def test_held_back(self, engine):
        """More threads than connections: those that could only queue are kept free, all answer."""
        limiter = watched_limiter()
        held_back, answered = await self.load(engine, limiter, 400)
        assert answered == 400
        assert held_back > 20

    async def test_off(self, engine):
        """With the gate off none are kept free: what the other test sees is its doing."""
        held_back, answered = await self.load(engine, watched_limiter(gate=False), 400)
        assert (held_back, answered) == (0, 400)
