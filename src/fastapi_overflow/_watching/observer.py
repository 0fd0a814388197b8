"""What a pool reports, and to whom it goes: to the log of stalls, and to who measures hops.

Called by every pool of a patched app, in its event loop's thread. It never raises: a fault of a
log handler or an exporter must not cost a token or stop the stall watch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from .._log import logger
from .._requests import limiters

if TYPE_CHECKING:
    from .._threads.pool import TokenPool
    from .episodes import Episodes
    from .overload_log import OverloadLog

    class Listener(Protocol):
        """Who is told of each hop, in its event loop's thread; seconds."""

        def waited(self, seconds: float) -> None: ...
        def used(self, seconds: float) -> None: ...


_listeners: tuple[Listener, ...] = ()
_faults: set[type[Exception]] = set()  # what was logged already


def install() -> None:
    """Have the pools of event loops to come report, each to an observer of its own."""
    limiters.make_observer = PoolObserver


def listen(listener: Listener) -> None:
    """Tell `listener` of each hop from now on, in the loops that are and those to come."""
    global _listeners
    _listeners = (*_listeners, listener)
    _report_hops()


def ignore(listener: Listener) -> None:
    """Tell `listener` no longer."""
    global _listeners
    _listeners = tuple(each for each in _listeners if each is not listener)
    _report_hops()


def _report_hops() -> None:
    for pool in limiters.live_pools():
        if isinstance(pool.observer, PoolObserver):
            pool.observer.attach(pool)


class PoolObserver:
    """Told by one pool; see `_threads.observer.Observer`."""

    _pool: TokenPool

    def __init__(self) -> None:
        self._episodes: Episodes | None = None  # made with the first stall
        self._overload_log: OverloadLog | None = None  # with the first request turned away
        self._began: dict[object, float] = {}  # time.monotonic(), by whose hops run

    def attach(self, pool: TokenPool) -> None:
        self._pool = pool
        self.report_hops()

    def report_hops(self) -> None:
        """Have the pool report hops if somebody wants to know of them; each costs a bit more."""
        if not _listeners:
            self._began.clear()
        self._pool.report_hops(bool(_listeners) or self._awaits_verdict())

    def _awaits_verdict(self) -> bool:
        return self._episodes is not None and self._episodes.awaits_verdict

    # ---- stalls

    def stalled(self, seconds: float) -> None:
        self._guarded(self._stalled, seconds)

    def _stalled(self, seconds: float) -> None:
        if self._episodes is None:
            from .episodes import Episodes  # late: most processes never stall

            self._episodes = Episodes(self._pool)
        self._episodes.stalled_look(seconds)
        self.report_hops()

    def stalled_for(self) -> float:
        """Return for how many seconds nothing has finished while somebody waits; 0 if it does."""
        return 0.0 if self._episodes is None else self._episodes.stuck_for()

    def grown(self) -> None:
        if self._episodes is not None:
            self._guarded(self._episodes.grown)

    def moved(self) -> None:
        if self._episodes is not None:
            self._guarded(self._episodes.moved)

    def over(self) -> None:
        if self._episodes is not None:
            self._guarded(self._episodes.over)

    def refused(self, seconds: float) -> None:
        self._guarded(self._refused, seconds)

    def _refused(self, seconds: float) -> None:
        if self._overload_log is None:
            from .overload_log import OverloadLog  # late, as above

            self._overload_log = OverloadLog()
        self._overload_log.refused(self._pool, seconds)

    def watch_failed(self, exc: Exception) -> None:
        _log_fault(exc)

    # ---- hops

    def hop_began(self, borrower: object, waited: float) -> None:
        if not _listeners:
            return
        self._began[borrower] = time.monotonic()
        for listener in _listeners:
            self._guarded(listener.waited, waited)

    def hop_ended(self, borrower: object, ran: bool) -> None:
        began = self._began.pop(borrower, None)
        if ran and began is not None:  # or else it began before anybody listened
            seconds = time.monotonic() - began
            for listener in _listeners:
                self._guarded(listener.used, seconds)
        if self._awaits_verdict():
            self._guarded(self._end_hop, borrower, ran)

    def _end_hop(self, borrower: object, ran: bool) -> None:
        if self._episodes is not None:
            self._episodes.hop_ended(borrower, ran)
            self.report_hops()

    @staticmethod
    def _guarded(report: Callable[..., None], *args: object) -> None:
        try:
            report(*args)
        except Exception as exc:
            _log_fault(exc)


def _log_fault(exc: Exception) -> None:
    """Log the first fault of each kind: they may come with every hop."""
    if type(exc) in _faults:
        return
    _faults.add(type(exc))
    try:
        logger.warning(
            "fastapi-overflow could not report what it does. The app goes on and is protected;"
            " an error of this kind is logged once.",
            exc_info=exc,
        )
    except Exception:  # noqa: S110 - it may be the log handler that fails
        pass
