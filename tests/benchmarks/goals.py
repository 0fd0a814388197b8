"""The goals: this package against the hand-tuned contestant, read by `tables.py` and `readme.py`.

A goal is kept where all requests of all rounds were answered, and at least as many a second as the
hand-tuned contestant answered: medians over the rounds. It must never leave out a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contestants import HAND_TUNED, OURS, STOCK


@dataclass(frozen=True)
class Goal:
    """What came of one cell.

    :ivar rounds: of this package, of the hand-tuned contestant
    :ivar throughput: this package's by the hand-tuned contestant's
    :ivar p99: the same of the latencies; None, like `throughput`, where that one lost requests
    :ivar of_stock: this package's throughput by stock's, None where stock lost requests
    """

    load: str
    where: str
    ours: dict[str, Any]
    rounds: tuple[int, int]
    throughput: float | None
    p99: float | None
    of_stock: float | None

    @property
    def kept(self) -> bool:
        # A contestant that has lost requests is no match for one that has not.
        return self.ours["lost"] == 0 and (self.throughput is None or self.throughput >= 1)

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest requests a second of the rounds."""
        return min(self.ours["throughputs"]), max(self.ours["throughputs"])


def goals(report: dict[str, Any]) -> list[Goal]:
    found = []
    for key, ours in report["cells"].get(OURS, {}).items():
        load, where = key.split(" ", 1)
        tuned = report["cells"].get(HAND_TUNED, {}).get(key)
        stock = report["cells"].get(STOCK, {}).get(key)
        if tuned:
            rounds = ours["rounds"], tuned["rounds"]
            parts = (_part(ours, tuned, figure) for figure in ("throughput", "p99"))
            of_stock = _part(ours, stock, "throughput")
            found.append(Goal(load, where, ours, rounds, *parts, of_stock))
    return found


def said(found: list[Goal]) -> str:
    """Return in a sentence how many goals were kept."""
    answered = sum(goal.ours["lost"] == 0 for goal in found)
    kept = sum(goal.kept for goal in found)
    return (
        f"This package answered every request in {answered} of {len(found)} cells, and in {kept} "
        "of them at least as many a second as the hand-tuned contestant."
    )


def _part(ours: dict[str, Any], other: dict[str, Any] | None, figure: str) -> float | None:
    if other and other["lost"] == 0 and other[figure] and ours[figure]:
        return float(ours[figure] / other[figure])
    return None
