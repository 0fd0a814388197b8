"""Which line of the app takes a connection.

Called at a checkout that comes from a file never seen before, or through a library. It must never
raise, and never keep a frame, and with it the app's variables, alive.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

from .awaiting import frames_of, task_that_awaits_this_hop
from .code_owner import described, module_of, owner_of

# Frames outside of the caller's own that are looked through for a line of the app's.
MOST_FRAMES = 60

# Files, and packages with endpoints, that are remembered: some hundred in a large app.
MOST_FILES = 4096

_SKIPPED = frozenset({"sqlalchemy", "sqlmodel", "fastapi_overflow"})

# Whoever calls the app's code: nothing behind it has to do with the checkout.
_CALLERS = frozenset(
    {"anyio", "asyncio", "concurrent", "fastapi", "starlette", "threading", "trio", "uvicorn"}
)

# What stands between a line of the app's that awaits a hop, and the hop.
_HOPS = frozenset(
    {"anyio", "asyncio", "contextlib", "fastapi_overflow", "wrapt"}
    | {f"{package}.concurrency" for package in ("fastapi", "starlette")}
)

# By file: True where no line of the app's can be, False where each one is. Each checkout goes
# through these: the first frame that isn't in a file of the first kind has taken the connection, if
# it is in one of the second. What is in neither is searched.
is_library: dict[str, bool] = {}

# Packages that have endpoints: an app may be installed like a library, as in a container.
_with_endpoints: set[str] = set()

Found = tuple[CodeType | None, int]


def search(frame: FrameType) -> Found:
    """Return the code that takes a connection, and the instruction it is at; None if unknown.

    The nearest code of the app's is meant, be it that which awaits the hop in this thread; and
    where libraries alone are on the way, the nearest line of these.

    :param frame: of whatever has called the pool
    """
    try:
        return _search(frame)
    except Exception:
        return None, 0  # of no line: what an app puts into its code objects and modules is its own


def _search(frame: FrameType) -> Found:
    found: Found = None, 0
    each: FrameType | None = frame
    is_in_greenlet = False
    for _ in range(MOST_FRAMES):
        if each is None and not is_in_greenlet:
            is_in_greenlet = True
            each = _around_greenlet()
        if each is None:
            break
        skips = is_library.get(each.f_code.co_filename)
        if skips is None:
            skips = _learn(each)
        if skips is False:
            return each.f_code, each.f_lasti
        if skips is None:
            package = _package_of(each)
            if package in _CALLERS:
                break
            if found[0] is None and package not in _SKIPPED and owner_of(each)[1] == "package":
                found = each.f_code, each.f_lasti
        each = each.f_back
    awaiting = _awaiting()
    return found if awaiting[0] is None else awaiting


def _awaiting() -> Found:
    """Return the line of the app's that awaits this hop: of `run_in_threadpool(db.execute)`."""
    task = task_that_awaits_this_hop()
    if task is None:
        return None, 0
    for frame in reversed(list(frames_of(task))):
        skips = is_library.get(frame.f_code.co_filename)
        if skips is None:
            skips = _learn(frame)
        if skips is False:
            return frame.f_code, frame.f_lasti
        module = module_of(frame)
        if not {module, module.partition(".")[0]} & _HOPS:
            break  # it is no code of the app's that makes this hop
    return None, 0


def _learn(frame: FrameType) -> bool | None:
    """Take note of whose a file is; return what `is_library` has of it then."""
    file = frame.f_code.co_filename
    package = _package_of(frame)
    if package in _CALLERS:
        return None
    if file.startswith("<"):
        skips = True
        if getattr(sys.modules.get("__main__"), "__file__", None) is None:
            # `python -c`: it is in the same "<string>" as what SQLAlchemy generates.
            return package != "__main__"
    elif package in _SKIPPED or owner_of(frame)[1] == "stdlib":
        skips = True
    elif package in _with_endpoints or owner_of(frame)[1] == "app":
        skips = False
    else:
        return None
    if len(is_library) >= MOST_FILES:
        is_library.clear()
    is_library[file] = skips
    return skips


def _package_of(frame: FrameType) -> str:
    return module_of(frame).partition(".")[0]


def note_endpoint(endpoint: Any) -> None:
    """Take note of a package that answers requests: its code counts as the app's."""
    module = getattr(endpoint, "__module__", None)
    package = module.partition(".")[0] if type(module) is str else ""
    if package and package not in _CALLERS and len(_with_endpoints) < MOST_FILES:
        _with_endpoints.add(package)


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
    line = code.co_firstlineno
    for begin, end, number in code.co_lines():
        if begin <= instruction < end and number is not None:
            line = number
    return f"{described(code.co_filename, '')[0]}:{line}"
