"""What a pool counts for those who look, besides what its own state tells.

Written by the pool, from the event loop's thread, and only on its slow paths: a hop waits, a new
thread is taken, the pool stalls. Read from any thread. It must cost a hop nothing that runs in the
token its lease has kept, and it never decides anything.
"""

# No `from __future__ import annotations`: a NamedTuple compiles each that is a string.
from typing import NamedTuple


class Progress(NamedTuple):
    """How many hops have finished, by the kind of their token."""

    regular: int
    extra: int


class Counters:
    """Totals since the loop's first hop, and high-water marks.

    :ivar waits: hops that had to wait for a token, those still waiting included
    :ivar seconds_waited: by hops whose wait has ended, be it cancelled
    :ivar reserve_used: tokens of the reserve that were given out
    :ivar stalls: see `_episode`
    :ivar threads_grown: hops that got a thread beyond the limit
    :ivar deadlocks_averted: see `_episode`
    :ivar peak_threads: most tokens taken at once
    :ivar peak_waiting: most hops waiting at once
    :ivar waiting_since: time.monotonic() at which somebody began to wait and nobody else did;
        it holds as long as somebody waits
    """

    __slots__ = (
        "deadlocks_averted",
        "peak_threads",
        "peak_waiting",
        "reserve_used",
        "seconds_waited",
        "stalls",
        "threads_grown",
        "waiting_since",
        "waits",
    )

    def __init__(self) -> None:
        self.waits = 0
        self.seconds_waited = 0.0
        self.reserve_used = 0
        self.stalls = 0
        self.threads_grown = 0
        self.deadlocks_averted = 0
        self.peak_threads = 0
        self.peak_waiting = 0
        self.waiting_since = 0.0

    def took(self, taken: int, extra: bool, beyond: bool = False) -> None:
        """Count a token that was given out, `extra` ones by their kind."""
        self.peak_threads = max(self.peak_threads, taken)
        if beyond:
            self.threads_grown += 1
        elif extra:
            self.reserve_used += 1

    def wait_began(self, now: float, waiting: int) -> None:
        self.waits += 1
        if waiting == 1:
            self.waiting_since = now
        if waiting > self.peak_waiting:  # noqa: PLR1730 - for every hop that waits
            self.peak_waiting = waiting
