"""What stops the protection, and the remedy: a hook that is not armed, a file that hides a package.

Called by the examination when it has found an app unprotected. It must never import what it
examines.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

REINSTALL = "pip install --force-reinstall fastapi-overflow"
PATCH = "call fastapi_overflow.patch() at the top of the module that creates the app"


@dataclass(frozen=True)
class Problem:
    """What stops the protection, and the remedy: two sentences without their full stops."""

    problem: str
    remedy: str


def hook_files() -> list[Path]:
    """Return the package's .start and .pth files that this Python reads when it starts."""
    names = ["fastapi_overflow.pth"]
    if sys.version_info >= (3, 15):  # PEP 829: .start comes first
        names.insert(0, "fastapi_overflow.start")
    files = (folder / name for name in names for folder in _site_directories())
    return [file for file in files if file.exists()]


def why_not_armed(package: Path) -> Problem:
    """Find out why nothing has armed the hook.

    :param package: the folder that this package was imported from
    """
    if sys.flags.no_site:
        return Problem(
            "this Python was started without `site` (option -S), which runs the .pth files",
            f"start it without -S, or {PATCH}",
        )
    hooks = hook_files()
    for hook in hooks:
        if _is_hidden(hook):
            command = "attrib -h" if os.name == "nt" else "chflags nohidden"
            return Problem(
                f"{hook} is hidden, and Python skips hidden .pth files",
                f"run: {command} '{hook}'",
            )
    if hooks:
        return Problem(
            f"{hooks[0]} is there but did not arm the hook when this Python started",
            f"restore it: {REINSTALL}",
        )
    home = package.parent
    if any(_same(home, folder) for folder in _site_directories()):
        return Problem(f"fastapi_overflow.pth is missing from {home}", f"restore it: {REINSTALL}")
    return Problem(
        f"the package comes from {home}, which is not a site directory of this Python (PYTHONPATH, "
        "`pip install --target`): Python runs no .pth files from there",
        f"install it into the environment itself: pip install fastapi-overflow; or {PATCH}",
    )


def name_conflict(name: str) -> Problem | None:
    """Return the file of the user's that hides an installed package, as a fastapi.py would."""
    try:
        spec = find_spec(name)
        installed = Path(str(distribution(name).locate_file(f"{name}/__init__.py")))
    except (ImportError, ValueError, PackageNotFoundError):
        return None
    if spec is None or not spec.origin or not installed.exists():
        return None  # nothing of that name, or an editable installation
    if _same(Path(spec.origin), installed):
        return None
    return Problem(f"{spec.origin} hides the installed package {name}", "rename it")


def _site_directories() -> list[Path]:
    import site

    folders = list(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return [Path(folder) for folder in folders]


def _is_hidden(file: Path) -> bool:
    """Tell whether `site` skips a .pth file because it is hidden, on macOS or on Windows."""
    found = file.lstat()
    return bool(
        getattr(found, "st_flags", 0) & stat.UF_HIDDEN
        or getattr(found, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_HIDDEN
    )


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
