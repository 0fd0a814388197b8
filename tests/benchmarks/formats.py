"""How figures are written in Markdown: used by `tables.py`, `readme.py` and `run.py`.

It must never round up to something better than what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def percent(value: float) -> str:
    # Never round up to a success that wasn't.
    return "100 %" if value == 1 else f"{int(value * 1000) / 10:g} %"


def ratio(value: float | None) -> str:
    return "" if value is None else f"{int(value * 100) / 100:.2f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
