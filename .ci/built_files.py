"""Check the wheel and the sdist in a folder: `python .ci/built_files.py FOLDER [VERSION]`.

Called by `.ci/build`, before anybody gets the files. There is one of each, of the version if one is
given; both start-up files are at the root of the wheel, in its RECORD, and in the sdist.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

HOOKS = ("fastapi_overflow.pth", "fastapi_overflow.start")


def problems(folder: Path, version: str | None) -> list[str]:
    """Return what is wrong with the files, nothing where all is as expected."""
    found = sorted(path.name for path in folder.iterdir())
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(found) != 2 or len(wheels) != 1 or len(sdists) != 1:
        return [f"not one wheel and one sdist: {found}"]
    with zipfile.ZipFile(wheels[0]) as archive:
        names = archive.namelist()
        (record,) = (name for name in names if name.endswith(".dist-info/RECORD"))
        recorded = [line.split(",")[0] for line in archive.read(record).decode().splitlines()]
    with tarfile.open(sdists[0]) as archive:
        shipped = [name.partition("/")[2] for name in archive.getnames()]
    wrong = [
        f"{name} is not at the root of the {where}"
        for name in HOOKS
        for where, listed in (("wheel", names), ("RECORD", recorded), ("sdist", shipped))
        if name not in listed
    ]
    if version is not None:
        expected = f"fastapi_overflow-{version}"
        starts = (f"{expected}-py3-none-any.whl", f"{expected}.tar.gz")
        wrong += [f"{name} is not of version {version}" for name in found if name not in starts]
    return wrong


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
    sys.exit("\n".join(wrong) or None)
