"""The gate: how many threads new requests may use while threads queue for database connections.

Asked by the stall watch while somebody waits. A thread that waits for a connection does no work and
costs: with 39 threads on 15 connections a request took 20 % more processor time than with 16. It
must never be a reason for requests not to begin: it opens wherever closing it is no help.
"""

from __future__ import annotations

import math

# Looks in which the queue for connections must get shorter once the gate is closed. Else it was no
# help: the connections are held for long, and the other threads serve those who need none.
PATIENCE = 4

# Looks for which the gate then stays open, twice as many each time. Guesses: 1 s, up to a minute.
FIRST_REST = 20
LONGEST_REST = 1280

# Looks without a queue after which the gate lets one more in, and after which it does at each look,
# 2, 4, 8, ... at once. A look sees one moment, and most queues are gone in the next: with fewer the
# gate was too wide half of the time.
QUIET = 5
CALM = 20

LEAST = 0.25  # of the limit: what new requests may use whatever happens; a guess


class Gate:
    """How many regular tokens may be taken until first hops get none.

    :param on: False: never closed
    :ivar width: so many tokens; math.inf while it is open
    """

    __slots__ = ("_patience", "_queued", "_quiet", "_rest", "_rests", "on", "width")

    def __init__(self, on: bool) -> None:
        self.on = on
        self._rests = FIRST_REST  # looks to rest for, the next time that closing is no help
        self._rest = 0  # looks until the gate may close
        self.open()

    def open(self) -> None:
        """Let everybody in."""
        self.width = math.inf
        self._queued = 0  # threads that waited for a connection at the last look
        self._quiet = 0  # looks since there were any
        self._patience = PATIENCE

    def look(self, taken: int, total: float, queued: int) -> None:
        """Set the width anew.

        :param taken: regular tokens
        :param total: regular tokens that there are
        :param queued: threads that wait for a connection
        """
        if self._rest:
            self._rest -= 1
        elif queued:
            self._close(taken, total, queued)
        else:
            self._widen(total)
        self._queued = queued

    def _close(self, taken: int, total: float, queued: int) -> None:
        self._quiet = 0
        if self._queued:
            self._patience -= queued >= self._queued
        if self._patience:
            self.width = max(taken - queued, LEAST * total)
        else:
            self.open()
            self._rest, self._rests = self._rests, min(2 * self._rests, LONGEST_REST)

    def _widen(self, total: float) -> None:
        self._patience = PATIENCE
        self._rests = FIRST_REST
        self._quiet += 1
        if self._quiet > CALM:
            self.width += 2 ** (self._quiet - CALM)
        elif not self._quiet % QUIET:
            self.width += 1
        if self.width >= total:
            self.open()
