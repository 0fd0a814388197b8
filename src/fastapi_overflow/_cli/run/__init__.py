"""The subcommand `run`: starts a command that is protected without any file in site-packages.

Called by the command line. It puts a folder with a `sitecustomize` first on PYTHONPATH, which the
command and the Pythons that it starts import when they start, and becomes the command. It must
never change anything else of how the command runs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ... import _startup

FOLDER = str(Path(__file__).parent / "first_on_path")

CANNOT_EXECUTE, NOT_FOUND = 126, 127  # as a shell tells it


def run(command: Sequence[str]) -> int:
    """Become the command; return only where that can't be, with the exit code.

    On Windows, where no process can become another, the command is a child.
    """
    environ = dict(os.environ)
    if not _startup.is_disabled_by(environ):
        if os.pathsep in FOLDER:  # PYTHONPATH has no way to quote it
            _say(command, f"runs unprotected: {FOLDER} can't be on PYTHONPATH")
        environ["PYTHONPATH"] = _with_folder_first(environ.get("PYTHONPATH", ""))
    program = _find(command[0])
    if program is None:
        return _fail(command, "command not found", NOT_FOUND)
    try:
        if os.name == "nt":
            return run_as_child([program, *command[1:]], environ)
        _become(program, command, environ)
    except FileNotFoundError:
        return _fail(command, "what its first line names isn't there to run it", CANNOT_EXECUTE)
    except OSError as exc:
        return _fail(command, f"can't be executed: {exc.strerror}", CANNOT_EXECUTE)


def _fail(command: Sequence[str], why: str, code: int) -> int:
    _say(command, f"error: {why}")
    return code


def _say(command: Sequence[str], what: str) -> None:
    if sys.stderr is not None:  # closed: `print` would take stdout, which is the command's
        print(f"fastapi-overflow run: {command[0]}: {what}", file=sys.stderr)


def _with_folder_first(pythonpath: str) -> str:
    # No entry, rather than an empty one, which is the current directory.
    entries = pythonpath.split(os.pathsep) if pythonpath else []
    rest = [entry for entry in entries if entry != FOLDER]
    return os.pathsep.join([FOLDER, *_taken_off(rest), *rest])


def _taken_off(entries: Sequence[str]) -> list[str]:
    """Return the folder of a `sitecustomize` that has run here and is no longer on PYTHONPATH.

    OpenTelemetry's takes itself off, and would be lost to the command.
    """
    ran = getattr(sys.modules.get("sitecustomize"), "__file__", None)
    library = os.path.dirname(os.__file__)
    if not ran or library not in sys.path:
        return []
    folder = os.path.dirname(ran)
    from_pythonpath = sys.path[: sys.path.index(library)]
    return [folder] if folder in from_pythonpath and folder not in (FOLDER, *entries) else []


def _find(name: str) -> str | None:
    """Return the command's file, executable or not."""
    scripts = "Scripts" if os.name == "nt" else "bin"
    # Not on PATH: the scripts of an environment that isn't activated, and of `pip install --target`
    beside = [os.path.dirname(sys.executable or __file__), str(Path(__file__).parents[3] / scripts)]
    return (
        shutil.which(name)
        or shutil.which(name, path=os.pathsep.join(beside))
        or shutil.which(name, mode=os.F_OK)
        or (name if os.path.dirname(name) and os.path.exists(name) else None)
    )


def _become(program: str, command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):  # a `sitecustomize` may have written to it
        if stream is not None:  # as it is where it was closed at the start
            stream.flush()
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python has these ignored, which an exec would hand on
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    # Its own name for itself is as given, unless it would look for itself by that on PATH, in vain.
    given = command[0] if shutil.which(command[0]) == program else program
    os.execve(program, [given, *command[1:]], environ)  # noqa: S606


def run_as_child(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command to its end and return its exit code."""
    with subprocess.Popen(command, env=environ) as process:  # noqa: S603
        while True:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                continue  # the command has got it too, and decides
            break
    # `sys.exit` takes what fits a C long: 0xC000013A, ended by Ctrl-C, doesn't.
    return code - 2**32 if code >= 2**31 else code
