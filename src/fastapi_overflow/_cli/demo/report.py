"""What the demo prints: both acts, without and with the package, for people or as JSON.

Called by the runner at the end. It must never claim what the figures don't show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from .acts import Act
from .client import Load
from .health import Health

WIDTH = 80  # columns of a terminal
COLUMNS = (14, 11)  # without, with it


@dataclass(frozen=True)
class Run:
    """What came out of one act on one server.

    :ivar threads: most threads that the server's process had at once
    """

    load: Load
    health: Health
    threads: int

    @property
    def lost(self) -> bool:
        """Whether any request was lost, those to `/health` included."""
        return self.load.failed > 0 or not self.health.answered

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
            "health": self.health.as_dict(),
        }

    def cells(self, failures: Sequence[str]) -> list[str]:
        """Return the run's column of the table."""
        load, health = self.load, self.health
        return [
            str(load.succeeded),
            str(load.failed),
            *(str(load.failures[reason]) for reason in failures),
            _seconds(load.wall_time),
            _seconds(load.median_latency),
            _seconds(load.worst_latency),
            _seconds(health.worst) if health.answered else "no answer",
            str(self.threads),
        ]


@dataclass(frozen=True)
class Pair:
    """One act, without the package and with it."""

    act: Act
    without: Run
    with_it: Run

    @property
    def times_faster(self) -> float:
        return self.without.load.wall_time / self.with_it.load.wall_time

    def as_dict(self) -> dict[str, Any]:
        return {
            "without": self.without.as_dict(),
            "with": self.with_it.as_dict(),
            "times_faster": round(self.times_faster, 1),
        }

    def verdict(self) -> str:
        requests = len(self.with_it.load.latencies)
        lost, lost_with = self.without.load.failed, self.with_it.load.failed
        if lost_with:
            return (
                f"with fastapi-overflow {lost_with} of {requests} requests failed. "
                "They should not have; please report this."
            )
        if not self.with_it.health.answered:
            return (
                "with fastapi-overflow /health got no answer. "
                "It should have got one; please report this."
            )
        all_of_them = f"with it all {requests} succeeded"
        if not lost:
            return (
                f"without fastapi-overflow no request failed, and {all_of_them}: "
                "not enough load for a deadlock here. Try more --requests."
            )
        return (
            f"without fastapi-overflow {lost} of {requests} requests failed; {all_of_them}, "
            f"{self.times_faster:.0f} times faster."
        )


@dataclass(frozen=True)
class Comparison:
    """Both acts, side by side."""

    requests: int
    database: str
    pool: str
    versions: Mapping[str, str]
    pairs: Sequence[Pair]

    @property
    def lost_with_it(self) -> bool:
        return any(pair.with_it.lost for pair in self.pairs)

    def as_dict(self) -> dict[str, Any]:
        first, second = self.pairs
        return {
            "requests": self.requests,
            "database": self.database,
            "pool": self.pool,
            "versions": dict(self.versions),
            # Where they were when there was but one act.
            **first.as_dict(),
            "async_endpoint": second.as_dict(),
        }

    def as_text(self) -> str:
        load = (
            f"{self.requests} requests at once to a `def` endpoint, then to an `async def` one, "
            "both with a sync session, in the same app without fastapi-overflow and with it; "
            "/health is asked meanwhile."
        )
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        place = f"Database: {self.database}, {self.pool} connections; {versions}"
        verdicts = [_wrapped(f"{pair.act.name}: {pair.verdict()}", "  ") for pair in self.pairs]
        return "\n".join([_wrapped(load), _wrapped(place), "", *self._table(), "", *verdicts])

    def _table(self) -> list[str]:
        runs = [run for pair in self.pairs for run in (pair.without, pair.with_it)]
        failures = sorted({reason for run in runs for reason in run.load.failures})
        names = [
            "requests succeeded",
            "requests failed",
            *(f"  {reason}" for reason in failures),
            "wall time",
            "median latency",
            "worst latency",
            "/health, worst wait",
            "threads, at most",
        ]
        width = max(len(name) for name in names)
        acts = "".join(f"{pair.act.name:>{sum(COLUMNS)}}" for pair in self.pairs)
        rows = [
            ["", *["without", "with it"] * len(self.pairs)],
            *zip(names, *(run.cells(failures) for run in runs), strict=True),
        ]
        return [f"{'':<{width}}{acts}", *(_row(width, *row) for row in rows)]


def _row(width: int, name: str, *cells: str) -> str:
    columns = COLUMNS * (len(cells) // len(COLUMNS))
    return f"{name:<{width}}" + "".join(
        f"{cell:>{column}}" for cell, column in zip(cells, columns, strict=True)
    )


def _wrapped(text: str, indent: str = "") -> str:
    return fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"
