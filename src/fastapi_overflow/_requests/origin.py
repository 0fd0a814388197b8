"""Which line of the app takes a connection.

Called at every checkout of a pool that is watched, so it mostly looks at two frames only. It must
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

_is_skipped: dict[str, bool] = {}
_usual_depth = 1


def origin() -> tuple[CodeType | None, int]:
    """Return the code that takes a connection, and the instruction it is at; None if unknown.

    To be called by what stands in the place of the pool's method. The nearest code of the app's is
    meant, and where a library alone is on the way, the nearest line of that.
    """
    # The same way leads there most times: then two frames tell.
    try:
        frame = sys._getframe(_usual_depth)
        before = sys._getframe(_usual_depth - 1)
        if _is_skipped[before.f_code.co_filename] and not _is_skipped[frame.f_code.co_filename]:
            return frame.f_code, frame.f_lasti
    except (ValueError, KeyError):
        pass  # not so deep, or never seen
    return _search(sys._getframe(1))


def _search(frame: FrameType) -> tuple[CodeType | None, int]:
    global _usual_depth
    depth = 1
    found: tuple[CodeType | None, int] = (None, 0)
    each: FrameType | None = frame
    is_in_greenlet = False
    while each is not None and depth < MOST_FRAMES:
        file = each.f_code.co_filename
        is_skipped = _is_skipped.get(file)
        if is_skipped is None:
            is_skipped = _learn(each)
        if not is_skipped:
            top_level = module_of(each).partition(".")[0]
            if top_level in _CALLERS:
                break
            owner = owner_of(each)[1]
            if owner == "app":
                if not is_in_greenlet and found[0] is None:
                    _usual_depth = depth
                return each.f_code, each.f_lasti
            if owner == "package" and found[0] is None:
                found = each.f_code, each.f_lasti
        outer = each.f_back
        if outer is None and not is_in_greenlet:
            is_in_greenlet = True
            outer = _around_greenlet()
        each = outer
        depth += 1
    return found


def _learn(frame: FrameType) -> bool:
    """Take note of whether a file is one in which no line of the app's can be."""
    if len(_is_skipped) >= MOST_FILES:
        _is_skipped.clear()
    module = module_of(frame)
    is_skipped = module.partition(".")[0] in _SKIPPED or owner_of(frame)[1] == "stdlib"
    _is_skipped[frame.f_code.co_filename] = is_skipped
    return is_skipped


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
