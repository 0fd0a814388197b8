"""How often an operator is told of what goes on: seldom, and what is left out is counted.

Asked before each record of the connections' log, in any thread. It must stay small.
"""

from __future__ import annotations

import os
import time
from threading import RLock

SECONDS_BETWEEN = 60.0

MOST_KEYS = 1024  # kinds and pools that are told apart


class HowOften:
    """A record a minute of each kind and pool."""

    def __init__(self) -> None:
        # Not a Lock: the garbage collector may return a connection in the middle of these lines.
        self._lock = RLock()
        self._last: dict[tuple[str, str], float] = {}
        self._suppressed: dict[tuple[str, str], int] = {}
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start_over)

    def _start_over(self) -> None:
        self._lock = RLock()  # another thread of the parent's may have been at it

    def may_tell(self, kind: str, pool: str) -> int | None:
        """Return how many of a kind were left out before this one; None if this one is to be."""
        key = kind, pool
        now = time.monotonic()
        with self._lock:
            if now - self._last.get(key, -SECONDS_BETWEEN) < SECONDS_BETWEEN:
                self._suppressed[key] = self._suppressed.get(key, 0) + 1
                return None
            if len(self._last) >= MOST_KEYS:  # pools without end
                self._last.clear()
                self._suppressed.clear()
            self._last[key] = now
            return self._suppressed.pop(key, 0)
