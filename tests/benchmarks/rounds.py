"""What each turn gave, in a file from the moment it was measured: written and read by `run.py`.

A run that is killed loses the turn that it was at, and `--resume` goes on from there. It must never
mix turns of two different settings, nor hide a turn that failed.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from schedule import Turn

MEDIANS = ("throughput", "p50", "p99", "max", "threads", "memory", "cpu_ms")
LOST = 0.9  # who has a lower success rate doesn't take the cell again: it takes long


class Rounds:
    """All turns measured so far, as they are in the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turns: dict[tuple[str, str, int], dict[str, Any]] = {}
        head, *lines = _lines(path)
        self.settings: dict[str, Any] = head["settings"]
        for line in lines:
            self._turns[line["contestant"], line["cell"], line["round"]] = line["result"]

    @classmethod
    def begin(cls, path: Path, settings: dict[str, Any], resume: bool) -> Rounds:
        """Begin a file, or go on with the one that is there.

        :param settings: what must be the same for turns to be compared
        :raises ValueError: where the file to go on with has others
        """
        lines = _lines(path) if resume and path.exists() else []
        if lines and lines[0] != {"settings": settings}:
            raise ValueError(f"{path} was measured with other settings: run without --resume")
        # Written anew: a killed run may have left half a line.
        kept = lines or [{"settings": settings}]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        return cls(path)

    def add(self, turn: Turn, result: dict[str, Any]) -> None:
        self._turns[turn.key] = result
        line = dict(zip(("contestant", "cell", "round"), turn.key, strict=True), result=result)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def wanted(self, turn: Turn, always: bool) -> bool:
        """Tell whether a turn is still to be measured.

        :param always: however much the contestant has lost in the same cell
        """
        if "error" not in self._turns.get(turn.key, {"error": "not yet"}):
            return False
        return always or not any(
            result.get("success_rate", 0) < LOST
            for (name, cell, _), result in self._turns.items()
            if (name, cell) == turn.key[:2]
        )

    def errors(self) -> list[str]:
        """Return the turns that came to no result, and why."""
        return [
            f"{name}, {cell}, round {n}: {result['error']}"
            for (name, cell, n), result in self._turns.items()
            if "error" in result
        ]

    def minutes(self) -> float:
        """Return how long all of it took, of a run that was resumed both parts."""
        return sum(result.get("took", 0) for result in self._turns.values()) / 60

    def cells(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return each cell's figures over its rounds, by contestant."""
        seen: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for (name, cell, _), result in self._turns.items():
            if "error" not in result:
                seen.setdefault(name, {}).setdefault(cell, []).append(result)
        return {name: {c: _over(r) for c, r in found.items()} for name, found in seen.items()}


def _over(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians over the rounds, and the sums of what must not be lost in a median."""
    figures: dict[str, Any] = {"rounds": len(rounds)}
    for key in MEDIANS:
        values = [r[key] for r in rounds if r[key] is not None]
        figures[key] = statistics.median(values) if values else None
    figures["throughputs"] = [r["throughput"] for r in rounds]
    succeeded = sum(r["succeeded"] for r in rounds)
    figures["requests"] = succeeded + sum(r["failed"] + r["unanswered"] for r in rounds)
    figures["lost"] = figures["requests"] - succeeded
    figures["success_rate"] = succeeded / max(1, figures["requests"])
    asked = [t for r in rounds for t in r["health"]]
    answered = sorted(t for t in asked if t >= 0)
    figures["health_asked"] = len(asked)
    figures["health_failed"] = len(asked) - len(answered)
    figures["health_worst"] = answered[-1] if answered else None
    # Of all that were asked: one without an answer has waited longer than any other.
    for key, part in (("health_p50", 0.5), ("health_p99", 0.99)):
        at = int(len(asked) * part)
        figures[key] = answered[at] if at < len(answered) else None
    return figures


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
