"""A PostgreSQL server of the benchmark's own, started for a run and gone after it.

It must never touch a server that is there already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import free_port, kill_group


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of a fresh server."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    if not found and not on_path:
        raise SystemExit("no PostgreSQL server found: apt-get install postgresql")
    binaries = max(found, key=lambda p: float(p.parent.name)) if found else Path(on_path).parent
    folder = tempfile.mkdtemp(prefix="overflow-bench-")
    user: dict[str, Any] = {}
    if os.getuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        user = {"user": "postgres", "group": "postgres", "extra_groups": ()}
    server = None
    try:
        data = f"{folder}/data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
            timeout=120,
            **user,
        )
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "fsync": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
            **user,
        )
        ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        for _ in range(600):
            if not subprocess.run(ready, check=False, timeout=30).returncode:
                break
            time.sleep(0.05)
        else:
            raise RuntimeError("the PostgreSQL server did not start")
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        if server:
            kill_group(server.pid)
            server.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
