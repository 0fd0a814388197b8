"""Ctrl-C and SIGTERM during a demo: both unwind it, so that servers, tables and files go too.

Installed by the runner, for its time. It must never interrupt between the start of a process and
the moment when somebody is bound to kill it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_held = False
_pending = False


@contextmanager
def unwinding() -> Iterator[None]:
    """Have both signals raise KeyboardInterrupt."""
    before = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Have a signal wait for the end of the block."""
    global _held, _pending
    _held = True
    try:
        yield
    finally:
        _held = False
        if _pending:
            _pending = False
            raise KeyboardInterrupt


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    global _pending
    if _held:
        _pending = True
    else:
        raise KeyboardInterrupt
