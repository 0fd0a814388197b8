"""What may stop the protection one day: other copies, old files, a Python to come.

Called by the examination. It must never import what it finds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .problems import REINSTALL, Problem, same, site_directories

LINE = "import fastapi_overflow._startup; fastapi_overflow._startup.arm()"
ENTRY_POINT = "fastapi_overflow._startup:arm"


def leftovers(package: Path, armed_by: str | None) -> list[Problem]:
    """Return what should be put in order, protected or not.

    :param package: the folder that this package was imported from
    :param armed_by: what has armed the hook of this process
    """
    found = [
        Problem(
            f"{copy} is a second copy of the package, and the path decides which one is used",
            "delete or uninstall it",
        )
        for copy in _other_copies(package)
    ]
    found += [
        Problem(
            f"{file} starts fastapi-overflow in another way than this version does",
            f"delete it unless it is yours, then {REINSTALL}",
        )
        for file in _old_files()
    ]
    if armed_by == ".pth" and (3, 15) <= sys.version_info < (3, 18):
        found.append(
            Problem(
                "fastapi_overflow.start is missing, and Python 3.18 ignores the .pth file's line",
                f"restore it: {REINSTALL}",
            )
        )
    return found


def _other_copies(package: Path) -> Iterator[Path]:
    seen = [package / "__init__.py"]
    for entry in sys.path:
        for name in ("fastapi_overflow/__init__.py", "fastapi_overflow.py"):  # 0.1.0 was a module
            copy = Path(entry) / name
            # Not copy.is_file(): that raises for a folder that this user may not look into.
            if os.path.isfile(copy) and not any(same(copy, other) for other in seen):
                seen.append(copy)
                yield copy


def _old_files() -> Iterator[Path]:
    """Find start-up files that import anything else of the package."""
    for folder in site_directories():
        for kind in (".pth", ".start"):
            for file in _files(folder, kind):
                try:
                    lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
                except (OSError, ValueError):
                    continue
                if kind == ".pth":
                    lines = [line for line in lines if line.startswith(("import ", "import\t"))]
                if any("fastapi_overflow" in x and x not in (LINE, ENTRY_POINT) for x in lines):
                    yield file


def _files(folder: Path, kind: str) -> list[Path]:
    try:
        return sorted(folder.glob(f"*{kind}"))
    except OSError:
        return []  # this user may not look into it
