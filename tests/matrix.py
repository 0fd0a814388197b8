"""Which versions it holds with: one environment per row, the built wheel in it, smoke.py run there.

`python tests/matrix.py` prints a Markdown table of all rows for which this machine has a Python,
`--corners` only oldest and newest Python with the lowest and the newest versions. Run by hand and
from CI. It must never use an editable install, nor let a row hang.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from packaging.metadata import parse_email

from support import ROOT, ChildFailed, ChildHung, build_wheel, run
from support import install as install_into

SMOKE_TIMEOUT = 180  # seconds
INSTALL_TIMEOUT = 400
PROBE_TIMEOUT = 60
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15", "3.13t", "3.14t", "3.15t")

NEWEST = {"fastapi": "", "anyio": "", "wrapt": "", "sqlalchemy": ""}
LOWEST = {
    "fastapi": "0.100.0",
    "starlette": "lowest",
    "anyio": "lowest",
    "wrapt": "lowest",
    "sqlalchemy": "1.4.0",  # no dependency of ours, so no bound in the wheel
}

# FastAPI with the Starlette that it asks for and the anyio of its time; trio where the newest has
# dropped what that anyio needs.
OF_ITS_TIME = (
    {"fastapi": "0.100.0", "anyio": "3.7.1", "trio": "0.21.0"},
    {"fastapi": "0.110.0", "anyio": "4.3.0"},
    {"fastapi": "0.115.0", "anyio": "4.6.0"},
    {"fastapi": "0.118.0", "anyio": "4.11.0"},
    {"fastapi": "0.128.0", "anyio": "4.12.1"},
    {"fastapi": "0.140.0", "anyio": "4.14.2"},
)
# With the newest of all else that goes with it.
ANYIO = (
    {"anyio": "3.7.1", "trio": "0.21.0"},
    {"anyio": "4.0.0", "trio": "0.22.2"},
    {"anyio": "4.5.2"},
    {"anyio": "4.9.0"},
    {"anyio": "4.12.1"},
    {"anyio": "4.14.2"},
)
WRAPT = ("1.16.0", "1.17.3", "2.0.0", "2.2.2")
# SQLModel takes the SQLAlchemy that it asks for.
SQLALCHEMY = ({"sqlalchemy": "1.4.*"}, {"sqlalchemy": "2.0.*"}, {"sqlmodel": ""})

PACKAGES = ("fastapi", "starlette", "anyio", "wrapt", "sqlalchemy", "sqlmodel")

# What the apps in shapes/ import, and those that are sent 200 requests in each row: they stall at
# the patch points for connections, the app's door and the route.
FOR_SHAPES = ("sqlalchemy", "python-multipart")
SHAPES = ("on the loop", "second session in the endpoint", "middleware inspects on the loop")


@dataclass(frozen=True)
class Python:
    """An interpreter: how to call it, and the root of the file system that it sees."""

    version: str  # "3.14", "3.14t"
    command: tuple[str, ...]
    root: Path = Path("/")

    @property
    def key(self) -> tuple[int, ...]:
        return tuple(map(int, self.version.rstrip("t").split(".")))

    def inside(self, path: Path) -> str:
        """Return a path as the interpreter sees it."""
        return str("/" / path.relative_to(self.root))


def printed(*command: str | Path, timeout: float, **env: str) -> str:
    """Return what a command prints; see `support.run` for how it fails and hangs."""
    return run(*command, timeout=timeout, env=env, check=True).stdout


# ---- the Pythons of this machine

ABOUT = "import sys, sysconfig as s; print('%d.%d' % sys.version_info[:2] + 't' * bool(s.get_config_var('Py_GIL_DISABLED')))"  # noqa: E501


def find_pythons(given: list[Path], chroots: list[Path]) -> dict[str, Python]:
    """Return the interpreters to use, by version; those given go before those found."""
    found: dict[str, Python] = {}
    candidates = [((str(path),), Path("/")) for path in given]
    for root in chroots:
        files = (root / "usr/bin").glob("python3.1*")
        names = sorted(p.name for p in files if re.fullmatch(r"python3\.1\dt?", p.name))
        candidates += [(("chroot", str(root), f"/usr/bin/{name}"), root) for name in names]
    for version in PYTHONS:
        roots = sorted(Path.home().glob(f".pyenv/versions/{version.rstrip('t')}.*/bin"))
        names = [str(path / f"python{version}") for path in roots]
        candidates += [((name,), Path("/")) for name in (*names, f"python{version}")]
    for command, root in candidates:
        try:
            version = printed(*command, "-c", ABOUT, timeout=PROBE_TIMEOUT).strip()
        except (OSError, ChildFailed, ChildHung):
            continue  # not there, or a shim without anything behind it
        found.setdefault(version, Python(version, command, root))
    return {version: found[version] for version in PYTHONS if version in found}


# ---- rows


@dataclass(frozen=True)
class Row:
    """What is installed: versions by package; "" for the newest, no FastAPI where it is missing."""

    python: Python
    pins: tuple[tuple[str, str], ...]
    loops: bool = True  # uvloop and trio too


def rows(pythons: list[Python], corners: bool) -> Iterator[Row]:
    """Yield the rows of the table."""

    def row(python: Python, pins: dict[str, str], loops: bool = True) -> Row:
        return Row(python, tuple(pins.items()), loops)

    usual = [python for python in pythons if not python.version.endswith("t")] or pythons
    oldest, newest = min(usual, key=lambda p: p.key), max(usual, key=lambda p: p.key)
    ends = tuple(dict.fromkeys((oldest, newest)))
    for python in ends if corners else pythons:
        yield row(python, NEWEST)
        yield row(python, LOWEST, loops=False)
    if corners:
        return
    for python in ends:
        for pins in OF_ITS_TIME:
            yield row(python, pins)
        for anyio in ANYIO:
            yield row(python, {**NEWEST, **anyio})
        for wrapt in WRAPT:
            yield row(python, {**NEWEST, "wrapt": wrapt}, loops=False)
        for library in SQLALCHEMY:
            pins = {name: version for name, version in NEWEST.items() if name != "sqlalchemy"}
            yield row(python, {**pins, **library}, loops=False)
        yield row(python, {"starlette": ""})


def lower_bounds(wheel: Path) -> dict[str, str]:
    """Return the lowest versions that the wheel's own metadata allows."""
    with ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        metadata, _ = parse_email(archive.read(name))
    found = (re.match(r"([a-z]+)>=([0-9.]+)$", r) for r in metadata["requires_dist"])
    return {match[1]: match[2] for match in found if match}


def requirements(row: Row, lowest: dict[str, str]) -> list[str]:
    """Return what is installed beside the wheel."""
    pins = dict(row.pins)
    if row.loops:
        pins = {"uvloop": "", "trio": "", **pins}
    if pins.get("trio") and row.python.key >= (3, 13):
        del pins["trio"]  # one as old as that can't be imported there
    wanted = []
    for name, version in pins.items():
        pin = lowest[name] if version == "lowest" else version
        wanted.append(f"{name}=={pin}" if pin else name)
    return wanted


# ---- one row


@contextmanager
def work_folder(python: Python) -> Iterator[Path]:
    """Make a folder that the interpreter sees too."""
    folder = Path(tempfile.mkdtemp(prefix="overflow-matrix-", dir=python.root / "tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def try_row(row: Row, wheel: Path, lowest: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Install a row and run the smoke program; return versions and what went wrong."""
    with work_folder(row.python) as folder:
        inside = row.python.inside
        shutil.copy(ROOT / "tests" / "smoke.py", folder)
        shutil.copy(wheel, folder)
        venv = folder / "venv"
        try:
            python = install(row, folder / wheel.name, venv, lowest)
            versions, wrong = {}, []
            for how in ("protected", "stock"):
                environ = {"FASTAPI_OVERFLOW_DISABLE": "1"} if how == "stock" else {}
                output = printed(
                    *python, inside(folder / "smoke.py"), how, timeout=SMOKE_TIMEOUT, **environ
                )
                result = json.loads(output.splitlines()[-1])
                versions = result["versions"]
                wrong += [f"{k}: {v}" for k, v in result["checks"].items() if v is not True]
            wrong += run_as_module(python)
            # Their models are written for SQLAlchemy 2.
            if not dict(row.pins).get("sqlalchemy", "").startswith("1."):
                wrong += shapes(row, python, folder)
            wrong += start_files(row, python)
        except (ChildFailed, ChildHung) as exc:
            return dict(row.pins), [str(exc)]
        return versions, wrong


def install(row: Row, wheel: Path, venv: Path, lowest: dict[str, str]) -> tuple[str, ...]:
    """Make a row's environment; return how to call its Python."""
    inside = row.python.inside
    # The newest that is there as a wheel: to build it takes Rust.
    wanted = ["--only-binary", "pydantic-core", inside(wheel), *FOR_SHAPES]
    wanted += requirements(row, lowest)
    printed(*row.python.command, "-m", "venv", inside(venv), timeout=INSTALL_TIMEOUT)
    python = (*row.python.command[:-1], inside(venv / "bin" / "python"))
    if row.python.root == Path("/"):
        install_into(Path(*python), *wanted)
    else:
        pip = (*python, "-m", "pip", "install", "--quiet")
        printed(*pip, *wanted, timeout=INSTALL_TIMEOUT)
    return python


LOAD = """
import os, runpy, sys
os.chdir(sys.argv.pop(1))
sys.path.insert(0, "shapes")
runpy.run_path("shapes/load.py", run_name="__main__")
"""


def shapes(row: Row, python: tuple[str, ...], folder: Path) -> list[str]:
    """Return the shapes of which requests aren't answered."""
    shutil.copytree(ROOT / "tests" / "shapes", folder / "shapes")
    command = (*python, "-c", LOAD, row.python.inside(folder), *SHAPES, "--deadline", "60")
    reports = [json.loads(line) for line in printed(*command, timeout=SMOKE_TIMEOUT).splitlines()]
    wrong = [f"{r['shape']}: {r['outcomes']}" for r in reports if r["outcomes"].get("200") != 200]
    return wrong + [f"no report: {name}" for name in SHAPES[len(reports) :]]


ZIPPED = """
import shutil, sys, tempfile
from importlib.util import find_spec
from pathlib import Path
source = Path(find_spec("anyio").origin).parent.parent / "starlette"
with tempfile.TemporaryDirectory() as folder:
    archive = shutil.make_archive(f"{folder}/zipped", "zip", source.parent, "starlette")
    sys.path.insert(0, archive)
    import starlette.applications
    assert ".zip" in starlette.applications.__file__, starlette.applications.__file__
    import fastapi_overflow
    assert fastapi_overflow.patched()
"""


# Makes the installed .pth and .start note that they were read.
COUNTED = """
import sysconfig
from pathlib import Path
site = Path(sysconfig.get_path("purelib"))
site.joinpath("counted.py").write_text("read = []\\ndef start(): read.append('.start')")
lines = {".pth": "import counted; counted.read.append('.pth')", ".start": "counted:start"}
for suffix, line in lines.items():
    file = site / f"fastapi_overflow{suffix}"
    file.write_text(file.read_text() + line + "\\n")
"""


def start_files(row: Row, python: tuple[str, ...]) -> list[str]:
    """Return what is wrong with the .pth and .start files that this Python reads at its start."""
    printed(*python, "-c", COUNTED, timeout=PROBE_TIMEOUT)
    count = "import counted, json; print(json.dumps(counted.read))"
    read = json.loads(printed(*python, "-c", count, timeout=PROBE_TIMEOUT))
    # From 3.15 on the .start once, and the .pth is left alone. Before: the .pth, which is read
    # twice in a virtual environment.
    young = row.python.key >= (3, 15)
    right = read == [".start"] if young else set(read) == {".pth"}
    return [] if right else [f"start-up files read: {read}"]


def run_as_module(python: tuple[str, ...]) -> list[str]:
    """Return what is wrong with `python -m` of a patched module and with Starlette from a zip."""
    wrong = []
    for name, command in (
        ("python -m", ("-m", "starlette.applications")),
        ("zipimport", ("-c", ZIPPED)),
    ):
        try:
            printed(*python, "-W", "ignore", *command, timeout=PROBE_TIMEOUT)
        except (ChildFailed, ChildHung) as exc:
            wrong.append(f"{name}: {exc}")
    return wrong


# ---- the table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corners", action="store_true", help="four rows instead of all")
    parser.add_argument("--python", type=Path, action="append", default=[], help="use this one too")
    parser.add_argument(
        "--chroot", type=Path, action="append", default=[], help="use the Pythons in this folder"
    )
    parser.add_argument("--only", nargs="+", metavar="VERSION", help="rows of these Pythons only")
    parser.add_argument("--wheel", type=Path, help="default: built from this checkout")
    args = parser.parse_args()
    pythons = find_pythons(args.python, args.chroot)
    for version in PYTHONS:
        if version not in pythons:
            print(f"No Python {version} here: its rows are left out.", file=sys.stderr)
    chosen = [p for v, p in pythons.items() if not args.only or v in args.only]
    if not chosen:
        parser.error("no such Python here")
    with tempfile.TemporaryDirectory() as folder:
        wheel = args.wheel or build_wheel(Path(folder))
        lowest = lower_bounds(wheel)
        names = "FastAPI | Starlette | anyio | wrapt | SQLAlchemy | SQLModel"
        print(f"| Python | {names} | loops | result |")
        print("|---" * (len(PACKAGES) + 3) + "|", flush=True)
        failed = False
        for row in rows(chosen, args.corners):
            versions, wrong = try_row(row, wheel, lowest)
            cells = [versions.get(name) or "-" for name in PACKAGES]
            loops = ["asyncio", *(name for name in ("uvloop", "trio") if versions.get(name))]
            python = row.python.version
            result = "FAILED" if wrong else "ok"
            print(f"| {' | '.join([python, *cells, ', '.join(loops), result])} |", flush=True)
            for reason in wrong:
                print(f"{row}: {reason}", file=sys.stderr, flush=True)
            failed = failed or bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
