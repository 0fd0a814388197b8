"""Whose code a frame runs, and how its file is printed.

Called while threads' stacks are read (see `stacks`). Libraries are recognised by the names of their
modules, not by their folders: `uv run --with`, `pip install --target`, PYTHONPATH and zips put them
anywhere. It must never call code of the app: `__name__` in a module's globals may be any object.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from types import FrameType
from typing import Literal

Owner = Literal["stdlib", "package", "app"]

# SQLAlchemy's copy of the standard library's queue: what matters is who calls it.
_COPIES = ("sqlalchemy.util.queue",)

# Recognised wherever they are, also where whoever packed them has left out the `*.dist-info`.
_LIBRARIES = frozenset(
    ("anyio", "fastapi", "psycopg", "psycopg_pool", "sqlalchemy", "sqlmodel", "starlette", "trio")
)

_PACKAGE_FOLDERS = ("/site-packages/", "/dist-packages/")


def _folder(path: str) -> str:
    return path.replace("\\", "/").rstrip("/") + "/"


# In a frozen interpreter `os` may have no file.
_STDLIB = _folder(os.path.dirname(os.__file__)) if hasattr(os, "__file__") else "<frozen"


def module_of(frame: FrameType) -> str:
    """Return the name of the module that a frame's code belongs to, "" if unknown."""
    try:
        name = dict.get(frame.f_globals, "__name__")
    except TypeError:
        return ""  # not a dict
    return name if type(name) is str else ""


def is_stdlib(module: str) -> bool:
    """Tell whether a module belongs to the standard library, or is a copy of one that does."""
    return module.partition(".")[0] in sys.stdlib_module_names or module in _COPIES


def owner_of(frame: FrameType) -> tuple[str, Owner]:
    """Return the file of a frame as it would be imported, and who owns it."""
    # Not `co_filename.replace()`: it may be of a subclass of str.
    return described(str.replace(frame.f_code.co_filename, "\\", "/"), module_of(frame))


@lru_cache(maxsize=1024)
def described(path: str, module: str) -> tuple[str, Owner]:
    """Return a file as it would be imported, and who owns it.

    Generated code counts as the standard library, so that its caller is printed instead.

    :param module: the name of the module, "" if unknown
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
    top_level = module.partition(".")[0]
    if top_level in _LIBRARIES or any(folder in path for folder in _PACKAGE_FOLDERS):
        return "package"
    if is_stdlib(module) or path.startswith(_STDLIB):
        return "stdlib"
    entry = _sys_path_entry(path)
    if entry and top_level in _installed_in(entry.rstrip("/") or "/"):
        return "package"
    return "app"


def _sys_path_entry(path: str) -> str:
    """Return the longest entry of `sys.path` that holds a file, with a slash at the end, or ""."""
    best = ""
    for entry in tuple(sys.path):
        if not isinstance(entry, str):
            continue  # the import system ignores it too
        try:
            # Servers add relative entries, and "" for the current folder, to find the app.
            folder = _folder(os.path.abspath(entry))
        except OSError:
            continue  # the current folder is gone
        if path.startswith(folder) and len(folder) > len(best):
            best = folder
    return best


@lru_cache(maxsize=64)
def _installed_in(entry: str) -> frozenset[str]:
    """Return the top-level names that an installer has put into an entry of `sys.path`.

    It leaves `*.dist-info` folders there, which list the files. An app's source has none.
    """
    from importlib.machinery import PathFinder  # late: only needed in a stall
    from importlib.metadata import DistributionFinder

    names: set[str] = set()
    try:
        # Not importlib.metadata.distributions(): that calls finders that the app has added.
        context = DistributionFinder.Context(path=[entry])
        for found in PathFinder.find_distributions(context):
            # An egg-info folder beside an app's source has no such file.
            if found.read_text("WHEEL") is not None:
                record = found.read_text("RECORD") or ""
                names |= {line.partition("/")[0].partition(".")[0] for line in record.splitlines()}
    except Exception:  # noqa: S110 - metadata may be broken in any way
        pass
    return frozenset(names - {""})
