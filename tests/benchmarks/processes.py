"""The servers measured and what they use: called by `cells.py`.

It must never leave a server behind, and never sample so often that it shows in the result.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from contestants import Contestant

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
POOL_TIMEOUT = 3  # seconds, for all contestants; SQLAlchemy's default of 30 only prolongs deadlocks


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class Site:
    """Where a contestant's servers come from: its environment, warm."""

    def __init__(self, contestant: Contestant, python: Path, disable: bool = False) -> None:
        self.contestant = contestant
        self.python = python
        self._disable = disable
        self._parent: subprocess.Popen[str] | None = None

    def _environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FASTAPI_", "PYTHON"))}
        return env | ({"FASTAPI_OVERFLOW_DISABLE": "1"} if self._disable else {})

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
        pid, child = self._gunicorn(port, env) if self.contestant.gunicorn else (0, None)
        if not child:
            pid = self._fork(port, env)
        try:
            _wait_for(port)
            yield port, pid
        finally:
            kill_group(pid)
            if child:
                child.wait(10)

    def _fork(self, port: int, env: dict[str, str]) -> int:
        if self._parent is None or self._parent.poll() is not None:
            self._parent = subprocess.Popen(
                [self.python, HERE / "apps/server.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self._environment() | self.contestant.env,
            )
        assert self._parent.stdin
        assert self._parent.stdout
        line = {"app": self.contestant.app, "port": port, "env": env}
        self._parent.stdin.write(json.dumps(line) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def _gunicorn(self, port: int, env: dict[str, str]) -> tuple[int, subprocess.Popen[Any]]:
        command = (
            *(self.python, "-m", "gunicorn", "--worker-class", "gthread", "--workers", "1"),
            *("--threads", "40", "--worker-connections", "4000", "--backlog", "4096"),
            *("--keep-alive", "60", "--bind", f"127.0.0.1:{port}", "--log-level", "critical"),
            *("--chdir", str(HERE / "apps"), "flask_app:app"),
        )
        child = subprocess.Popen(
            [str(part) for part in command],
            env=self._environment() | env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return child.pid, child

    def close(self) -> None:
        if self._parent:
            assert self._parent.stdin
            self._parent.stdin.close()
            self._parent.wait(10)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    request = b"GET /healthz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                sock.sendall(request)
                if sock.recv(12).endswith(b"200"):
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError("a server did not start")
        time.sleep(0.02)


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
