"""What requests have been seen to do that they had better not.

Called by `advise()`.
"""

from __future__ import annotations


def seen() -> list[str]:
    """Return advice on what has been seen in this process: nothing yet."""
    return []
