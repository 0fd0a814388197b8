"""Measure the package side by side with everything a user could pick instead.

Run by hand: `python tests/benchmarks/run.py`. It reports and never judges: no time is asserted, so
a slow machine can't fail it. What it writes goes to `results/` beside it, each measurement as soon
as it was made: a run that was killed goes on with `--resume`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import charts
import micro
import readme
import tables
from cells import CONNECTIONS, LOADS, Cell, measure
from contestants import CONTESTANTS, OURS, STOCK, python_of, versions, wrapt_python
from formats import seconds as shown
from goals import goals, said
from processes import POOL_TIMEOUT, Site
from rounds import Rounds
from schedule import Turn, cells, estimate, plan, rounds_of
from shared import ChildFailed, ChildHung, postgres

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROUNDS = "rounds.jsonl"
FAULTS = (ChildFailed, ChildHung, subprocess.SubprocessError, OSError, RuntimeError, ValueError)


def measure_all(sites: list[Site], turns: Sequence[Turn], rounds: Rounds, args: Any) -> None:
    """Take the turns that are still to be measured, until the time is over.

    A turn that fails is noted, told and left out: one broken server must not cost a whole run.
    """
    by_name = {site.contestant.name: site for site in sites}
    until = time.monotonic() + 60 * args.minutes
    began, late, behind = time.monotonic(), 0, turns[0].round if turns else 0
    with postgres() as server, tempfile.TemporaryDirectory() as folder:
        for at, turn in enumerate(turns):
            c, cell = turn.contestant, turn.cell
            if turn.round != behind:
                behind = turn.round
                took, left = time.monotonic() - began, estimate(turns[at:], args.seconds)
                print(f"{took / 60:.1f} minutes; about {left / 60:.0f} to go", flush=True)
            always = rounds_of(c, cell, args.rounds, args.other_rounds) == args.rounds
            if not rounds.wanted(turn, always):
                continue
            if time.monotonic() > until:
                late += 1
                continue
            database = f"sqlite:///{folder}/{c.name}.db" if cell.sqlite else server.url
            try:
                result = measure(by_name[c.name], cell, database, args.seconds)
                told = (
                    f"{result['success_rate']:7.1%} {result['throughput']:7.0f}/s  "
                    f"p99 {shown(result['p99'])}"
                )
            except FAULTS as error:
                result = {"error": str(error)[-300:]}
                told = f"FAILED: {error}"
            rounds.add(turn, _rounded(result))
            print(f"round {turn.round}  {cell.key:12} {c.name:26} {told}", flush=True)
    if late:
        print(f"{late} turns left out: {args.minutes:g} minutes were over", flush=True)


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


def environments(fastapi: str) -> dict[str, Path]:
    """Return the Python of each contestant; one that can't be installed is told, and left out."""
    pythons = {}
    for c in CONTESTANTS:
        try:
            pythons[c.name] = python_of(c, fastapi)
        except FAULTS as error:
            if c.name == OURS:
                raise
            print(f"left out: {c.name}: {error}", flush=True)
    return pythons


def publish(report: dict[str, Any], into: Path, whole: bool) -> None:
    """Write the results, and the tables and charts that are made of them.

    :param whole: also the figures in the README beside this file; else in a copy with the results
    """
    (into / "results.json").write_text(json.dumps(_rounded(report), indent=1) + "\n")
    if "cells" in report:
        (into / "results.md").write_text(tables.document(report))
        charts.draw(report, into)
        page = HERE / "README.md"
        target = page if whole else into / "README.md"
        target.write_text(readme.fill(page.read_text(), report))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three cells, one round")
    parser.add_argument(
        "--rounds", type=int, default=5, help="of this package and the hand-tuned contestant"
    )
    parser.add_argument("--other-rounds", type=int, default=1, help="of the others; stock: twice")
    parser.add_argument("--seconds", type=float, default=1, help="of each closed loop")
    parser.add_argument(
        "--minutes", type=float, default=29, help="of the grid: no measurement starts after that"
    )
    parser.add_argument("--fastapi", default="0.165.0")
    parser.add_argument("--only", metavar="LOADS", help="for example hij", default="".join(LOADS))
    parser.add_argument("--connections", metavar="N,N", help="for example 10,100")
    parser.add_argument(
        "--part",
        choices=("all", "grid", "micro", "tables"),
        default="all",
        help="what is left out stays as it was; tables: write tables and charts anew, no more",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was killed")
    parser.add_argument("--estimate", action="store_true", help="say how long it takes, no more")
    parser.add_argument("--into", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.quick:
        args.rounds = 1
    if set(args.only) - set(LOADS):
        parser.error(f"--only must be of {''.join(LOADS)}, got {args.only!r}")
    return args


def chosen_cells(args: argparse.Namespace) -> list[Cell]:
    numbers = [int(n) for n in args.connections.split(",")] if args.connections else CONNECTIONS
    found = [cell for cell in cells(numbers) if cell.load in args.only]
    return [c for c in found if c.key in ("a 500", "f 100", "f 500")] if args.quick else found


def run_grid(
    args: argparse.Namespace, turns: list[Turn], pythons: dict[str, Path], kept: dict[str, Any]
) -> dict[str, Any]:
    """Measure, and return the report without the cells.

    :param kept: what stays of an earlier report
    """
    today = datetime.date.today()
    report = kept | {
        "date": f"{today.day} {today:%B %Y}",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "pool_timeout": POOL_TIMEOUT,
        "rounds": args.rounds,
        "other_rounds": args.other_rounds,
        "fastapi": args.fastapi,
        "seconds": args.seconds,
        "versions": {name: versions(python) for name, python in pythons.items()},
    }
    settings = {key: report[key] for key in ("python", "fastapi", "seconds", "versions")}
    settings["wheel"] = pythons[OURS].parent.parent.name  # the environment's, one for each wheel
    rounds = Rounds.begin(args.into / ROUNDS, settings, args.resume)
    sites = [Site(c, pythons[c.name]) for c in CONTESTANTS if c.name in pythons]
    try:
        by_name = {site.contestant.name: site for site in sites}
        try:
            report["timeline"] = timelines(by_name[STOCK], by_name[OURS])
        except FAULTS as error:
            print(f"timeline: FAILED: {error}", flush=True)
        wanted = [turn for turn in turns if turn.contestant.name in pythons]
        # Written before it is needed: of a killed run, `--part tables` makes the tables.
        publish(report, args.into, False)
        measure_all(sites, wanted, rounds, args)
    finally:
        for site in sites:
            site.close()
    return report


def main() -> None:
    args = arguments()
    chosen = chosen_cells(args)
    turns = plan(CONTESTANTS, chosen, args.rounds, args.other_rounds)
    if args.part in ("all", "grid"):
        expected = estimate(turns, args.seconds) / 60
        print(f"{len(turns)} measurements in about {expected:.0f} minutes", flush=True)
    if args.estimate:
        return
    whole = args.into == RESULTS and not args.quick and len(chosen) == len(cells())
    args.into.mkdir(exist_ok=True)
    previous = args.into / "results.json"
    report: dict[str, Any] = json.loads(previous.read_text()) if previous.exists() else {}
    start = time.monotonic()
    pythons = {} if args.part == "tables" else environments(args.fastapi)
    # Making them is no part of the benchmark: they are kept.
    print(f"environments: {time.monotonic() - start:.0f} s", flush=True)
    start = time.monotonic()
    if args.part in ("all", "grid"):
        kept = {key: report[key] for key in ("micro", "timeline") if key in report}
        report = run_grid(args, turns, pythons, kept)
    if args.part != "micro":
        rounds = Rounds(args.into / ROUNDS)
        measured = rounds.cells()
        report["cells"] = {c.name: measured[c.name] for c in CONTESTANTS if c.name in measured}
        report["errors"], report["minutes"] = rounds.errors(), round(rounds.minutes(), 1)
        publish(report, args.into, whole)
        print(said(goals(report)), flush=True)
    if args.part in ("all", "micro") and not args.quick:
        try:
            wrapt = str(wrapt_python(args.fastapi))
            stock, ours = str(pythons[STOCK]), str(pythons[OURS])
            report["micro"] = micro.everything(stock, ours, wrapt)
        except FAULTS as error:
            print(f"micro: FAILED: {error}", flush=True)
        publish(report, args.into, whole)
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
