"""Whose code a frame runs, and how its file is printed.

Called while threads' stacks are read: 20 times a second while requests queue, and in a stall. A
library is recognised by the names of its modules, not by where it is installed: `uv run --with`,
`pip install --target`, PYTHONPATH and zips put it anywhere. It must never call code of the app: a
module's globals may hold anything under `__name__`.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from types import FrameType
from typing import Literal

Owner = Literal["stdlib", "package", "app"]

# SQLAlchemy's copy of the standard library's queue: its caller tells what is waited for.
_COPIES = ("sqlalchemy.util.queue",)

_PACKAGE_FOLDERS = ("/site-packages/", "/dist-packages/")


def _folder(path: str) -> str:
    return path.replace("\\", "/").rstrip("/") + "/"


# A frozen interpreter's modules may have no file.
_STDLIB = _folder(os.path.dirname(os.__file__)) if hasattr(os, "__file__") else "<frozen"


def module_of(frame: FrameType) -> str:
    """Return the name of the module that a frame's code belongs to, "" if it isn't known."""
    try:
        name = dict.get(frame.f_globals, "__name__")
    except TypeError:
        return ""  # not a dict
    return name if type(name) is str else ""


def is_stdlib(module: str) -> bool:
    """Tell whether a module is the standard library's, or a copy of one."""
    return module.partition(".")[0] in sys.stdlib_module_names or module in _COPIES


def owner_of(frame: FrameType) -> tuple[str, Owner]:
    """Return the file of a frame as it would be imported, and whose it is."""
    # Not the method of the path itself: str is the only class whose code may run here.
    return described(str.replace(frame.f_code.co_filename, "\\", "/"), module_of(frame))


@lru_cache(maxsize=1024)
def described(path: str, module: str) -> tuple[str, Owner]:
    """Return a file as it would be imported, and whose it is.

    Generated code counts as the standard library: whoever called it says more.

    :param module: the name of the module, "" if it isn't known
    """
    path = path.replace("\\", "/")
    if path.startswith("<"):
        return path, "app" if module == "__main__" else "stdlib"
    return _short(path, module), _owner(path, module)


def _short(path: str, module: str) -> str:
    if module and module != "__main__":
        as_imported = module.replace(".", "/")
        for tail in (f"{as_imported}.py", f"{as_imported}/__init__.py"):
            if f"/{path}".endswith(f"/{tail}"):
                return tail
    for folder in _PACKAGE_FOLDERS:
        if folder in path:
            return path.rpartition(folder)[2]
    if path.startswith(_STDLIB):
        return path[len(_STDLIB) :]
    return path[len(_sys_path_entry(path)) :]


def _owner(path: str, module: str) -> Owner:
    if module in _COPIES:
        return "stdlib"
    if any(folder in path for folder in _PACKAGE_FOLDERS):
        return "package"
    if is_stdlib(module) or path.startswith(_STDLIB):
        return "stdlib"
    entry = _sys_path_entry(path)
    if entry and module.partition(".")[0] in _installed_in(entry.rstrip("/") or "/"):
        return "package"
    return "app"


def _sys_path_entry(path: str) -> str:
    """Return the longest entry of `sys.path` that a file is in, with a slash at the end, or ""."""
    best = ""
    for entry in tuple(sys.path):
        if not isinstance(entry, str):
            continue  # the import system ignores it too
        try:
            # Relative ones, and "" for the current folder: servers put them there to find the app.
            folder = _folder(os.path.abspath(entry))
        except OSError:
            continue  # the current folder is gone
        if path.startswith(folder) and len(folder) > len(best):
            best = folder
    return best


@lru_cache(maxsize=64)
def _installed_in(entry: str) -> frozenset[str]:
    """Return the names that can be imported because an installer put them into a path entry.

    The `*.dist-info` folders there tell: `pip install --target` leaves them, an app's source has
    none.
    """
    from importlib.machinery import PathFinder  # late: only a stall outside of site-packages
    from importlib.metadata import DistributionFinder

    names: set[str] = set()
    try:
        # Not importlib.metadata.distributions(): it asks the finders that the app has added too.
        context = DistributionFinder.Context(path=[entry])
        for found in PathFinder.find_distributions(context):
            # The egg-info beside the source of an app that is being developed has no such file.
            if found.read_text("WHEEL") is not None:
                record = found.read_text("RECORD") or ""
                names |= {line.partition("/")[0].partition(".")[0] for line in record.splitlines()}
    except Exception:  # noqa: S110 - whatever is wrong with the metadata of others
        pass
    return frozenset(names - {""})
