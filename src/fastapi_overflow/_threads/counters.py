"""What a pool counts for those who look, besides what its own state tells.

Written by the pool in the event loop's thread, read from any thread. It never decides anything.
"""

from __future__ import annotations


class Counters:
    """Totals since the loop's first hop, and high-water marks.

    :ivar hops: tokens given out
    :ivar waits: hops that had to wait for a token, those still waiting included
    :ivar seconds_waited: by hops whose wait has ended, be it cancelled
    :ivar reserve_used: tokens of the reserve that were given out
    :ivar stalls: stalls that have begun
    :ivar threads_grown: hops that got a thread beyond the limit
    :ivar deadlocks_averted: counted by the pool's observer
    :ivar quiet_used: tokens beyond the limit that were given to routes which had none
    :ivar refused: first hops that had waited for so long that their requests were turned away
    :ivar peak_threads: most tokens taken at once
    :ivar peak_waiting: most hops waiting at once
    :ivar waiting_since: time.monotonic() at which somebody began to wait and nobody else did;
        it holds as long as somebody waits
    """

    TOTALS = (
        "hops",
        "waits",
        "seconds_waited",
        "reserve_used",
        "stalls",
        "threads_grown",
        "deadlocks_averted",
        "quiet_used",
        "refused",
    )
    __slots__ = (*TOTALS, "peak_threads", "peak_waiting", "waiting_since")

    def __init__(self) -> None:
        self.hops = 0
        self.waits = 0
        self.seconds_waited = 0.0
        self.reserve_used = 0
        self.stalls = 0
        self.threads_grown = 0
        self.deadlocks_averted = 0
        self.quiet_used = 0
        self.refused = 0
        self.peak_threads = 0
        self.peak_waiting = 0
        self.waiting_since = 0.0

    def took(self, taken: int, extra: bool, beyond: bool = False, quiet: bool = False) -> None:
        """Count a token that was given out, `extra` ones by their kind."""
        self.peak_threads = max(self.peak_threads, taken)
        if quiet:
            self.quiet_used += 1
        elif beyond:
            self.threads_grown += 1
        elif extra:
            self.reserve_used += 1

    def wait_began(self, now: float, waiting: int) -> None:
        self.waits += 1
        if waiting == 1:
            self.waiting_since = now
        if waiting > self.peak_waiting:  # noqa: PLR1730 - for every hop that waits
            self.peak_waiting = waiting

    def add_totals(self, other: Counters) -> None:
        """Add what only ever grows, but not the high-water marks."""
        for name in self.TOTALS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
