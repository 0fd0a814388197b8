"""Measure the package side by side with everything a user could pick instead.

Run by hand: `python tests/benchmarks/run.py`. It reports and never judges: no time is asserted, so
a slow machine can't fail it. What it writes goes to `results/` beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import charts
import micro
import tables
from cells import CONNECTIONS, LOADS, Cell, measure
from contestants import CONTESTANTS, python_of, versions, wrapt_python
from processes import POOL_TIMEOUT, Site
from shared import postgres

HERE = Path(__file__).parent
LOST = 0.9  # a cell with a lower success rate isn't measured again: it takes long


def grid(load: str | None, quick: bool) -> list[tuple[Cell, bool]]:
    """Return the cells in the order of measurement, each with whether it is for all contestants.

    The whole grid would take hours. Every contestant takes every load at 500 connections and the
    mixed load at all numbers; the main ones also (a) and (g) at all numbers, and (a) on SQLite.
    """
    cells = [(Cell(name, 500), True) for name in LOADS]
    cells += [(Cell("f", n), True) for n in CONNECTIONS if n != 500]
    cells += [(Cell("a", n), False) for n in CONNECTIONS if n != 500]
    cells += [(Cell("g", n), False) for n in (10, 100)]
    cells += [(Cell("a", 100, sqlite=True), False)]
    if quick:
        cells = [(Cell("a", 500), False), *((Cell("f", n), False) for n in (100, 500))]
    if load:
        cells = [(cell, every) for cell, every in cells if cell.load == load]
    return cells


def measure_all(
    sites: list[Site],
    cells: list[tuple[Cell, bool]],
    rounds: int,
    more_rounds: int,
    seconds: float,
    until: float,
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return what each cell gave in each round, by contestant.

    When all have had their rounds, what is left of the time goes to the cells that the package is
    judged by: the main contestants at 500 connections, where two rounds can differ by a tenth.
    """
    results: dict[str, dict[str, list[dict[str, Any]]]] = {s.contestant.name: {} for s in sites}
    with postgres() as server, tempfile.TemporaryDirectory() as folder:
        for n in range(rounds + more_rounds):
            # Turned round each time: nobody always comes after the same other.
            in_turn = sites if n % 2 == 0 else sites[::-1]
            for cell, every in cells:
                for site in in_turn:
                    c = site.contestant
                    if not (every or c.main) or (cell.sqlite and not c.sqlite):
                        continue
                    if n >= rounds and not (c.main and cell.connections == 500):
                        continue
                    seen = results[c.name].setdefault(cell.key, [])
                    if time.monotonic() > until:
                        continue
                    if any(r["success_rate"] < LOST for r in seen):
                        continue
                    database = f"sqlite:///{folder}/{c.name}.db" if cell.sqlite else server.url
                    seen.append(measure(site, cell, database, seconds))
                    r = seen[-1]
                    print(
                        f"round {n + 1}  {cell.key:10} {c.name:24} {r['success_rate']:7.1%} "
                        f"{r['throughput']:7.0f}/s  p99 {tables.seconds(r['p99'])}",
                        flush=True,
                    )
    return results


def median(rounds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the medians over the rounds of a cell, None where there was no time for any."""
    if not rounds:
        return None
    middle: dict[str, Any] = {"rounds": len(rounds)}
    for key in tables.FIGURES:
        values = [r[key] for r in rounds if r[key] is not None]
        middle[key] = statistics.median(values) if values else None
    health = [t for r in rounds for t in r["health"]]
    middle["health_failed"] = sum(t < 0 for t in health)
    middle["health_worst"] = max((t for t in health if t >= 0), default=None)
    return middle


def timelines(stock: Site, ours: Site) -> dict[str, Any]:
    """Return what 200 requests at once do to each, one request per connection."""
    found = {}
    with postgres() as server, tempfile.TemporaryDirectory() as folder:
        for name, site in (("stock", stock), ("this package", ours)):
            file = Path(folder) / name
            r = measure(site, Cell("a", 200), server.url, 0, str(file))
            samples = [[float(x) for x in line.split()] for line in file.read_text().splitlines()]
            found[name] = {
                "samples": [[t - r["started"], used, wait] for t, used, wait in samples],
                "done_at": r["done_at"],
                "wall": r["wall"],
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="three cells, the main contestants, one round"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--more-rounds", type=int, default=8, help="of the main contestants at 500 connections"
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="of each closed loop")
    parser.add_argument("--minutes", type=float, default=14, help="start no cell after that")
    parser.add_argument("--fastapi", default="0.165.0")
    parser.add_argument("--only", choices=sorted(LOADS), metavar="LOAD", help="a to g")
    parser.add_argument(
        "--part", choices=("all", "grid", "micro"), default="all", help="the other's results stay"
    )
    parser.add_argument("--into", type=Path, default=HERE / "results")
    args = parser.parse_args()
    start = time.monotonic()
    rounds, more_rounds = (1, 0) if args.quick else (args.rounds, args.more_rounds)
    pythons = {c.name: python_of(c, args.fastapi) for c in CONTESTANTS}
    print(f"environments: {time.monotonic() - start:.0f} s", flush=True)
    start = time.monotonic()  # making them is no part of the benchmark: they are kept
    sites = [Site(c, pythons[c.name]) for c in CONTESTANTS]
    by_name = {s.contestant.name: s for s in sites}
    report: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "fastapi": args.fastapi,
        "pool_timeout": POOL_TIMEOUT,
        "seconds": args.seconds,
        "versions": {c.name: versions(pythons[c.name]) for c in CONTESTANTS},
    }
    previous = args.into / "results.json"
    if args.part != "all" and previous.exists():
        report = json.loads(previous.read_text()) | report
    ours, stock = pythons["this package"], pythons["stock"]
    if not args.quick and not args.only and args.part != "grid":
        report["micro"] = micro.everything(str(stock), str(ours), str(wrapt_python(args.fastapi)))
        print(f"micro: {time.monotonic() - start:.0f} s", flush=True)
    if args.part != "micro":
        try:
            report["timeline"] = timelines(by_name["stock"], by_name["this package"])
            until = start + 60 * args.minutes
            cells = grid(args.only, args.quick)
            results = measure_all(sites, cells, rounds, more_rounds, args.seconds, until)
        finally:
            for site in sites:
                site.close()
        report["cells"] = {
            name: {key: median(seen) for key, seen in found.items()}
            for name, found in results.items()
        }
        report["minutes"] = round((time.monotonic() - start) / 60, 1)
    args.into.mkdir(exist_ok=True)
    (args.into / "results.json").write_text(json.dumps(_rounded(report), indent=1) + "\n")
    (args.into / "results.md").write_text(tables.document(report))
    charts.draw(report, args.into)
    print(f"{(time.monotonic() - start) / 60:.1f} minutes; see {args.into / 'results.md'}")


def _rounded(value: Any) -> Any:
    """Four digits are more than is known."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value


if __name__ == "__main__":
    main()
