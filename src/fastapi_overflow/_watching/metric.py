"""A metric, and what is read for it.

Made by the tables of metrics, called by the exporters. It must read nothing that isn't asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from .pool_stats import PoolStats, idle_by_name, stats_by_name
from .stats import Stats, totals

# The labels' values, and the number.
Value = tuple[tuple[str, ...], float]


class Reading:
    """What one collection reads, each part when it is asked for the first time."""

    @cached_property
    def threads(self) -> Stats:
        return totals(all_loops=True)

    @cached_property
    def pools(self) -> dict[str, PoolStats]:
        return stats_by_name()

    @cached_property
    def idle(self) -> Mapping[str, int]:
        return idle_by_name()


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    :ivar name: for OpenTelemetry
    :ivar prometheus: after "fastapi_overflow_"; of counters without the "_total"
    :ivar unit: of OpenTelemetry
    :ivar total: whether it only ever grows
    :ivar read: returns the values, each with those of its labels
    :ivar labels: for Prometheus
    :ivar attributes: the same for OpenTelemetry, where they are called otherwise
    """

    name: str
    prometheus: str
    unit: str
    total: bool
    description: str
    read: Callable[[Reading], list[Value]]
    labels: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    def attributes_of(self, labels: tuple[str, ...]) -> dict[str, str]:
        """Return a value's attributes for OpenTelemetry."""
        return dict(zip(self.attributes or self.labels, labels, strict=True))
