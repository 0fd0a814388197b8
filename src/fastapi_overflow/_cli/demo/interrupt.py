"""Ctrl-C and SIGTERM during a demo: both unwind it, so that no server, table or file is left.

Installed by the runner while it runs. A signal must never take effect between the start of a
process and the point from which that process is sure to be killed.
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
    """Make both signals raise KeyboardInterrupt inside the block."""
    before = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Delay signals until the end of the block."""
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
