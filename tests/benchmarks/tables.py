"""The results as Markdown: called by `run.py` at the end.

It must never leave out a cell that was measured, nor show one that was not.
"""

from __future__ import annotations

from typing import Any

from cells import CONNECTIONS, LOADS, PER_SECOND, SILENCE
from contestants import POOL_CAPACITY

FIGURES = ("success_rate", "throughput", "p50", "p99", "max", "threads", "memory", "cpu_ms")
QUERIES = {"a": 1, "b": 2, "c": 1, "d": 2, "e": 1}
HAND_TUNED = "max_concurrency=15"
OURS = "this package"
PLACES = {
    "inside": "inside a request",
    "outside": "outside any request",
    "exit": "inside a request whose fourth hop leaves a dependency",
}


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def percent(value: float) -> str:
    # Never round up to a success that wasn't.
    return "100 %" if value == 1 else f"{int(value * 1000) / 10:g} %"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def document(report: dict[str, Any]) -> str:
    parts = [_head(report), _summary(report), _goals(report)]
    if "micro" in report:
        parts.append(_micro(report["micro"]))
    parts += ["## Every cell\n", *_cells(report), _versions(report)]
    return "\n".join(parts)


def _head(report: dict[str, Any]) -> str:
    timeout = report["pool_timeout"]
    return f"""# Benchmark

Measured by `python tests/benchmarks/run.py` in {report["minutes"]} minutes, on
{report["machine"]}, Python {report["python"]}, FastAPI {report["fastapi"]}. Each contestant has a
virtual environment of its own; uvicorn (gunicorn for Flask) runs in a process of its own, a fresh
one for each cell; a real PostgreSQL server runs on the same machine. Server, load generator and
database share its cores, so throughput is that of the whole.

The load generator keeps so many connections open and sends each its next request when it has its
answer, for {report["seconds"]:g} s; what is under way then is waited for, but not for ever. Without
an answer {3 + report["seconds"]:g} s after the start, or after {SILENCE} s in which nothing at all
is answered (both a second more per {PER_SECOND} connections), requests count as failed.
SQLAlchemy's default pool: 5 connections and 10 more; its `pool_timeout` is lowered from 30 s to
{timeout} s for all, so that a deadlock shows in reasonable time. A query takes 5 ms (`pg_sleep`).

Latencies are those of all requests; one that failed or was never answered counts with the time
until then. Throughput is what was answered, over the time until the last of it was. Medians over
the rounds there was time for: two, and more for this package, the hand-tuned contestant and stock
at 500 connections; the last tables have the number for each. A contestant that has lost more than a
tenth of a cell's requests does not measure it again. Left out, for time: loads (b) to (e) at other
than 500 connections; (a), (g) and SQLite for other than stock, the hand-tuned one and this package.
"""


def _cell(report: dict[str, Any], contestant: str, key: str) -> dict[str, Any] | None:
    found = report["cells"][contestant].get(key)
    return found if found else None


def _summary(report: dict[str, Any]) -> str:
    keys = [f"{load} 500" for load in LOADS]
    parts = []
    for title, show in (
        ("Requests that succeeded, 500 connections", lambda c: percent(c["success_rate"])),
        ("Requests answered per second, 500 connections", lambda c: number(c["throughput"])),
        ("p99, 500 connections", lambda c: seconds(c["p99"])),
    ):
        rows = []
        for name in report["cells"]:
            cells = [_cell(report, name, key) for key in keys]
            rows.append([name, *(show(c) if c else "" for c in cells)])
        head = ["", *(f"({load}) {LOADS[load][0]}" for load in LOADS)]
        parts.append(f"## {title}\n\n{table(head, rows)}")
    rows = []
    for name in report["cells"]:
        cells = [_cell(report, name, f"f {n}") for n in CONNECTIONS]
        rows.append([name, *(percent(c["success_rate"]) if c else "" for c in cells)])
    head = ["", *(str(n) for n in CONNECTIONS)]
    parts.append(f"## Requests that succeeded, mixed load, by connections\n\n{table(head, rows)}")
    rows = []
    for name in report["cells"]:
        cells = [_cell(report, name, f"f {n}") for n in (500, 2000)]
        shown = [
            f"{seconds(c['health_worst'])}, {c['health_failed']:.0f} unanswered" if c else ""
            for c in cells
        ]
        rows.append([name, *shown])
    head = ["", "500 connections", "2000 connections"]
    title = "(h) `/healthz` once a second beside the mixed load: worst answer"
    parts.append(f"## {title}\n\n{table(head, rows)}")
    return "\n".join(parts)


def _goals(report: dict[str, Any]) -> str:
    rows = []
    for key, ours in report["cells"].get(OURS, {}).items():
        tuned, stock = _cell(report, HAND_TUNED, key), _cell(report, "stock", key)
        if not ours:
            continue
        row = [f"({key.split()[0]}) {key.split(' ', 1)[1]}", percent(ours["success_rate"])]
        for figure, other in (("throughput", tuned), ("p99", tuned), ("throughput", stock)):
            fair = other and other[figure] and ours[figure] and other["success_rate"] == 1
            row.append(f"{ours[figure] / other[figure]:.2f}" if fair else "")
        load = key.split()[0]
        limit = POOL_CAPACITY / (0.005 * QUERIES[load]) if load in QUERIES else None
        row.append(f"{ours['throughput'] / limit:.2f}" if limit else "")
        rows.append(row)
    head = [
        "load, connections",
        "succeeded",
        "throughput / hand-tuned",
        "p99 / hand-tuned",
        "throughput / stock",
        "throughput / (pool / query time)",
    ]
    return f"""## This package against the hand-tuned `max_concurrency`, and stock

Ratios are left out where the other lost requests.

{table(head, rows)}"""


def _micro(found: dict[str, Any]) -> str:
    parts = ["## What a hop costs\n"]
    for kind in ("instructions", "nanoseconds"):
        rows = []
        for loop, tables in found["hops"].items():
            for cell, (stock, ours) in (tables[kind] or {}).items():
                place, concurrent = cell.split()
                rows.append(
                    [
                        f"{loop}, {PLACES[place]}, {concurrent} at once",
                        f"{stock:,}",
                        f"{ours:,}",
                        f"{ours / stock:.2f}",
                    ]
                )
        parts.append(table([f"{kind} per hop", "stock", "this package", "ratio"], rows))
    rows = [
        [
            f"{int(row['waiting']):,}",
            row["who"],
            f"{row['nanoseconds']:,.0f}",
            f"{row['bytes']:,.0f}",
        ]
        for row in found["queue"]
    ]
    head = ["waiting", "", "ns per release and acquire", "bytes per waiting task"]
    parts.append(f"## What waiting costs\n\n{table(head, rows)}")
    rows = [
        [
            what,
            *(f"{counts[k]:,}" if counts.get(k) else "" for k in ("stock", "ours", "wrapt")),
            f"{counts['ours'] / counts['stock']:.3f}",
        ]
        for what, counts in found["start"].items()
        if counts.get("stock") and counts.get("ours")
    ]
    head = ["instructions", "without", "this package", "`.pth` with `import wrapt`", "ratio"]
    parts.append(f"## What starting costs\n\n{table(head, rows)}")
    return "\n".join(parts)


def _cells(report: dict[str, Any]) -> list[str]:
    keys = list(dict.fromkeys(key for found in report["cells"].values() for key in found))
    parts = []
    for key in keys:
        rows = []
        for name in report["cells"]:
            c = _cell(report, name, key)
            if c:
                rows.append(
                    [name, percent(c["success_rate"]), number(c["throughput"])]
                    + [seconds(c[k]) for k in ("p50", "p99", "max")]
                    + [number(c["threads"]), number(c["memory"]), number(c["cpu_ms"])]
                    + [str(c["rounds"])]
                )
        load, rest = key.split(" ", 1)
        head = ["", "succeeded", "per second", "p50", "p99", "max", "threads", "MiB"]
        head += ["CPU ms per request", "rounds"]
        parts.append(f"### ({load}) {LOADS[load][0]}, {rest} connections\n\n{table(head, rows)}")
    return parts


def _versions(report: dict[str, Any]) -> str:
    names = ("fastapi-overflow", "fastapi", "starlette", "anyio", "uvicorn", "sqlalchemy", "flask")
    names += ("gunicorn",)
    rows = [
        [contestant, *(found.get(name, "") for name in names)]
        for contestant, found in report["versions"].items()
    ]
    return f"## Versions\n\n{table(['', *names], rows)}"
