"""The servers measured and what they use: called by `cells.py`.

It must never leave a server behind, and never sample so often that it shows in the result.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from contestants import Contestant
from shared import answers, child_environment, free_port, kill_group, started, wait_until

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
POOL_TIMEOUT = 3  # seconds, for all contestants; SQLAlchemy's default of 30 only prolongs deadlocks


class Site:
    """Where a contestant's servers come from: its environment, warm."""

    def __init__(self, contestant: Contestant, python: Path, disable: bool = False) -> None:
        self.contestant = contestant
        self.python = python
        self._disable = disable
        self._parent: subprocess.Popen[str] | None = None

    def _changes(self) -> dict[str, str | None]:
        """Return what is changed in the environment of a server."""
        return {"FASTAPI_OVERFLOW_DISABLE": "1" if self._disable else None}

    @contextmanager
    def server(self, database_url: str, watch: str = "") -> Iterator[tuple[int, int]]:
        """Start a fresh server; yield its port and the id of its process."""
        port = free_port()
        env = {
            **self.contestant.env,
            "BENCH_DATABASE_URL": database_url,
            "BENCH_POOL_TIMEOUT": str(POOL_TIMEOUT),
            "BENCH_WATCH": watch,
        }
        with ExitStack() as ended:
            if self.contestant.gunicorn:
                pid = ended.enter_context(self._gunicorn(port, env)).pid
            else:
                pid = self._fork(port, env)
                ended.callback(kill_group, pid)
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"), "the server's answer")
            yield port, pid

    def _fork(self, port: int, env: dict[str, str]) -> int:
        if self._parent is None or self._parent.poll() is not None:
            self._parent = subprocess.Popen(
                [self.python, HERE / "apps/server.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=child_environment(self._changes() | self.contestant.env),
            )
        assert self._parent.stdin
        assert self._parent.stdout
        line = {"app": self.contestant.app, "port": port, "env": env}
        self._parent.stdin.write(json.dumps(line) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def _gunicorn(self, port: int, env: dict[str, str]) -> AbstractContextManager[Any]:
        command = (
            *(self.python, "-m", "gunicorn", "--worker-class", "gthread", "--workers", "1"),
            *("--threads", "40", "--worker-connections", "4000", "--backlog", "4096"),
            *("--keep-alive", "60", "--bind", f"127.0.0.1:{port}", "--log-level", "critical"),
            *("--chdir", str(HERE / "apps"), "flask_app:app"),
        )
        return started(*command, env=self._changes() | env)

    def close(self) -> None:
        if self._parent:
            assert self._parent.stdin
            self._parent.stdin.close()
            self._parent.wait(10)


class Sampler(threading.Thread):
    """Samples threads, memory and CPU of a server and its children until told to stop."""

    def __init__(self, pid: int, seconds: float = 0.05) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._seconds = seconds
        self._done = threading.Event()
        self._cpu = self._read()[2]
        self.threads = 0
        self.memory = 0.0  # MiB
        self.cpu = 0.0  # seconds

    def run(self) -> None:
        while not self._done.wait(self._seconds):
            self._sample()

    def stop(self) -> None:
        self._done.set()
        self.join()
        self._sample()

    def _sample(self) -> None:
        threads, memory, cpu = self._read()
        self.threads = max(self.threads, threads)
        self.memory = max(self.memory, memory)
        self.cpu = cpu - self._cpu

    def _read(self) -> tuple[int, float, float]:
        threads, memory, cpu = 0, 0.0, 0.0
        for pid in _family(self._pid):
            with suppress(OSError, IndexError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                cpu += (int(fields[11]) + int(fields[12])) / TICKS
                threads += int(fields[17])
                memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        return threads, memory, cpu


def _family(pid: int) -> list[int]:
    found = [pid]
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += _family(int(child))
    return found
