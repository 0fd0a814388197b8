"""The limiter under whatever order of events Hypothesis thinks of.

Run by pytest. One real asyncio loop per example, run a turn at a time, so that every event may come
between any two turns: a cancellation in the very turn of a grant too. Time passes when a rule says
so. What must hold is checked after every step; after draining, all tokens must be there and nobody
may wait.
"""

import asyncio
import math
from contextvars import copy_context

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastapi_overflow._requests.lease_of_request import current_lease
from limiter_tools import STALL_SECONDS, make_limiter

TOTALS = st.sampled_from([0, 1, 2, 3, 5, math.inf])
PICK = st.integers(0, 10**6)  # one of those there are, by its number modulo theirs


class Failure(BaseException):
    """What a hop raises: like a cancellation, not even an Exception."""


class Actor:
    """A task that makes a hop when told: idle, asking for a token, holding it, or over."""

    def __init__(self, limiter):
        self.limiter = limiter
        self.state = "idle"
        self.order = None  # a future for the next order

    async def run(self):
        while await self.next_order() == "hop":
            self.state = "asking"
            try:
                async with self.limiter:
                    self.state = "holding"
                    try:
                        if await self.next_order() == "fail":
                            raise Failure
                    finally:
                        self.state = "idle"
            except Failure:
                pass
            finally:
                self.state = "idle"

    async def next_order(self):
        self.order = asyncio.get_running_loop().create_future()
        try:
            return await self.order
        finally:
            self.order = None

    def tell(self, order):
        if self.order is not None and not self.order.done():
            self.order.set_result(order)


class Pool(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = None
        self.limiter = None
        self.noise = []  # errors that the loop reports
        self.actors = []
        self.tasks = []
        self.open = []  # leases, each with the context of its request

    @initialize(total=st.integers(1, 5), reserve=st.integers(0, 3), threads=st.integers(0, 4))
    def make(self, total, reserve, threads):
        self.patches = pytest.MonkeyPatch()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.noise.append(context))

        async def make():
            return make_limiter(self.patches, total, reserve=reserve, stall_threads=threads)

        self.limiter, self.clock = self.loop.run_until_complete(make())
        self.most = total
        self.threads = threads

    def in_loop(self, function):
        """Call `function` in the loop, as one of its callbacks, in a turn of its own."""
        results = []
        self.loop.call_soon(lambda: results.append(function()))
        self.turn()
        return results[0]

    def turn(self):
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()  # to the end of this turn

    def pick(self, number, *states):
        """Return an actor in one of these states, if there is any."""
        there = [actor for actor in self.actors if actor.state in states]
        return there[number % len(there)] if there else None

    def start(self, context):
        actor = Actor(self.limiter)
        self.actors.append(actor)
        self.tasks.append(context.run(self.loop.create_task, actor.run()))
        self.turn()  # to its wait for orders
        return actor

    # ---- requests

    @precondition(lambda self: len(self.open) < 6)
    @rule()
    def request_begins(self):
        """A request, by a task of its own that will make hops."""
        context = copy_context()
        lease = self.in_loop(lambda: self.limiter.pool.open_lease())
        context.run(current_lease.set, lease)
        self.open.append((lease, context))
        self.start(context)

    @precondition(lambda self: self.open and len(self.actors) < 20)
    @rule(number=PICK)
    def hop_beside(self, number):
        """Another task of a request: its hops run beside the others, or inside one of theirs."""
        self.start(self.open[number % len(self.open)][1].copy()).tell("hop")

    @precondition(lambda self: len(self.actors) < 20)
    @rule()
    def task_outside(self):
        """A task outside any request: a background loop, a middleware around the app."""
        self.start(copy_context()).tell("hop")

    @precondition(lambda self: self.open)
    @rule(number=PICK)
    def request_ends(self, number):
        """A request ends, whatever its tasks are doing."""
        lease, _ = self.open.pop(number % len(self.open))
        self.in_loop(lambda: self.limiter.pool.close_lease(lease))

    # ---- hops

    @rule(number=PICK)
    def hop_begins(self, number):
        if actor := self.pick(number, "idle"):
            actor.tell("hop")

    @rule(number=PICK, how=st.sampled_from(["end", "fail"]))
    def hop_ends(self, number, how):
        if actor := self.pick(number, "holding"):
            actor.tell(how)

    @rule(number=PICK)
    def cancelled(self, number):
        """A task is cancelled wherever it is: idle, waiting, just granted, in its hop."""
        if actor := self.pick(number, "idle", "asking", "holding"):
            self.tasks[self.actors.index(actor)].cancel()

    @rule(ends=PICK, cancelled=PICK, turns=st.integers(0, 3))
    def cancelled_when_granted(self, ends, cancelled, turns):
        """A token is given back, and one that waits is cancelled about when it gets it."""
        if holder := self.pick(ends, "holding"):
            holder.tell("end")
            for _ in range(turns):
                self.turn()
            self.cancelled(cancelled)

    @rule()
    def nowait(self):
        """Somebody takes a token without waiting, if there is one, and gives it back."""

        def attempt():
            key = object()
            try:
                self.limiter.acquire_on_behalf_of_nowait(key)
            except Exception as exc:
                return type(exc).__name__ == "WouldBlock"
            self.limiter.pool._check()
            self.limiter.release_on_behalf_of(key)
            return True

        assert self.in_loop(attempt)

    # ---- the limit, turns and time

    @rule(total=TOTALS)
    def resized(self, total):
        self.most = max(self.most, total)
        self.in_loop(lambda: setattr(self.limiter, "total_tokens", total))
        assert self.limiter.total_tokens == total

    @rule(total=TOTALS, reserve=st.integers(0, 4))
    def reserve_changed(self, total, reserve):
        self.most = max(self.most, total)
        self.in_loop(lambda: self.limiter.pool.resize(total, reserve))

    @rule(number=st.integers(1, 5))
    def turns(self, number):
        for _ in range(number):
            self.turn()

    @rule(looks=st.integers(1, 25))
    def time_passes(self, looks):
        for _ in range(looks):
            self.in_loop(lambda: self.clock.advance(STALL_SECONDS))
            self.turns(5)

    # ---- what must hold

    @invariant()
    def holds(self):
        if self.limiter is None:
            return
        self.limiter.pool._check()
        found = self.limiter.statistics()
        # Each that asks or holds either waits or has a token, and nobody else does.
        busy = [actor.state for actor in self.actors].count
        assert found.borrowed_tokens + found.tasks_waiting == busy("asking") + busy("holding")
        assert found.borrowed_tokens >= busy("holding")
        assert found.borrowed_tokens == len(found.borrowers)
        assert found.borrowed_tokens <= self.most + self.threads
        assert not self.noise

    def teardown(self):
        if self.loop is None:
            return
        try:
            self.drain()
        finally:
            for task in self.tasks:
                task.cancel()
            if self.tasks:
                self.loop.run_until_complete(asyncio.wait(self.tasks))
            self.loop.close()
            self.patches.undo()

    def drain(self):
        """Everybody ends their hop: all must be served without time passing, no token lost."""
        self.reserve_changed(2, 1)
        for _ in range(200):
            if not self.pick(0, "asking", "holding"):
                break
            for actor in self.actors:
                if actor.state == "holding":
                    actor.tell("end")
            self.turns(6)
            self.holds()
        assert self.limiter.statistics().tasks_waiting == 0
        assert self.limiter.borrowed_tokens == 0
        for lease, _ in self.open:
            self.in_loop(lambda lease=lease: self.limiter.pool.close_lease(lease))

        async def full_capacity():
            # The task's first hop makes the others later ones, which may use the reserve.
            async with self.limiter:
                pass
            self.limiter.acquire_on_behalf_of_nowait("one")
            self.limiter.acquire_on_behalf_of_nowait("two")
            assert self.limiter.available_tokens == 0
            self.limiter.release_on_behalf_of("one")
            self.limiter.release_on_behalf_of("two")

        self.loop.run_until_complete(full_capacity())


TestPool = Pool.TestCase
TestPool.settings = settings(
    max_examples=150,
    report_multiple_bugs=False,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],  # to explain takes minutes
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
