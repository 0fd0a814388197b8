"""What somebody asks for: `set_thread_limit()`.

Called by apps, from the event loop, from worker threads and before any loop runs.
"""

from __future__ import annotations

from anyio import from_thread

from .. import _settings
from .._log import warn
from .limiters import current_limiter


def set_thread_limit(limit: int = 40, anti_deadlock_reserve: int = 1) -> None:
    """Set how many threads the sync code of an app may use at once.

    In an event loop, or in one of its worker threads, it holds for that loop and at once: raising
    the limit wakes those waiting, lowering it ends no thread that is busy. Anywhere else it holds
    for the loops to come. With FASTAPI_OVERFLOW_DISABLE set it does nothing.

    :param limit: threads per event loop, at least 3
    :param anti_deadlock_reserve: threads of the limit that only requests already under way may
        use; 0 < anti_deadlock_reserve < limit - 1
    :raises TypeError: for what is not an int (a bool is none)
    :raises ValueError: for what breaks the rules above
    """
    for name, value in (("limit", limit), ("anti_deadlock_reserve", anti_deadlock_reserve)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int, got {value!r}")
    if limit < 3:
        raise ValueError(f"limit must be {_settings.LIMIT_RULE}, got {limit}")
    if not 0 < anti_deadlock_reserve < limit - 1:
        rule = _settings.RESERVE_RULE.replace("reserve", "anti_deadlock_reserve")
        raise ValueError(
            f"anti_deadlock_reserve must be {rule} (the limit is {limit}), "
            f"got {anti_deadlock_reserve}"
        )
    if _settings.is_disabled():
        warn("set_thread_limit() has no effect: FASTAPI_OVERFLOW_DISABLE is set")
    elif _is_in_event_loop():
        current_limiter().pool.resize(limit, anti_deadlock_reserve)
    else:
        try:
            from_thread.run_sync(
                lambda: current_limiter().pool.resize(limit, anti_deadlock_reserve)
            )
        except RuntimeError:  # not in a worker thread either
            _settings.choose(limit=limit, reserve=anti_deadlock_reserve)


def _is_in_event_loop() -> bool:
    try:
        current_limiter()
    except _settings.SettingsError:
        raise
    except Exception:
        return False
    return True
