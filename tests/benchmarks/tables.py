"""The results as Markdown: called by `run.py` at the end.

It must never leave out a cell that was measured, nor show one that was not.
"""

from __future__ import annotations

from typing import Any

from cells import CONNECTIONS, LOADS, PATIENCE, SILENCE
from contestants import POOL_CAPACITY, TUNED
from formats import number, percent, ratio, seconds, table
from goals import goals, said

QUERIES = {"a": 1, "b": 2, "c": 1, "d": 2, "e": 1}
PLACES = {
    "inside": "inside a request",
    "outside": "outside any request",
    "exit": "inside a request whose fourth hop leaves a dependency",
}


def document(report: dict[str, Any]) -> str:
    parts = [_head(report), _summary(report), _quiet(report), _goals(report)]
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
an answer {PATIENCE + report["seconds"]:g} s after the start, or after {SILENCE} s in which nothing
at all is answered, requests count as failed. Both are longer by the time that all connections need
at {LOADS["a"].per_second} requests a second ({LOADS["h"].per_second} for (h), and
{LOADS["i"].per_second} for (i)).
SQLAlchemy's default pool: 5 connections and 10 more; its `pool_timeout` is lowered from 30 s to
{timeout} s for all, so that a deadlock shows in reasonable time. A query takes 5 ms (`pg_sleep`),
the slow route of (j) 100 ms (`time.sleep`).

Hand-tuned is `max_concurrency` of FastAPI's `Depends`: {TUNED["one connection"]} for the session,
{TUNED["on the loop"]} where the endpoint queries on the event loop (h), {TUNED["two connections"]}
where it takes a second connection (i), and {TUNED["slow"]} of 40 threads for the slow route of (j).

Latencies are those of all requests; one that failed or was never answered counts with the time
until then. Throughput is what was answered, over the time until the last of it was. Both are
medians over the rounds: {report["rounds"]} for this package and the hand-tuned contestant,
{2 * report["other_rounds"]} for stock, {report["other_rounds"]} for the others, as far as there
was time; the last tables have the number for each. Success is that of all requests of all rounds.
Who has lost more than a tenth of a cell's requests does not take it again, but for the two that are
compared. Left out, for time: loads (b) to (e) at other than 500 connections; for all but stock, the
hand-tuned contestant and this package also all others but the mixed one.
{_errors(report)}"""


def _errors(report: dict[str, Any]) -> str:
    if not report["errors"]:
        return ""
    return "\nMeasurements that failed:\n\n" + "".join(f"* {e}\n" for e in report["errors"])


def _cell(report: dict[str, Any], contestant: str, key: str) -> dict[str, Any] | None:
    return report["cells"][contestant].get(key)


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
        head = ["", *(f"({load}) {LOADS[load].title}" for load in LOADS)]
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
    title = "`/healthz` once a second beside the mixed load: worst answer"
    parts.append(f"## {title}\n\n{table(head, rows)}")
    return "\n".join(parts)


def _quiet(report: dict[str, Any]) -> str:
    parts = ["## A quiet route beside the slow one (j): `/healthz`, asked 50 times a second\n"]
    for n in CONNECTIONS:
        found = {name: _cell(report, name, f"j {n}") for name in report["cells"]}
        rows = [
            [name, number(c["throughput"])]
            + [seconds(c[f"health_{figure}"]) for figure in ("p50", "p99", "worst")]
            + [f"{c['health_failed']} of {c['health_asked']}"]
            for name, c in found.items()
            if c
        ]
        head = [f"{n} connections", "slow route, per second", "p50", "p99", "worst", "unanswered"]
        if rows:
            parts.append(table(head, rows))
    return "\n".join(parts)


def _goals(report: dict[str, Any]) -> str:
    found = goals(report)
    rows = []
    for goal in found:
        limit = POOL_CAPACITY / (0.005 * QUERIES[goal.load]) if goal.load in QUERIES else None
        rows.append(
            [
                f"({goal.load}) {goal.where}",
                percent(goal.ours["success_rate"]),
                ratio(goal.throughput),
                f"{goal.p99:.2f}" if goal.p99 else "",
                ratio(goal.of_stock),
                f"{goal.ours['throughput'] / limit:.2f}" if limit else "",
                "{} to {}".format(*(number(value) for value in goal.range)),
                "{}, {}".format(*goal.rounds),
                "yes" if goal.kept else "**no**",
            ]
        )
    head = [
        "load, connections",
        "succeeded",
        "throughput / hand-tuned",
        "p99 / hand-tuned",
        "throughput / stock",
        "throughput / (pool / query time)",
        "per second in the rounds",
        "rounds, hand-tuned's",
        "goal kept",
    ]
    return f"""## This package against the hand-tuned `max_concurrency`, and stock

{said(found)} Ratios are of medians, rounded down, and left out where the other lost requests.

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
        parts.append(f"### ({load}) {LOADS[load].title}, {rest} connections\n\n{table(head, rows)}")
    return parts


def _versions(report: dict[str, Any]) -> str:
    names = ("fastapi-overflow", "fastapi", "starlette", "anyio", "uvicorn", "sqlalchemy", "flask")
    names += ("gunicorn",)
    rows = [
        [contestant, *(found.get(name, "") for name in names)]
        for contestant, found in report["versions"].items()
    ]
    return f"## Versions\n\n{table(['', *names], rows)}"
