"""A connection that is out: who has taken it, when, and which line of the app did.

Written at each checkout, where it is a bare tuple: making one of a class of its own takes four
times as long. Read by those who look.
"""

from __future__ import annotations

from types import CodeType
from typing import Any, NamedTuple


class Taken(NamedTuple):
    """A connection that is out.

    :ivar account: of whoever has taken it: it has a `holder` and a `ledger`
    :ivar since: time.monotonic() at which it was taken
    :ivar code: of the app, that has taken it; None if unknown
    :ivar instruction: of the code
    """

    account: Any
    since: float
    code: CodeType | None
    instruction: int
