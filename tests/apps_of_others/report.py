"""What was measured, as a table; and its place in tests/README.md.

Called by `real_apps.py`, at its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from apps_of_others.load import Burst
from support import ROOT

README = ROOT / "tests" / "README.md"
BEGIN = "<!-- real apps: written by tests/real_apps.py -->"
END = "<!-- end of real apps -->"
WAYS = ("without", "with")

HEAD = """\
| app | how it uses its database | requests | failed | seconds | CPU seconds |
|---|---|---:|---:|---:|---:|
"""


@dataclass
class Result:
    """All rounds of one app."""

    name: str
    version: str
    database: str
    stack: Mapping[str, str]
    changed: Mapping[str, str]  # what the package's installation changed of the app's environment
    rounds: dict[str, list[list[Burst]]] = field(default_factory=lambda: {w: [] for w in WAYS})
    broken: str = ""

    @property
    def requests(self) -> int:
        """How many requests each way was sent, in all rounds."""
        return sum(sum(b.outcomes.values()) for bursts in self.rounds["with"] for b in bursts)

    def failed(self, way: str, name: str | None = None) -> int:
        """How many requests failed, of all bursts or those of one name."""
        every = [b for bursts in self.rounds[way] for b in bursts]
        return sum(b.failed for b in every if name in (None, b.name))

    def mean(self, way: str, what: str) -> float:
        """Return a figure of all bursts, in the mean round."""
        every = [getattr(b, what) for bursts in self.rounds[way] for b in bursts]
        return sum(every) / max(1, len(self.rounds[way]))

    def names(self) -> list[str]:
        """Return the bursts' names, in order."""
        return list(dict.fromkeys(b.name for r in self.rounds["with"] for b in r))

    def worse(self) -> list[str]:
        """Say which bursts lost requests that they did not lose without the package."""
        lost = [(n, self.failed("without", n), self.failed("with", n)) for n in self.names()]
        return [f"{n}: {was} failed without, {now} with" for n, was, now in lost if now > was]

    def line(self) -> str:
        """Return the app's line of the table."""
        if self.broken:
            reason = self.broken.splitlines()[0].replace("|", "\\|")[:80]
            return f"| {self.name} {self.version} | {self.database} | {reason} | | | |\n"
        cells = [
            f"{self.name} {self.version}",
            self.database,
            f"{self.requests:,}",
            " → ".join(f"{self.failed(way):,}" for way in WAYS),
            " → ".join(f"{self.mean(way, 'seconds'):.1f}" for way in WAYS),
            " → ".join(f"{self.mean(way, 'cpu'):.1f}" for way in WAYS),
        ]
        return f"| {' | '.join(cells)} |\n"


def details(result: Result) -> str:
    """Return a line for each burst: what failed, and how long each round took."""
    lines = [f"{result.name} {result.version} ({', '.join(map(' '.join, result.stack.items()))})"]
    lines += [f"  changed by installing the package: {result.changed}"] if result.changed else []
    for name in result.names():
        lines.append(f"  {name}")
        for way in WAYS:
            bursts = [b for r in result.rounds[way] for b in r if b.name == name]
            took = ", ".join(f"{b.seconds:.2f}" for b in bursts)
            worst = max(b.worst for b in bursts)
            outcomes = [dict(b.outcomes) for b in bursts]
            cpu = ", ".join(f"{b.cpu:.2f}" for b in bursts)
            lines.append(f"    {way:8} {took} s; CPU {cpu} s; worst {worst:.2f} s; {outcomes}")
    return "\n".join(lines)


def save(results: Sequence[Result], path: Path) -> None:
    """Write all that was measured as JSON."""
    path.write_text(json.dumps([asdict(result) for result in results], indent=1))


def write_readme(results: Sequence[Result]) -> None:
    """Put the apps' lines between the two marker lines, which are added where they aren't there.

    The lines of other apps, of earlier runs, stay.
    """
    text = README.read_text() if README.exists() else "# Tests\n"
    if BEGIN not in text:
        text += f"\n## Apps that others wrote\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    earlier = [line for line in table.splitlines(keepends=True) if line.startswith("| ")]
    lines = {line.split()[1]: line for line in earlier[1:]}
    lines.update({result.name: result.line() for result in results})
    every = "".join(lines[name] for name in sorted(lines))
    README.write_text(f"{before}{BEGIN}\n{HEAD}{every}{END}{after}")
