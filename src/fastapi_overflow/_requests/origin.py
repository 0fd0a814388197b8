"""Which line of the app takes a connection.

Called at a checkout whose way from the app's code differs from that of the one before. It must
never keep a frame, and with it the app's variables, alive.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

from .code_owner import module_of, owner_of

# Frames outside of the caller's own that are looked through for a line of the app's.
MOST_FRAMES = 60

# Files of which it is known whether they belong to SQLAlchemy: some hundred in a large app.
MOST_FILES = 4096

_SKIPPED = frozenset({"sqlalchemy", "sqlmodel", "fastapi_overflow"})

# Whoever calls the app's code: nothing behind it has to do with the checkout.
_CALLERS = frozenset(
    {"anyio", "asyncio", "concurrent", "fastapi", "starlette", "threading", "trio", "uvicorn"}
)

# By file: whether no code of the app's is in it. Looked at by each checkout.
is_library: dict[str, bool] = {}


def search(frame: FrameType) -> tuple[CodeType | None, int, int]:
    """Return the code that takes a connection, and the instruction it is at; None if unknown.

    The nearest code of the app's is meant, and where a library alone is on the way, the nearest
    line of that. The third number is how many frames it is away; 0 where it isn't worth a look
    there the next time.

    :param frame: of what stands in the place of the pool's method
    """
    depth = 0
    found: tuple[CodeType | None, int, int] = (None, 0, 0)
    each: FrameType | None = frame
    is_in_greenlet = False
    while each is not None and depth < MOST_FRAMES:
        skips = is_library.get(each.f_code.co_filename)
        if _learn(each) if skips is None else skips:
            pass
        elif module_of(each).partition(".")[0] in _CALLERS:
            break
        else:
            owner = owner_of(each)[1]
            if owner == "app":
                is_direct = found[0] is None and not is_in_greenlet
                return each.f_code, each.f_lasti, depth if is_direct else 0
            if owner == "package" and found[0] is None:
                found = each.f_code, each.f_lasti, 0
        outer = each.f_back
        if outer is None and not is_in_greenlet:
            is_in_greenlet = True
            outer = _around_greenlet()
        each = outer
        depth += 1
    return found


def _learn(frame: FrameType) -> bool:
    """Take note of whether a file is one in which no line of the app's can be."""
    if len(is_library) >= MOST_FILES:
        is_library.clear()
    module = module_of(frame)
    skips = module.partition(".")[0] in _SKIPPED or owner_of(frame)[1] == "stdlib"
    is_library[frame.f_code.co_filename] = skips
    return skips


def _around_greenlet() -> FrameType | None:
    """Return the frame that has entered the greenlet that runs here: SQLAlchemy's async engines."""
    greenlet: Any = sys.modules.get("greenlet")
    try:
        frame: FrameType | None = greenlet.getcurrent().parent.gr_frame
    except AttributeError:
        return None
    return frame


def line_of(code: CodeType | None, instruction: int) -> str | None:
    """Return file and line of an instruction, as the file would be imported."""
    if code is None:
        return None
    from .code_owner import described  # what is asked for seldom

    line = code.co_firstlineno
    for begin, end, number in code.co_lines():
        if begin <= instruction < end and number is not None:
            line = number
    return f"{described(code.co_filename, '')[0]}:{line}"
