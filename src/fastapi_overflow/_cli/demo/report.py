"""What the demo prints: both runs side by side, for people or as JSON.

Called by the runner at the end. It must never claim what the figures don't show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .client import Load


@dataclass(frozen=True)
class Run:
    """One of the two runs.

    :ivar threads: most threads that the server's process had at once
    """

    load: Load
    threads: int

    def as_dict(self) -> dict[str, Any]:
        load = self.load
        return {
            "succeeded": load.succeeded,
            "failed": load.failed,
            "failures": dict(load.failures),
            "wall_seconds": round(load.wall_time, 3),
            "median_seconds": round(load.median_latency, 3),
            "worst_seconds": round(load.worst_latency, 3),
            "peak_threads": self.threads,
        }


@dataclass(frozen=True)
class Comparison:
    """Both runs, side by side."""

    requests: int
    database: str
    pool: str
    versions: Mapping[str, str]
    without: Run
    with_it: Run

    @property
    def times_faster(self) -> float:
        return self.without.load.wall_time / self.with_it.load.wall_time

    def as_dict(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "database": self.database,
            "pool": self.pool,
            "versions": dict(self.versions),
            "without": self.without.as_dict(),
            "with": self.with_it.as_dict(),
            "times_faster": round(self.times_faster, 1),
        }

    def as_text(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        head = (
            f"{self.requests} requests at once, one uvicorn process; database: {self.database}, "
            f"{self.pool} connections\n{versions}\n"
        )
        loads = self.without.load, self.with_it.load
        rows = [
            ("", ("without", "with fastapi-overflow")),
            ("requests succeeded", tuple(str(load.succeeded) for load in loads)),
            ("requests failed", tuple(str(load.failed) for load in loads)),
            *(
                (f"  {reason}", tuple(str(load.failures[reason]) for load in loads))
                for reason in sorted(loads[0].failures | loads[1].failures)
            ),
            ("wall time", tuple(_seconds(load.wall_time) for load in loads)),
            ("median latency", tuple(_seconds(load.median_latency) for load in loads)),
            ("worst latency", tuple(_seconds(load.worst_latency) for load in loads)),
            ("threads, at most", (str(self.without.threads), str(self.with_it.threads))),
        ]
        width = max(len(name) for name, _ in rows)
        table = [f"{name:<{width}}  {values[0]:>10}  {values[1]:>21}" for name, values in rows]
        return "\n".join([head, *table, "", self._verdict()])

    def _verdict(self) -> str:
        lost, lost_with = self.without.load.failed, self.with_it.load.failed
        if lost_with:
            return (
                f"With fastapi-overflow {lost_with} of {self.requests} requests failed. "
                "They should not have; please report this."
            )
        all_of_them = f"with it all {self.requests} succeeded"
        if not lost:
            return (
                f"Without fastapi-overflow no request failed, and {all_of_them}: "
                "not enough load for a deadlock here. Try more --requests."
            )
        return (
            f"Without fastapi-overflow {lost} of {self.requests} requests failed; {all_of_them}, "
            f"{self.times_faster:.0f} times faster."
        )


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"
