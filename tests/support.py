"""Children of the tests: processes that could hang, and are ended when they do.

Called by tests and fixtures. It must never wait without a limit, and never leave a process behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent

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


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill a child that leads a process group, and all that it has started in it."""
    with suppress(ProcessLookupError):  # all gone
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


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
            kill_group(process)


def run(
    *command: str | Path,
    timeout: float,
    env: Mapping[str, str | None] | None = None,
    cwd: str | Path | None = None,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, which must come within `timeout` seconds.

    :param env: changes to the environment, see `child_environment`
    :param cwd: a fresh empty directory where None, so that no checkout is on the path of a `-c`
    :param check: raise `ChildFailed` for an exit code other than 0
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
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ChildHung(
                f"still running after {timeout:g} s: {_shown(args)}\n{_outputs(out, err)}"
            ) from None
        finally:
            kill_group(process)
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
    run(sys.executable, "-m", "venv", folder, timeout=120, check=True)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(python: Path, *requirements: str | Path) -> None:
    """Install into the environment of `python`, bytecode and all; by uv where it works: faster."""
    command = (python, "-m", "pip", "install", "--disable-pip-version-check")
    if shutil.which("uv") and not run("uv", "--version", timeout=30).returncode:
        command = ("uv", "pip", "install", "--compile-bytecode", "--python", python)
    run(*command, "--quiet", *requirements, timeout=300, check=True)


def _shown(args: list[str]) -> str:
    text = " ".join(args)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _outputs(out: IO[bytes], err: IO[bytes]) -> str:
    return f"---- its stdout\n{tail(out)}\n---- its stderr\n{tail(err)}"
