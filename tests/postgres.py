"""A PostgreSQL server of one's own, gone afterwards: for the tests, the soak and the benchmarks.

It must never touch a server that is there already, and nothing in it may wait without a limit.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import free_port, run

MISSING = "no PostgreSQL server found: apt-get install postgresql"
TIMEOUT = 120  # seconds in which initdb, a start or a stop must end

# Nothing that is written here has to survive a crash; the most that any caller has clients.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 300,
    "fsync": "off",
}


def binaries() -> Path | None:
    """Return the folder with the server's programs, None where there is no PostgreSQL."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:  # Debian, which puts none of them on the path
        return max(found, key=lambda path: float(path.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class Server:
    """A server that can be stopped and started again.

    :ivar url: its SQLAlchemy URL
    """

    def __init__(self, programs: Path, folder: str) -> None:
        self._programs = programs
        self._folder = folder
        self._port = free_port()
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres", "postgres")
            self._user = {"user": "postgres", "group": "postgres", "extra_groups": ()}
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"
        self._run("initdb", "-A", "trust", "-U", "postgres", "--no-sync")

    def start(self) -> None:
        """Start the server; it takes connections when this returns."""
        options = [f"-c {name}={value}" for name, value in {**SETTINGS, "port": self._port}.items()]
        # -w: pg_ctl waits until the server is ready.
        log = f"{self._folder}/log"
        self._run("pg_ctl", "-w", "-t", str(TIMEOUT), "-o", " ".join(options), "-l", log, "start")

    def stop(self, how: str = "fast") -> None:
        """Stop the server, which ends all connections.

        :param how: "fast", or "immediate" for one whose data nobody will want again
        """
        self._run("pg_ctl", "-w", "-t", str(TIMEOUT), "-m", how, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = (self._programs / program, "-D", f"{self._folder}/data", *arguments)
        # Not in a group of its own: the server that pg_ctl leaves behind leads one itself.
        run(*command, timeout=TIMEOUT + 10, cwd=self._folder, check=True, **self._user)


@contextmanager
def postgres() -> Iterator[Server]:
    """Start a fresh server, and stop it at the end of the block.

    :raises RuntimeError: where PostgreSQL isn't installed
    """
    programs = binaries()
    if programs is None:
        raise RuntimeError(MISSING)
    # Not in a folder of the caller's: the server's user couldn't enter it.
    folder = tempfile.mkdtemp(prefix="overflow-postgres-")
    try:
        server = Server(programs, folder)
        server.start()
        try:
            yield server
        finally:
            if Path(folder, "data", "postmaster.pid").exists():  # else the caller has stopped it
                server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
