"""One cell of the grid: a contestant, a load, so many connections. Called by `run.py`.

It must never run two cells at once: they would measure each other.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import Sampler, Site
from shared import run

HERE = Path(__file__).parent

MIXED = "/classic,/auth,/eager,/pauses,/stream"
PATIENCE = 3  # seconds for the last answers, after the last requests were sent
SILENCE = 2  # seconds without any answer: a deadlock, or as good as one


@dataclass(frozen=True)
class Load:
    """What the connections send.

    :ivar title: in tables
    :ivar paths: of the routes, with commas between
    :ivar probe: seconds between two requests to `/healthz` beside the load, 0 for none
    :ivar per_second: requests that the slowest server takes in: so much longer may it take, and be
        silent, as it needs for all connections at that rate
    """

    title: str
    paths: str
    probe: float = 0
    per_second: int = 250


LOADS = {
    "a": Load("classic", "/classic"),
    "b": Load("auth", "/auth"),
    "c": Load("eager", "/eager"),
    "d": Load("pauses", "/pauses"),
    "e": Load("stream", "/stream"),
    "f": Load("mixed", MIXED, probe=1),
    "g": Load("plain", "/plain"),
    # Where the event loop stands for the query, no server answers more than 200 a second.
    "h": Load("query on the loop", "/loop", per_second=60),
    "i": Load("second connection", "/second", per_second=150),
    "j": Load("slow route, quiet one beside", "/slow", probe=0.02),
}
CONNECTIONS = (10, 100, 500, 2000)


@dataclass(frozen=True)
class Cell:
    """:ivar connections: of the closed loop."""

    load: str
    connections: int
    sqlite: bool = False

    @property
    def key(self) -> str:
        return f"{self.load} {self.connections}{' sqlite' if self.sqlite else ''}"


def measure(
    site: Site, cell: Cell, database_url: str, seconds: float, watch: str = ""
) -> dict[str, Any]:
    """Run a cell against a fresh server, and return what came of it.

    :param watch: a file for the app to write its timeline to
    """
    load, start = LOADS[cell.load], time.monotonic()
    extra = cell.connections / load.per_second
    with site.server(database_url, watch) as (port, pid):
        sampler = Sampler(pid)
        sampler.start()
        command = (
            *(sys.executable, HERE / "client.py", "--port", port, "--paths", load.paths),
            *("--connections", cell.connections, "--seconds", seconds),
            *("--silence", SILENCE + extra, "--cap", seconds + PATIENCE + extra),
            *(("--probe", load.probe) if load.probe else ()),
            *(("--timeline",) if watch else ()),
        )
        try:
            done = run(*command, timeout=120, check=True)
        finally:
            sampler.stop()
    result = json.loads(done.stdout.splitlines()[-1])
    result["threads"] = sampler.threads
    result["memory"] = sampler.memory
    answered = result["succeeded"] + result["failed"]
    result["cpu_ms"] = sampler.cpu / answered * 1000 if answered else None
    result["took"] = time.monotonic() - start
    return result
