"""Who takes part, and the virtual environment of each: called by `run.py` before the first cell.

It must never let two contestants share an environment: two of them are the same distribution.
Environments are kept in a cache directory between runs, keyed by what is in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from shared import ROOT, build_wheel, install, make_venv, run

POOL_CAPACITY = 15  # SQLAlchemy's default: 5, and 10 of overflow
# As a good engineer would choose the limits of `Depends(..., max_concurrency=)`, knowing the pool,
# the 40 threads and what each route takes; of the limits that lose nothing, the fastest that was
# found. Each load is measured alone: in an app that has all of these routes at once the limits of
# those that share the pool must be smaller.
TUNED = {
    "one connection": POOL_CAPACITY,
    # The loop does one query at a time. More than `pool_size` sessions only make and close the
    # connections of the overflow, and the loop stands for each: with 15 it answered a quarter less.
    "on the loop": 5,
    # All have their first, and one connection is left for somebody's second. With 7, so that nobody
    # waits in a thread, it answered a fifth less.
    "two connections": POOL_CAPACITY - 1,
    "slow": 39,  # one thread of 40 is left for the quiet routes
}
COMMON = ("uvicorn[standard]", "sqlalchemy[asyncio]>=2", "psycopg[binary]>=3.2")
PACKAGE = "fastapi-overflow"
STOCK = "stock"
HAND_TUNED = "hand-tuned max_concurrency"
OURS = "this package"


@dataclass(frozen=True)
class Contestant:
    """One way to serve the routes.

    :ivar name: in tables and charts
    :ivar requirements: beside FastAPI and what all have
    :ivar env: for the app
    :ivar app: module in `apps`
    """

    name: str
    requirements: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict, hash=False)
    app: str = "sync_app"
    gunicorn: bool = False


CONTESTANTS = (
    Contestant(STOCK),
    Contestant("stock, 200 threads", env={"BENCH_LIMIT": "200"}),
    Contestant("stock, 1000 threads", env={"BENCH_LIMIT": "1000"}),
    Contestant("fastapi-overflow 0.1.0", (f"{PACKAGE}==0.1.0",), {"BENCH_PATCH": "1"}),
    Contestant("fastapi-overflow 0.1.x", (f"{PACKAGE}<0.2",), {"BENCH_PATCH": "1"}),
    Contestant(HAND_TUNED, env={"BENCH_TUNED": json.dumps(TUNED)}),
    Contestant("async rewrite", app="async_app"),
    Contestant("gunicorn threads", ("flask", "gunicorn"), app="flask_app", gunicorn=True),
    Contestant(OURS, ("WHEEL",)),
    # What `advise()` says of 15 connections.
    Contestant("this package, limit 17", ("WHEEL",), {"FASTAPI_OVERFLOW_LIMIT": "17"}),
)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastapi-overflow-bench"


def python_of(contestant: Contestant, fastapi: str) -> Path:
    """Return the Python of a contestant's environment, made if need be."""
    requirements = [f"fastapi=={fastapi}", *COMMON, *contestant.requirements]
    if "WHEEL" in requirements:
        requirements[requirements.index("WHEEL")] = f"fastapi-overflow @ {_wheel().as_uri()}"
    key = hashlib.sha256(repr((sys.version, *requirements)).encode()).hexdigest()[:16]
    folder = cache_folder() / key
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        install(make_venv(folder), *requirements)
        (folder / "complete").touch()
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def wrapt_python(fastapi: str) -> Path:
    """Return the Python of an environment whose `.pth` imports wrapt, as instrumentation does."""
    python = python_of(Contestant("import wrapt", ("wrapt",)), fastapi)
    (packages,) = python.parent.parent.glob("lib/python*/site-packages")
    (packages / "benchmark.pth").write_text("import wrapt\n")
    return python


def versions(python: Path) -> dict[str, str]:
    """Return what is installed in an environment."""
    code = (
        "from importlib.metadata import distributions as d;"
        "print(*(f'{x.name.lower()}=={x.version}' for x in d()), sep='\\n')"
    )
    lines = run(python, "-c", code, timeout=60, check=True).stdout.split()
    return dict(sorted(line.split("==", 1) for line in lines))


def _wheel() -> Path:
    """Build this checkout's wheel, under a name that changes with what is in it."""
    sources = [*(ROOT / "src").rglob("*.py"), ROOT / "pyproject.toml", *ROOT.glob("*.pth")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources)))
    folder = cache_folder() / f"wheel-{digest.hexdigest()[:16]}"
    if not list(folder.glob("*.whl")):
        with tempfile.TemporaryDirectory() as temporary:
            built = build_wheel(Path(temporary))
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(built, folder)
    return next(folder.glob("*.whl"))
