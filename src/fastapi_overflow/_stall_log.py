"""Tell the operator of stalls: a warning when one begins, with what the threads are blocked in.

Called when a stall begins and when it is over, in the event loop's thread. It must never raise, and
never say more than a pair of lines a minute.
"""

from __future__ import annotations

import time
from types import FrameType
from typing import TYPE_CHECKING

from ._settings import logger

if TYPE_CHECKING:
    from . import _stacks
    from ._counters import View
    from ._pool import TokenPool

SECONDS_BETWEEN = 60.0

_GROUPS = 5  # told in the line; all of them are in the record's `stacks`


class StallLog:
    """The stalls of one pool, for the log."""

    def __init__(self) -> None:
        self._last: float | None = None  # time.monotonic() of the last stall told
        self._telling = False
        self._untold: tuple[View, list[_stacks.Group]] | None = None
        self._suppressed = 0  # stalls that were not told since

    def began(self, pool: TokenPool, frames: list[FrameType] | None) -> None:
        """Note how things are when a stall begins, unless one was told less than a minute ago.

        :param frames: of the threads that run hops, where they were taken already
        """
        now = time.monotonic()
        self._telling = self._last is None or now - self._last >= SECONDS_BETWEEN
        if not self._telling:
            self._suppressed += 1
            return
        self._last = now
        try:
            from . import _stacks  # late: most processes never stall

            if frames is None:
                frames = _stacks.hop_frames(pool.loop)
            self._untold = pool.view(), _stacks.grouped(frames)
        except Exception:  # whatever an interpreter's frames are
            self._untold = pool.view(), []

    def tell(self, pool: TokenPool) -> None:
        """Write what `began` has noted; the pool has grown meanwhile, should a handler block."""
        if self._untold is None:
            return
        (view, groups), self._untold = self._untold, None
        suppressed, self._suppressed = self._suppressed, 0
        told = "; ".join(map(str, groups[:_GROUPS])) or "not known"
        if len(groups) > _GROUPS:
            told += f"; {sum(g.threads for g in groups[_GROUPS:])} elsewhere"
        try:
            from ._advice import PINNED, is_pinned, log_advice_once  # late, as above

            pinned = is_pinned(groups, view.waiting_later)
            logger.warning(
                "The thread pool is stalled: %d threads are taken, %d hops wait for one (%d of"
                " requests under way), nothing has finished for %g s. The threads: %s.%s%s",
                view.taken,
                view.waiting_first + view.waiting_later,
                view.waiting_later,
                pool.stall_seconds,
                told,
                f" {PINNED[0].upper()}{PINNED[1:]}." if pinned else "",
                f" {suppressed} stalls before this one were not logged." if suppressed else "",
                extra={
                    "event": "stall_begin",
                    "threads": view.taken,
                    "limit": view.limit,
                    "waiting_first": view.waiting_first,
                    "waiting_later": view.waiting_later,
                    "stall_seconds": pool.stall_seconds,
                    "stacks": [vars(group) for group in groups],
                    "pinned": pinned,
                    "suppressed": suppressed,
                },
            )
            log_advice_once(view.limit, int(view.limit - view.regular))
        except Exception:  # noqa: S110 - a handler of the app's; the loop must go on
            pass

    def ended(self, pool: TokenPool, seconds: float, grown: int) -> None:
        """Say that the stall that was told last is over."""
        if not self._telling:
            return
        self._telling = False
        try:
            logger.info(
                "The thread pool moves again after %.2f s, with %d threads beyond the limit.",
                seconds,
                grown,
                extra={
                    "event": "stall_end",
                    "seconds": seconds,
                    "threads_grown": grown,
                    "threads": pool.view().taken,
                    "deadlocks_averted": pool.counters.deadlocks_averted,
                },
            )
        except Exception:  # noqa: S110 - as above
            pass
