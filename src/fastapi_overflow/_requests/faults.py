"""Faults of our own: told once, and no request's.

Put around what is called for requests and by event loops. It must never raise by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from .._log import warn

P = ParamSpec("P")
T = TypeVar("T")


def never_raises(function: Callable[P, T]) -> Callable[P, T | None]:
    """Have a fault of ours be told, once, and not be the request's."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return function(*args, **kwargs)
        except Exception as exc:
            tell(exc)
            return None

    return guarded


def tell(exc: Exception) -> None:
    """Tell of a fault of ours, if it is the first one."""
    global _has_failed
    if not _has_failed:
        _has_failed = True
        warn("A fault of fastapi-overflow's own; the request goes on without: %r", exc)


_has_failed = False
