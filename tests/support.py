"""Child processes: started, waited for with a limit, and killed with all that they have started.

Used by tests, fixtures and the programs beside them (matrix.py, foreign_suites.py, soak.py, the
benchmarks), so it needs nothing but the standard library. It must never wait without a limit, and
never leave a process behind.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parent.parent

# Seconds after which whatever is waited for counts as hung. Nothing is fast or slow by this: a
# machine may be many times slower than the one it was written on, and no test fails for that.
PATIENCE = 60

# What can't be built everywhere.
RUST = ("ddtrace", "granian", "pydantic-core", "watchfiles")

TAIL = 4000  # characters of a child's output that a failure shows


class ChildHung(AssertionError):
    """A child was still running at its timeout, and has been killed with all it had started."""


class ChildFailed(AssertionError):
    """A child that had to succeed did not."""


def child_environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Return the environment for a child: ours, less what would change Python or the package.

    :param changes: variables to set, or to leave out where the value is None
    """
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "FASTAPI_OVERFLOW_", "COVERAGE_", "VIRTUAL_ENV"))
    }
    for name, value in (changes or {}).items():
        environ.pop(name, None)
        if value is not None:
            environ[name] = value
    return environ


def kill_group(leader: int) -> None:
    """Kill the process group with this leader: a child, and all that it has started in it."""
    with suppress(ProcessLookupError):  # all gone
        os.killpg(leader, signal.SIGKILL)


def _end(process: subprocess.Popen[Any]) -> None:
    kill_group(process.pid)
    process.wait(PATIENCE)


def tail(stream: IO[bytes]) -> str:
    """Return the end of what a child has written so far."""
    # pread: the child shares the file's position and may be writing.
    size = os.fstat(stream.fileno()).st_size
    return os.pread(stream.fileno(), TAIL, max(0, size - TAIL)).decode(errors="replace")


@contextmanager
def started(*command: str | Path, env: Mapping[str, str | None] | None = None, **popen: Any):
    """Start a process as leader of its own group; at the end of the block the group is killed.

    What it prints, both streams, goes to the file `process.output`: nobody needs to read it for the
    process to go on, and what a killed process leaves behind can't keep a pipe open.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=child_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **popen,
        )
        process.output = output  # type: ignore[attr-defined]
        try:
            yield process
        finally:
            _end(process)


def wait_until(
    condition: Callable[[], T],
    what: str,
    process: subprocess.Popen[Any] | None = None,
) -> T:
    """Wait until `condition()` is true, and return what it has returned.

    :param what: what is waited for, as a failure names it
    :param process: one of `started` that brings it about; where it ends before, waiting is in vain
    :raises ChildHung: after `PATIENCE` seconds, with the end of the process's output
    :raises ChildFailed: once the process has ended
    """
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        output = "" if process is None else f"\n---- its output\n{tail(process.output)}"
        if process is not None and process.poll() is not None:
            raise ChildFailed(f"exit code {process.returncode} before: {what}{output}")
        if time.monotonic() > deadline:
            raise ChildHung(f"not within {PATIENCE} s: {what}{output}")
        time.sleep(0.05)
    return found


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Tell whether a server answers a GET of `url` with status 200."""
    no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with no_proxy.open(url, timeout=PATIENCE) as response:
            return response.status == 200
    except (OSError, http.client.HTTPException):
        return False


def run(
    *command: str | Path,
    timeout: float,
    env: Mapping[str, str | None] | None = None,
    cwd: str | Path | None = None,
    check: bool = False,
    **popen: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, which must come within `timeout` seconds.

    :param env: changes to the environment, see `child_environment`
    :param cwd: a fresh empty directory where None, so that no checkout is on the path of a `-c`
    :param check: raise `ChildFailed` for an exit code other than 0
    :param popen: for `subprocess.Popen`, where it is not to be as usual
    :raises ChildHung: at the timeout, with the command and the end of its output; its process
        group has been killed
    """
    args = [str(part) for part in command]
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        tempfile.TemporaryDirectory() as empty,
    ):
        process = subprocess.Popen(
            args,
            env=child_environment(env),
            cwd=cwd or empty,
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **popen},
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ChildHung(
                f"still running after {timeout:g} s: {_shown(args)}\n{_outputs(out, err)}"
            ) from None
        finally:
            _end(process)
        if check and process.returncode:
            raise ChildFailed(
                f"exit code {process.returncode}: {_shown(args)}\n{_outputs(out, err)}"
            )
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(
            args,
            process.returncode,
            out.read().decode(errors="replace"),
            err.read().decode(errors="replace"),
        )


def run_python(
    python: str | Path,
    code_or_path: str | Path,
    *args: str,
    timeout: float,
    env: Mapping[str, str | None] | None = None,
    cwd: str | Path | None = None,
    check: bool = False,
    options: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run code (a str) or a script (a Path) in a Python of its own; see `run`.

    :param options: of the interpreter, e.g. ("-S",)
    """
    what = [code_or_path] if isinstance(code_or_path, Path) else ["-c", code_or_path]
    return run(python, *options, *what, *args, timeout=timeout, env=env, cwd=cwd, check=check)


def make_venv(folder: Path) -> Path:
    """Make a virtual environment with pip, and return its Python."""
    run(sys.executable, "-m", "venv", folder, timeout=300, check=True)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@cache
def uv() -> str | None:
    """Return uv where it runs: a shim on the path may stand for nothing."""
    found = shutil.which("uv")
    return found if found and not run(found, "--version", timeout=PATIENCE).returncode else None


def install(python: Path, *requirements: str | Path) -> None:
    """Install into the environment of `python`, bytecode and all; by uv where it works: faster.

    What takes Rust or an hour to build is only taken as a wheel, the newest that there is.
    """
    command: tuple[str | Path, ...] = (
        *(python, "-m", "pip", "install"),
        "--disable-pip-version-check",
    )
    if found := uv():
        command = (found, "pip", "install", "--compile-bytecode", "--python", python)
    wheels = [f"--only-binary={name}" for name in RUST]
    run(*command, "--quiet", *wheels, *requirements, timeout=600, check=True)


def build_wheel(folder: Path) -> Path:
    """Build the wheel from the sdist of this checkout, both into `folder`, and return the wheel.

    From the sdist: only what is shipped gets tested.
    """
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    run(*build, timeout=300, check=True)
    (built,) = folder.glob("*.whl")
    return built


def _shown(args: list[str]) -> str:
    text = " ".join(args)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _outputs(out: IO[bytes], err: IO[bytes]) -> str:
    return f"---- its stdout\n{tail(out)}\n---- its stderr\n{tail(err)}"
