"""The demo's two runs: database, server and load, each with a deadline.

Called by `run` once everything that the demo needs is installed. It must stop before the first run
if the import hook would not protect the second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anyio
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from . import DemoError, database, interrupt, server
from .client import Load, send
from .report import Comparison, Run

DOCTOR_SECONDS = 60
DEFAULT_BACKLOG = 2048  # uvicorn's


def compare(requests: int, database_url: str | None, pool_size: int | None) -> Comparison:
    """Run the app without the package, then with it, under the same load.

    :raises DemoError: if that can't be done
    """
    _require_protection()
    _allow_open_files(requests + 100)
    with (
        interrupt.unwinding(),
        tempfile.TemporaryDirectory(prefix="fastapi-overflow-", ignore_cleanup_errors=True) as tmp,
    ):
        folder = Path(tmp)
        url = database.parse(database_url or f"sqlite:///{folder / 'demo.sqlite3'}")
        given = {"DEMO_DATABASE_URL": url.render_as_string(hide_password=False)}
        if pool_size:
            given["DEMO_POOL_SIZE"] = str(pool_size)
        with _progress() as progress, database.tables(url):
            runs: list[Run] = []
            for disabled, name in ((True, "without"), (False, "with fastapi-overflow")):
                environ = {**server.environment(disabled=disabled), **given}
                bar = progress.add_task(name, total=requests, failed=0)
                log = folder / f"{len(runs)}.log"
                with server.uvicorn(
                    environ, log, backlog=max(DEFAULT_BACKLOG, requests)
                ) as running:
                    show = partial(_show, progress, bar)
                    runs.append(_load(running, requests, show))
    return Comparison(
        requests=requests,
        database="a SQLite file" if database_url is None else database.shown(url),
        pool=f"{pool_size or 5}+10",
        versions={
            "Python": ".".join(str(part) for part in sys.version_info[:3]),
            **{name: version(name) for name in ("fastapi", "starlette", "sqlalchemy", "uvicorn")},
        },
        without=runs[0],
        with_it=runs[1],
    )


def _load(running: server.Server, requests: int, show: Callable[[Load], None]) -> Run:
    async def warm_up_and_load() -> Load:
        # A process's first request imports and compiles: that isn't what is compared here.
        first = await send(running.port, 1, on_sample=lambda: None, on_answer=lambda _: None)
        for failure in first.failures:
            raise DemoError(f"the app doesn't work: {failure}: {running.last_words()}")
        return await send(running.port, requests, on_sample=running.sample, on_answer=show)

    load = anyio.run(warm_up_and_load)
    return Run(load, running.peak_threads)


def _require_protection() -> None:
    """Ask `doctor` whether the hook would protect the second server, in a process like that one."""
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


def _progress() -> Progress:
    """Return the progress bars, which are shown on stderr if that is a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:<21}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(),
        console=console,
        disable=not sys.stderr.isatty(),
    )


def _show(progress: Progress, bar: TaskID, load: Load) -> None:
    progress.update(bar, completed=len(load.latencies), failed=load.failed)
