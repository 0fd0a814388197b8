"""The uvicorn processes with the demo's app: started, watched, killed.

Called by the runner, once without the package and once with it. It must never leave a process
behind, and never wait for one to start without a deadline.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from . import DemoError, interrupt

START_SECONDS = 60
# uvicorn picks the port itself: one that was free a moment ago may be taken by now.
RUNNING = re.compile(r"running on http://127\.0\.0\.1:(\d+)")


class Server:
    """A running server.

    :ivar port: the port on this machine on which it answers
    :ivar peak_threads: most threads of its process that `sample` has seen
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
        self.port = port
        self.peak_threads = 0
        self._process = process
        self._log = log
        # On Windows the Python of a virtual environment starts the real one as a child.
        launcher = psutil.Process(process.pid)
        self._processes = [launcher, *launcher.children(recursive=True)]

    def sample(self) -> None:
        """Count the threads."""
        for process in self._processes:
            try:
                self.peak_threads = max(self.peak_threads, process.num_threads())
            except psutil.Error:
                pass  # it has ended: the requests will show that

    def last_words(self) -> str:
        return last_line(self._log)


@contextmanager
def uvicorns(
    environ: Mapping[str, str], logs: Sequence[Path], *, backlog: int
) -> Iterator[list[Server]]:
    """Run the app under one uvicorn for each log, and kill the processes at the end.

    :raises DemoError: if one doesn't start
    """
    options = {"--host": "127.0.0.1", "--port": "0", "--backlog": str(backlog)}
    command = [sys.executable, "-m", "uvicorn", f"{__package__}.app:app"]
    command += [word for option in options.items() for word in option]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for log in logs:
            with interrupt.held_back(), log.open("wb") as output:
                process = subprocess.Popen(  # noqa: S603
                    [*command, "--no-access-log", "--no-use-colors"],
                    env=_without_uvicorn_settings(environ),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
                processes.append(process)
        yield [
            Server(process, log, _wait_for_port(process, log))
            for process, log in zip(processes, logs, strict=True)
        ]
    finally:
        with interrupt.held_back():
            # Killed at once: a server whose threads are stuck never finishes its shutdown.
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()


def _without_uvicorn_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out what would start more workers or a reloader, or listen on another address."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith("UVICORN_") and name != "WEB_CONCURRENCY"
    }


def _wait_for_port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        if found := RUNNING.search(log.read_text(errors="replace")):
            return int(found[1])
        if ended:
            raise DemoError(f"uvicorn did not start: {last_line(log)}")
        time.sleep(0.02)
    raise DemoError(f"uvicorn did not start within {START_SECONDS} s: {last_line(log)}")


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def environment(*, disabled: bool) -> dict[str, str]:
    """Return this process's environment with fastapi-overflow turned off, or not."""
    environ = {n: v for n, v in os.environ.items() if n != "FASTAPI_OVERFLOW_DISABLE"}
    if disabled:
        environ["FASTAPI_OVERFLOW_DISABLE"] = "1"
    return environ
