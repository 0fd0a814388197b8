"""The demo's two runs, each of both acts: database, servers and load, each with a deadline.

Called by `run` once everything that the demo needs is installed. It must stop before the first run
if the import hook would not protect the second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anyio

from . import DemoError, database, interrupt, server, stage
from .acts import ACTS
from .progress import bars, shown_in
from .report import Comparison, Pair, Run

DOCTOR_SECONDS = 60
DEFAULT_BACKLOG = 2048  # uvicorn's


def compare(requests: int, database_url: str | None, pool_size: int | None) -> Comparison:
    """Play both acts without the package, then with it, under the same load.

    :raises DemoError: if that can't be done
    """
    _require_protection()
    _allow_open_files(len(ACTS) * requests + 100)
    with (
        interrupt.unwinding(),
        tempfile.TemporaryDirectory(prefix="fastapi-overflow-", ignore_cleanup_errors=True) as tmp,
    ):
        folder = Path(tmp)
        url = database.parse(database_url or f"sqlite:///{folder / 'demo.sqlite3'}")
        given = {"DEMO_DATABASE_URL": url.render_as_string(hide_password=False)}
        if pool_size:
            given["DEMO_POOL_SIZE"] = str(pool_size)
        # Two servers at work take twice the connections, which a database of the user's may not
        # have: then the app without the package would fail for a reason that isn't its own.
        play = partial(stage.play, requests=requests, side_by_side=database_url is None)
        with bars() as progress, database.tables(url):
            runs: list[list[Run]] = []
            for disabled, name in ((True, "without"), (False, "with it")):
                environ = {**server.environment(disabled=disabled), **given}
                logs = [folder / f"{len(runs)}-{number}.log" for number in range(len(ACTS))]
                backlog = max(DEFAULT_BACKLOG, requests)
                with server.uvicorns(environ, logs, backlog=backlog) as servers:
                    show = shown_in(progress, name, requests)
                    runs.append(anyio.run(partial(play, servers, show=show)))
    return Comparison(
        requests=requests,
        database="a SQLite file" if database_url is None else database.shown(url),
        pool=f"{pool_size or 5}+10",
        versions={
            "Python": ".".join(str(part) for part in sys.version_info[:3]),
            **{name: version(name) for name in ("fastapi", "starlette", "sqlalchemy", "uvicorn")},
        },
        pairs=[Pair(*which) for which in zip(ACTS, *runs, strict=True)],
    )


def _require_protection() -> None:
    """Ask `doctor` whether the hook would protect the second run, in a process like its servers."""
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "fastapi_overflow", "doctor", "--json"],
            env=server.environment(disabled=False),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOCTOR_SECONDS,
            check=False,
        )
        problems = json.loads(asked.stdout)["problems"]
    except (subprocess.TimeoutExpired, ValueError):
        raise DemoError(
            "nothing to compare: `python -m fastapi_overflow doctor` fails here", 1
        ) from None
    if asked.returncode:
        reasons = "; ".join(f"{found['problem']}. Remedy: {found['remedy']}" for found in problems)
        raise DemoError(
            f"nothing to compare, an app would be unprotected here: {reasons}", asked.returncode
        )


def _allow_open_files(needed: int) -> None:
    """Raise the limit of this process, which its servers inherit: each request takes a socket."""
    if sys.platform == "win32":
        return  # no such limit there
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError):
        raise DemoError(
            f"--requests needs {needed} open files and only {soft} are allowed here: raise that "
            "with `ulimit -n`, or ask for fewer requests"
        ) from None
