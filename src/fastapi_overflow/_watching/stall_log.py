"""Tell the operator of stalls: a warning with what the threads are blocked in, and how it ended.

Called when a stall has turned out to be worth telling (see `episodes`) and when it is over, in the
event loop's thread. It must never raise, and never say more than a pair of lines a minute.
"""

from __future__ import annotations

import time
from types import FrameType
from typing import TYPE_CHECKING

from .._log import logger

if TYPE_CHECKING:
    from .._threads.pool import TokenPool
    from .._threads.snapshot import Snapshot
    from .stacks import Group

SECONDS_BETWEEN = 60.0

_GROUPS = 5  # told in the line; all of them are in the record's `stacks`


class StallLog:
    """The stalls of one pool, for the log."""

    def __init__(self) -> None:
        self._last: float | None = None  # time.monotonic() of the last stall told
        self._noted = False  # the stall that is on, be it told or suppressed
        self._told = False  # the stall that is on
        self._untold: tuple[Snapshot, list[Group], float] | None = None
        self._suppressed = 0  # stalls that were not told since

    def note(self, pool: TokenPool, frames: list[FrameType], seconds: float) -> None:
        """Note once in a stall how things are, unless one was told less than a minute ago.

        :param frames: of the threads that run hops
        :param seconds: for which nothing has finished
        """
        if self._noted:
            return
        self._noted = True
        now = time.monotonic()
        if self._last is not None and now - self._last < SECONDS_BETWEEN:
            self._suppressed += 1
            return
        self._told = True
        self._last = now
        groups: list[Group] = []
        try:
            from . import stacks  # late: most processes never stall

            groups = stacks.grouped(frames)
        except Exception:  # noqa: S110 - whatever an interpreter's frames are
            pass
        self._untold = pool.snapshot(), groups, seconds

    def tell(self, pool: TokenPool) -> None:
        """Write what `note` has found; the pool has grown meanwhile, should a handler block."""
        if self._untold is None:
            return
        (view, groups, seconds), self._untold = self._untold, None
        suppressed, self._suppressed = self._suppressed, 0
        try:
            from . import stacks  # late, as above
            from .advice import PINNED, is_pinned, log_advice_once

            unknown = "not known" if stacks.can_be_read() else stacks.NOT_READ
            told = "; ".join(map(str, groups[:_GROUPS])) or unknown
            if len(groups) > _GROUPS:
                told += f"; {sum(g.threads for g in groups[_GROUPS:])} elsewhere"
            pinned = is_pinned(groups, view.waiting_later)
            logger.warning(
                "The thread pool is stalled: %d threads are taken, %d hops wait for one (%d of"
                " requests under way), nothing has finished for %.3g s. The threads: %s.%s%s",
                view.taken,
                view.waiting_first + view.waiting_later,
                view.waiting_later,
                seconds,
                told,
                f" {PINNED[0].upper()}{PINNED[1:]}." if pinned else "",
                f" {suppressed} stalls before this one were not logged." if suppressed else "",
                extra={
                    "event": "stall_begin",
                    "threads": view.taken,
                    "limit": view.limit,
                    "waiting_first": view.waiting_first,
                    "waiting_later": view.waiting_later,
                    "seconds": round(seconds, 3),
                    "stacks": [vars(group) for group in groups],
                    "pinned": pinned,
                    "suppressed": suppressed,
                },
            )
            log_advice_once(view.limit, int(view.limit - view.regular))
        except Exception:  # noqa: S110 - a handler of the app's; the loop must go on
            pass

    def ended(self, pool: TokenPool, seconds: float, grown: int) -> None:
        """Say that the stall is over, if it was told."""
        told, self._told, self._noted = self._told, False, False
        if not told:
            return
        try:
            logger.info(
                "The thread pool moves again after %.2f s, with %d threads beyond the limit.",
                seconds,
                grown,
                extra={
                    "event": "stall_end",
                    "seconds": round(seconds, 3),
                    "threads_grown": grown,
                    "threads": pool.snapshot().taken,
                    "deadlocks_averted": pool.counters.deadlocks_averted,
                },
            )
        except Exception:  # noqa: S110 - as above
            pass
