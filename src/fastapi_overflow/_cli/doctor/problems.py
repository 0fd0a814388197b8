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

from ..run import FOLDER

REINSTALL = "pip install --force-reinstall fastapi-overflow"
PATCH = "call fastapi_overflow.patch() at the top of the module that creates the app"
RUN = "start it by: python -m fastapi_overflow run COMMAND"


@dataclass(frozen=True)
class Problem:
    """What stops the protection, and the remedy: two sentences without their full stops."""

    problem: str
    remedy: str


def hook_files() -> list[Path]:
    """Return the package's .start and .pth files that this Python reads when it starts."""
    files = (folder / name for name in _hook_names() for folder in site_directories())
    # Not file.exists(): that raises for a folder that this user may not look into.
    return [file for file in files if os.path.exists(file)]


def _hook_names() -> list[str]:
    if sys.version_info < (3, 15):
        return ["fastapi_overflow.pth"]
    # PEP 829: .start comes first, and from 3.18 on the line of the .pth is ignored.
    names = ["fastapi_overflow.start", "fastapi_overflow.pth"]
    return names[:1] if sys.version_info >= (3, 18) else names


def why_not_armed(package: Path) -> Problem:
    """Find out why nothing has armed the hook.

    :param package: the folder that this package was imported from
    """
    if sys.flags.no_site:
        return Problem(
            "this Python was started without `site` (option -S), which runs the .pth files",
            f"start it without -S, or {PATCH}",
        )
    if FOLDER in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        return _why_run_did_nothing()
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
    return _why_no_hook(package)


def _why_no_hook(package: Path) -> Problem:
    home = package.parent
    if any(same(home, folder) for folder in site_directories()):
        return Problem(
            f"{_hook_names()[-1]} is missing from {home}",
            f"restore it: {REINSTALL}; or, where such files aren't allowed, {RUN}",
        )
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        return Problem(
            f"on AWS Lambda the package comes from {home}, from where Python runs no .pth files",
            f"{PATCH}; or have AWS_LAMBDA_EXEC_WRAPPER name a script with the line "
            '`exec python -m fastapi_overflow run "$@"`',
        )
    if archive := next((path for path in package.parents if path.is_file()), None):
        return Problem(
            f"the package comes from the archive {archive}, from where Python runs no .pth files",
            f"{PATCH}; or, with the archive on PYTHONPATH, {RUN}",
        )
    return Problem(
        f"the package comes from {home}, which is not a site directory of this Python (PYTHONPATH, "
        "`pip install --target`): Python runs no .pth files from there",
        f"{RUN}; or install it into the environment itself: pip install fastapi-overflow; "
        f"or {PATCH}",
    )


def _why_run_did_nothing() -> Problem:
    if sys.flags.ignore_environment:
        return Problem(
            "this Python was started with -I or -E, so `fastapi-overflow run` doesn't reach it",
            f"start it without, or {PATCH}",
        )
    other = getattr(sys.modules.get("sitecustomize"), "__file__", None) or "another sitecustomize"
    return Problem(
        f"{other} came first and imports no other, as `fastapi-overflow run` needs",
        f"have `fastapi-overflow run` after the other command, right before the app's; or {PATCH}",
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
    if same(Path(spec.origin), installed):
        return None
    return Problem(f"{spec.origin} hides the installed package {name}", "rename it")


def site_directories() -> list[Path]:
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


def same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
