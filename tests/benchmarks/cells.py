"""One cell of the grid: a contestant, a load, so many connections. Called by `run.py`.

It must never run two cells at once: they would measure each other.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import Sampler, Site
from shared import run

HERE = Path(__file__).parent

MIXED = "/classic,/auth,/eager,/pauses,/stream"
LOADS = {
    "a": ("classic", "/classic"),
    "b": ("auth", "/auth"),
    "c": ("eager", "/eager"),
    "d": ("pauses", "/pauses"),
    "e": ("stream", "/stream"),
    "f": ("mixed", MIXED),
    "g": ("plain", "/plain"),
}
CONNECTIONS = (10, 100, 500, 2000)
SILENCE = 2  # seconds without any answer: a deadlock, or as good as one
PER_SECOND = 250  # requests that the slowest server takes in: so much longer may it be silent


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
    extra = cell.connections / PER_SECOND
    with site.server(database_url, watch) as (port, pid):
        sampler = Sampler(pid)
        sampler.start()
        command = (
            *(sys.executable, HERE / "client.py", "--port", port, "--paths", LOADS[cell.load][1]),
            *("--connections", cell.connections, "--seconds", seconds),
            *("--silence", SILENCE + extra, "--cap", seconds + 3 + extra),
            *(("--probe", 1) if cell.load == "f" else ()),
            *(("--timeline",) if watch else ()),
        )
        done = run(*command, timeout=120, check=True)
        sampler.stop()
    result = json.loads(done.stdout.splitlines()[-1])
    result["threads"] = sampler.threads
    result["memory"] = sampler.memory
    answered = result["succeeded"] + result["failed"]
    result["cpu_ms"] = sampler.cpu / answered * 1000 if answered else None
    return result
