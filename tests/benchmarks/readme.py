"""The figures in this folder's README, written anew from the results: called by `run.py`.

Each stands between two comments, `<!-- NAME -->` and `<!-- /NAME -->`. It must never touch a word
outside of them, and every sentence in here must be true whatever was measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from cells import CONNECTIONS, LOADS
from contestants import HAND_TUNED, OURS, PACKAGE
from formats import number, percent, ratio, seconds, table
from goals import goals, said

Report = dict[str, Any]
LIMIT_17 = "this package, limit 17"
TITLES = {
    "a": "classic",
    "b": "auth queries",
    "c": "eager connection",
    "d": "async with pauses",
    "e": "sync stream",
    "f": "all mixed",
    "g": "no database",
    "h": "query on the loop",
    "i": "second connection",
    "j": "slow route",
}
NAMES = {
    "stock": "stock FastAPI",
    "stock, 1000 threads": "stock, 1,000 threads",
    HAND_TUNED: "`max_concurrency`, hand-tuned",
    "async rewrite": "rewritten async",
    "gunicorn threads": "Flask, gunicorn threads",
    OURS: "**this package**",
    LIMIT_17: "this package, `FASTAPI_OVERFLOW_LIMIT=17`",
}
TOO_LONG_AGO = "fastapi-overflow 0.1.0"


def fill(text: str, report: Report) -> str:
    """Return a README with the figures of a report.

    :raises ValueError: where it has no place for one of them, or not exactly one
    """
    for name, block in BLOCKS.items():
        if name in ("hops", "waiting") and "micro" not in report:
            continue
        place = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        new = block(report)
        text, count = place.subn(lambda found, new=new: f"{found[1]}{new}{found[2]}", text)
        if count != 1:
            raise ValueError(f"{count} places for <!-- {name} -->, must be 1")
    return text


def _measured(report: Report) -> str:
    return (
        f"The requests were measured on {report['date']} in {report['minutes']:.0f} minutes, with "
        f"Python {report['python']} and\nFastAPI {report['fastapi']}, on "
        f"{report['machine']}.\n"
    )


def _name(report: Report, contestant: str) -> str:
    if contestant == "fastapi-overflow 0.1.x":
        version = report["versions"].get(contestant, {}).get(PACKAGE)
        return f"fastapi-overflow {version}" if version else contestant
    return NAMES.get(contestant, contestant)


def _by_load(report: Report, names: Sequence[str], show: Callable[[Report], str]) -> str:
    rows = []
    for name in names:
        cells = [report["cells"][name].get(f"{load} 500") for load in LOADS]
        rows.append([_name(report, name), *(show(c) if c else "" for c in cells)])
    return table(["", *(TITLES[load] for load in LOADS)], rows)


def _succeeded(report: Report) -> str:
    names = [name for name in report["cells"] if name not in (TOO_LONG_AGO, LIMIT_17)]
    return _by_load(report, names, lambda c: percent(c["success_rate"]))


def _throughput(report: Report) -> str:
    cells = report["cells"]
    # Who loses most requests in the commonest load has no throughput worth a row, but for stock.
    names = [
        name
        for name, found in cells.items()
        if name not in (TOO_LONG_AGO, "fastapi-overflow 0.1.x", "stock, 200 threads")
        and found.get("a 500")
    ]
    return _by_load(report, names, lambda c: number(c["throughput"]))


def _mixed(report: Report) -> str:
    rows = [
        [_name(report, name), *(percent(c["success_rate"]) if c else "" for c in cells)]
        for name, found in report["cells"].items()
        if name not in (TOO_LONG_AGO, LIMIT_17)
        for cells in [[found.get(f"f {n}") for n in CONNECTIONS]]
    ]
    return table(["mixed load, connections", *(f"{n:,}" for n in CONNECTIONS)], rows)


def _goals(report: Report) -> str:
    found = goals(report)
    by_cell = {(goal.load, goal.where): goal for goal in found}

    def show(load: str, n: int) -> str:
        goal = by_cell.get((load, str(n)))
        if not goal:
            return ""
        answered = goal.ours["lost"] == 0
        return ", ".join(
            (
                *((ratio(goal.throughput),) if goal.throughput else ("tuned lost some",)),
                *(() if answered else (percent(goal.ours["success_rate"]),)),
            )
        )

    rows = [[f"{n:,}", *(show(load, n) for load in LOADS)] for n in CONNECTIONS]
    head = ["connections", *(TITLES[load] for load in LOADS)]
    rounds = sorted({n for goal in found for n in goal.rounds})
    many = " to ".join(str(n) for n in rounds[:: max(1, len(rounds) - 1)])
    return (
        "As a part of what the hand-tuned contestant answers a second, medians over "
        f"{many or 'no'} rounds, rounded down:\n\n{table(head, rows)}\n{said(found)}\n"
    )


def _quiet(report: Report) -> str:
    rows = []
    for name, found in report["cells"].items():
        c = found.get("j 500")
        if c and name != TOO_LONG_AGO:
            times = [seconds(c[f"health_{figure}"]) for figure in ("p50", "p99", "worst")]
            lost = f"{c['health_failed']} of {c['health_asked']}"
            rows.append([_name(report, name), number(c["throughput"]), *times, lost])
    head = ["", "slow route, a second", "quiet p50", "p99", "worst", "unanswered"]
    picture = "![Requests to the slow route, and p99 of the quiet one](results/quiet.svg)"
    return f"{table(head, rows)}\n{picture}\n"


def _charts(_: Report) -> str:
    what = "Requests that succeed, and p99, by connections"
    return (
        f"![{what}: mixed load](results/connections.svg)\n\n"
        f"![{what}: query on the loop](results/loop.svg)\n\n"
        f"![{what}: second connection](results/second.svg)\n"
    )


def _mixed_health(report: Report) -> str:
    worst = []
    for name in (OURS, HAND_TUNED):
        c = report["cells"].get(name, {}).get("f 500")
        worst.append(seconds(c["health_worst"]) if c else "-")
    return (
        "A sync `/healthz` beside the mixed load at 500 connections was answered after "
        f"{worst[0]} at worst, and\nafter {worst[1]} with the hand-tuned contestant.\n"
    )


def _hops(report: Report) -> str:
    hops = report["micro"]["hops"]
    places = [(loop, place) for loop in ("asyncio", "uvloop") for place in ("inside", "outside")]

    def part(loop: str, cell: str) -> str:
        counted = (hops[loop]["instructions"] or {}).get(cell)
        return f"{counted[1] / counted[0]:.2f}" if counted else "-"

    rows = [[str(n), *(part(loop, f"{place} {n}") for loop, place in places)] for n in (1, 40, 400)]
    head = ["hops at once", "asyncio, inside a request", "outside any request"]
    head += ["uvloop, inside a request", "outside any request"]
    exits = [part(loop, "exit 40") for loop in ("asyncio", "uvloop")]
    return (
        f"{table(head, rows)}\nFor a request whose fourth hop leaves a dependency, as on the "
        f"classic route, it is {exits[0]} on asyncio and {exits[1]} on uvloop.\n"
    )


def _waiting(report: Report) -> str:
    queue = report["micro"]["queue"]
    kilobytes = {
        whose: max(row["bytes"] for row in queue if ours(row) and row["waiting"] == 1000) / 1000
        for whose, ours in (
            ("ours", lambda row: row["who"] != "stock"),
            ("stock", lambda row: row["who"] == "stock"),
        )
    }
    costs: dict[str, dict[int, float]] = {}
    for row in queue:
        if row["who"] != "stock":
            costs.setdefault(row["who"], {})[int(row["waiting"])] = row["nanoseconds"]
    more = sorted(cost[100_000] / cost[10] for cost in costs.values())
    some = sorted(cost[1_000] / cost[10] for cost in costs.values())
    return (
        f"A task that waits for a thread takes {kilobytes['ours']:.1f} kB, with anyio "
        f"{kilobytes['stock']:.1f} kB. Giving a thread on while 1,000 wait costs\n"
        f"{some[0]:.1f} to {some[-1]:.1f} times what it costs while 10 do, and while 100,000 do "
        f"{more[0]:.1f} to {more[-1]:.1f} times that.\n"
    )


BLOCKS: dict[str, Callable[[Report], str]] = {
    "measured": _measured,
    "succeeded": _succeeded,
    "mixed": _mixed,
    "charts": _charts,
    "throughput": _throughput,
    "goals": _goals,
    "quiet": _quiet,
    "mixed-health": _mixed_health,
    "hops": _hops,
    "waiting": _waiting,
}
