"""Who gets a thread, and in which order: the tokens of one event loop.

Called for every hop, from the event loop's thread only. It must never block, never start a thread
of its own, and knows nothing of wrapt, FastAPI or the environment.

Vocabulary, used everywhere in this project:
    limit    how many threads the hops of one event loop may have (anyio: total_tokens)
    token    the right to one thread
    hop      one trip of an async function into a thread and back
    lease    one request's claim: it keeps the token of a finished hop for a few turns of the loop
    linger   what a token does between the hops of its lease
    reserve  tokens of the limit that only later hops (not a request's first) may take
    waiter   a hop that waits for a token
    stall    somebody waits and nothing has finished for a while
    gate     what keeps new requests out while threads queue for database connections
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from weakref import ref

from .clock import current_clock
from .counters import Progress
from .dispatch import Dispatch
from .gate import Gate
from .lease import LINGERING, MANY_HOPS, Lease, current_lease
from .queue import Waiter, copied
from .stall_watch import StallWatch

if TYPE_CHECKING:
    from .snapshot import View

ALREADY_HOLDING = "this borrower is already holding one of this CapacityLimiter's tokens"  # anyio's


class TokenPool(Dispatch):
    """The tokens of one event loop: who has one, who waits, who is next.

    First hops take the regular tokens (`limit - reserve`), later hops all of them. A finished hop's
    token lingers with its lease. When the pool stalls, later hops get extra tokens beyond the
    limit, 1, 2, 4, ... until hops finish again; they are not replaced when they are given back.
    """

    # Invariants, between any two calls, beside those of the tokens and of the dispatch:
    #   3. While somebody waits, the stall watch is on; while also a token lingers, the turns of the
    #      loop are counted.
    #   4. The gate is open while the stall watch is off, and when nothing has finished for a while.
    # Therefore no deadlock: a hop that waits for a resource blocks its thread, and whoever holds
    # the resource either runs, and finishes, or waits as a later hop. A later hop is served from
    # the reserve; where that is blocked too, nothing finishes, and the stall watch adds threads
    # until it is served, up to the bound; where others get the reserve before it for too long, the
    # stall watch adds threads by age.
    # Assumes: the event loop's thread only; no await between a check and what it allows; whoever
    # takes a token gives it back; what is held across hops was not got in a hop that still waits.

    def __init__(
        self,
        total: float,
        reserve: int,
        stall_threads: int | None,
        stall_seconds: float,
        gate: bool,
    ) -> None:
        self._clock = current_clock()
        self.current_task = self._clock.current_task
        self.is_running_here = self._clock.is_running_here
        super().__init__(self._clock, Gate(gate), stall_threads)
        # Tasks that have hopped outside any lease, by weak reference. Not a WeakSet: that is
        # Python code, at each look.
        self._hopped: set[ref[Any]] = set()
        self._stall = StallWatch(self, self._clock, stall_seconds, self._gate)
        self._finished = 0  # hops with a regular token
        self._finished_extra = 0  # hops with one of the reserve or of the growth
        self.resize(total, reserve)

    def resize(self, total: float, reserve: int) -> None:
        """Set limit and reserve; who may run now is woken, tokens that linger are taken back."""
        self._gate.open()
        self._set_size(total, reserve)
        ended = self._linger.end_oldest(self._taken() - total)
        self._give_back(ended)

    # ---- leases

    def open_lease(self) -> Lease:
        """Return a new lease for a request that begins in the current task."""
        # A task that has hopped before may hold something: what it calls isn't a first hop.
        return Lease(self, 1 if self._has_hopped(self.current_task()) else 0)

    def close_lease(self, lease: Lease) -> None:
        """End a lease with its request; a hop that outlives it gives its token back at once."""
        lease.closed = True
        if not lease.hops:
            return
        try:
            self._remember(self.current_task())
        except RuntimeError:
            return  # an abandoned coroutine: the loop is gone, and all who could wait with it
        if lease.token == LINGERING:
            self._give_back(self._linger.end((lease,)))

    # ---- hops

    def start_acquire(self, borrower: object, func: object = None) -> Waiter | None:
        """Take a token for `borrower` at once, or return the waiter to `wait` with.

        :param func: what the hop will call, as far as is known
        """
        lease, depth = self._who(borrower)
        if self._take(borrower, lease, depth):
            return None
        waiter = Waiter(borrower, lease, depth, self._clock.wake_up(), func)
        self._waiters.add(waiter)
        self.counters.wait_began(waiter.since, self._waiters.size)
        if lease is not None and not depth:
            if lease.waiting_first is None:
                lease.waiting_first = []
            lease.waiting_first.append(waiter)
        self._linger.count_turns()
        self._stall.watch()
        return waiter

    def start_acquire_nowait(self, borrower: object) -> bool:
        """Take a token for `borrower`, one that lingers if need be; tell whether there was one."""
        lease, depth = self._who(borrower)
        if self._take(borrower, lease, depth):
            return True
        if self._waiters.size:
            return False
        self._give_back(self._linger.end_oldest(math.inf))
        return self._take(borrower, lease, depth)

    async def wait(self, waiter: Waiter) -> None:
        """Wait until `waiter` is granted its token.

        When cancelled it leaves the queue; granted in that very turn, it hands the token on.
        """
        try:
            await waiter.wake_up
        except BaseException:
            if waiter.granted:
                self.abandon(waiter.borrower)  # its token goes to the next waiter
            elif waiter.waiting:
                self._forget(waiter)  # it has no token
            raise
        if not waiter.granted:
            raise RuntimeError(ALREADY_HOLDING)

    def finish(self, borrower: object) -> None:
        """End the hop of `borrower`: its token lingers with its lease or goes to the next waiter.

        :raises KeyError: if it has none
        """
        lease = self._borrowers.pop(borrower)
        if lease is None:
            self._finished += 1
        else:
            if lease.extra:
                self._finished_extra += 1
            else:
                self._finished += 1
            if (
                not (lease.closed or (self._owed and lease.extra))
                and (lease.streak < MANY_HOPS or not self._is_needed_back())
                and not (self._lowered and self._is_too_many(lease))
            ):
                self._linger.add(lease)
                if self._waiters.size:
                    self._linger.count_turns()
            else:
                self._give_back((lease,))
            return
        if self._waiters.size:
            self._dispatch()

    def keep(self, borrower: object, lease: Lease) -> bool:
        """Use the token of `lease` for a hop that has another limiter, if it lingers; tell whether.

        As with any hop, `finish` ends it.
        """
        return lease.token == LINGERING and self._take(borrower, lease, lease.hops)

    def linger_anew(self, lease: Lease) -> None:
        """Have the token of `lease`, if it lingers, do so as if it had only begun."""
        if lease.token == LINGERING:
            self._linger.end((lease,))
            self._linger.add(lease)

    def abandon(self, borrower: object) -> None:
        """Return the token of a hop that never ran to the next waiter."""
        lease = self._borrowers.pop(borrower)
        self._give_back(() if lease is None else (lease,))

    def _who(self, borrower: object) -> tuple[Lease | None, int]:
        """Return the lease of the caller, if any, and the depth of its hop."""
        if borrower in self._borrowers:
            raise RuntimeError(ALREADY_HOLDING)
        lease = current_lease.get()
        if lease is not None and lease.pool is self and not lease.closed:
            return lease, lease.hops
        task = self.current_task()
        if self._has_hopped(task):
            return None, 1
        self._remember(task)
        return None, 0

    def _has_hopped(self, task: Any) -> bool:
        return task is not None and ref(task) in self._hopped

    def _remember(self, task: Any) -> None:
        """What `task` does next, outside any lease, isn't a first hop: it may hold something."""
        if task is not None:  # a callback of the loop is in none
            self._hopped.add(ref(task, self._hopped.discard))

    # ---- called by the stall watch

    def look_at_gate(self) -> None:
        """Have the gate look at how many threads wait for connections."""
        if not self._gate.on:
            return
        if self._waiters.first:
            try:
                from .._watching.stacks import (
                    waiting_for_connection,  # late: most processes never get here
                )

                queued = waiting_for_connection(self.loop)
            except Exception:
                queued = 0  # whatever an interpreter's frames are: the gate opens
            self._gate.look(self._taken() - self._extra, self._regular, queued)
        self._dispatch()

    def open_gate(self) -> None:
        """Keep no new request out any longer."""
        self._gate.open()
        self._dispatch()

    def progress(self) -> Progress | None:
        """Return how many hops have finished, None when nobody waits."""
        if not self._waiters.size:
            return None
        return Progress(self._finished, self._finished_extra)

    # ---- for those who look: from any thread, so there is no iteration here without a copy

    @property
    def loop(self) -> Any:
        """The asyncio loop whose hops these are, None on trio or when the loop is gone."""
        return self._clock.loop()

    @property
    def stall_seconds(self) -> float:
        return self._stall.seconds

    @property
    def stalled(self) -> bool:
        return self._stall.episodes.stalled

    def view(self) -> View:
        from .snapshot import View

        return View(
            self._total,
            self._regular,
            len(self._borrowers),
            len(self._lingering),
            self._extra,
            len(self._waiters.first),
            len(self._waiters.later),
            self._finished + self._finished_extra,
            self._held_back(),
        )

    def running(self) -> frozenset[object]:
        """Return whose hops run. From the event loop's thread only."""
        return frozenset(self._borrowers)

    def oldest_wait(self) -> float | None:
        """Return the time.monotonic() since which the longest of all waiters has waited."""
        # All of them: a promoted waiter is behind younger ones.
        waiters = [*copied(self._waiters.first), *copied(self._waiters.later)]
        return min((waiter.since for waiter in waiters), default=None)

    # ---- for the tests

    def _check(self) -> None:
        """Assert the invariants."""
        self._check_dispatch()
        assert self._stall.on or (not self._waiters.size and math.isinf(self._gate.width))
        assert self._linger.counting or not (self._waiters.size and self._lingering)
