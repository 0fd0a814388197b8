"""What one request has done with one pool, from its route on.

Written as it goes on; its route's habits learn from it at its end. It must stay small.
"""

from __future__ import annotations


class Visit:
    """What one request has done with one pool.

    :ivar began: time.monotonic() when it reached its route, or was let in
    :ivar takes: connections that it has taken
    :ivar most: at once
    :ivar most_elsewhere: at once when it took one elsewhere than in a hop's thread
    :ivar idle: seconds until it took the first
    :ivar again: most seconds without any until it took another
    :ivar kept: seconds with one at least
    :ivar late: where it has taken one on an event loop, while it had none, after a hop of its own
        or from within one: how many it had taken by then, how many hops it had made, whether the
        last of these still ran, and for how many seconds, or since how many it had ended; math.inf
        for unknown
    :ivar has_failed: whether it has failed for want of one
    """

    __slots__ = (
        "again",
        "began",
        "has_failed",
        "idle",
        "kept",
        "late",
        "most",
        "most_elsewhere",
        "takes",
    )

    def __init__(self, began: float, held: int = 0) -> None:
        self.start_over(began, held)

    def start_over(self, began: float, held: int) -> None:
        self.began = began
        self.takes = 0
        self.most = held
        self.most_elsewhere = 0
        self.idle = 0.0
        self.again = 0.0
        self.kept = 0.0
        self.late: tuple[tuple[int, int, bool, float], ...] = ()
        self.has_failed = False

    def copy(self) -> Visit:
        visit = Visit(self.began)
        for name in Visit.__slots__:
            setattr(visit, name, getattr(self, name))
        return visit

    def together(self, later: Visit | None) -> Visit:
        """Return this and what came after as one."""
        visit = self.copy()
        if later is not None:
            visit.takes += later.takes
            visit.most = max(visit.most, later.most)
            visit.most_elsewhere = max(visit.most_elsewhere, later.most_elsewhere)
            visit.again = max(visit.again, later.again)
            visit.kept += later.kept
            visit.has_failed = visit.has_failed or later.has_failed
        return visit
