"""Environments that a test may damage: the wheel's files unpacked beside borrowed dependencies.

Called by fixtures. A virtual environment is made for each test, without pip; what the package
depends on is lent by another one, through a path line: `site` never runs the `.pth` files there.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

from support import run, run_python

TIMEOUT = 60  # seconds in which a child must end


def site_packages(python: Path) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(run_python(python, code, timeout=TIMEOUT, check=True).stdout.strip())


def borrowed(python: Path, folder: Path) -> Path:
    """Fill `folder` with what the environment of `python` has installed, but for this package."""
    for entry in site_packages(python).iterdir():
        if not entry.name.startswith("fastapi_overflow"):
            (folder / entry.name).symlink_to(entry)
    return folder


class Environment:
    """A virtual environment with the package unpacked in it."""

    def __init__(
        self, folder: Path, wheel: Path, dependencies: Path, base: str = sys.executable
    ) -> None:
        venv = (base, "-m", "venv", "--without-pip", folder)
        run(*venv, timeout=TIMEOUT, check=True)
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.site_packages = site_packages(self.python)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site_packages)
        (self.site_packages / "zz_borrowed.pth").write_text(f"{dependencies}\n")

    @property
    def package(self) -> Path:
        return self.site_packages / "fastapi_overflow"

    @property
    def pth(self) -> Path:
        return self.site_packages / "fastapi_overflow.pth"

    @property
    def start(self) -> Path:
        return self.site_packages / "fastapi_overflow.start"

    @property
    def hook(self) -> Path:
        """The one of the two files that this Python runs (PEP 829), if both are there."""
        return self.start if sys.version_info >= (3, 15) else self.pth

    def remove(self, *names: str) -> None:
        """Remove files and folders of the package, and all that was compiled."""
        for name in names:
            path = self.package / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for compiled in list(self.package.rglob("__pycache__")):
            shutil.rmtree(compiled)

    def run(self, code: str, **more):
        return run_python(self.python, code, timeout=TIMEOUT, **more)
