"""What requests have been seen to do that they had better not.

Called by `advise()`.
"""

from __future__ import annotations

from .._requests import checkouts
from .connection_log import ConnectionLog


def seen() -> list[str]:
    """Return what has been told of single routes: queries on the event loop, two connections."""
    observer = checkouts.observer
    return observer.seen() if isinstance(observer, ConnectionLog) else []
