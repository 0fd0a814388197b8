"""Measure what a hop costs, stock against ours: called by `run.py`, or by itself.

It must never compare two processes that did different work. Instructions are counted by callgrind
between two marks in a warmed process, so that neither the interpreter's start nor the import of
Starlette is in them; they count all threads, and the kernel's work not at all.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shared import ChildHung, run

HERE = Path(__file__).parent
CONCURRENT = (1, 40, 400)
PLACES = ("inside", "outside")
LOOPS = ("asyncio", "uvloop")
PATIENCE = 200  # seconds for one count: four times what an idle machine takes
WAITING = (10, 1_000, 100_000)
CELLS = [(place, concurrent) for place in PLACES for concurrent in CONCURRENT] + [("exit", 40)]


def environment(disable: bool) -> dict[str, str | None]:
    """Return what is changed in the environment of a process that is measured."""
    return {"PYTHONHASHSEED": "0", "FASTAPI_OVERFLOW_DISABLE": "1" if disable else None}


def hop_worker(
    python: str, disable: bool, loop: str, hops: dict[int, int], prefix: tuple[str, ...] = ()
) -> list[float]:
    """Run the worker over all cells and return the seconds of each."""
    cells = ",".join(f"{place}:{c}:{hops[c]}" for place, c in CELLS)
    marks = ["--marks"] if prefix else []
    worker = [python, str(HERE / "hop_worker.py"), "--loop", loop, "--cells", cells, *marks]
    done = run(*prefix, *worker, timeout=600, env=environment(disable), check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["patched"] == disable:
        raise RuntimeError(f"disable={disable}, but patched={answer['patched']}")
    return answer["seconds"]


def instructions(python: str, disable: bool, loop: str, scale: int = 1) -> dict[str, int] | None:
    """Return the instructions per hop of each cell, None without valgrind."""
    if shutil.which("valgrind") is None:
        return None
    hops = {1: 200 * scale, 40: 480 * scale, 400: 1600 * scale}
    with tempfile.TemporaryDirectory() as folder:
        hop_worker(
            python,
            disable,
            loop,
            hops,
            (
                "valgrind",
                "--tool=callgrind",
                "--fair-sched=yes",
                f"--callgrind-out-file={folder}/out",
                "--dump-before=getppid",
            ),
        )
        dumps = {}
        for file in Path(folder).iterdir():
            text = file.read_text(errors="replace")
            part = re.search(r"^part: (\d+)", text, re.M)
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
            if part and total:
                dumps[int(part[1])] = int(total[1])
    # Part 1 ends at the first mark: even parts are cells, odd ones what lies between.
    return {
        f"{place} {concurrent}": round(dumps[2 * i + 2] / hops[concurrent])
        for i, (place, concurrent) in enumerate(CELLS)
    }


def nanoseconds(python: str, loop: str, rounds: int = 5, scale: int = 1) -> dict[str, list[float]]:
    """Return the nanoseconds per hop of each cell, stock and ours in turn, medians."""
    hops = {1: 2000 * scale, 40: 4000 * scale, 400: 4000 * scale}
    seen: dict[bool, list[list[float]]] = {True: [], False: []}
    for _ in range(rounds):
        for disable in (True, False):
            seen[disable].append(hop_worker(python, disable, loop, hops))
    return {
        f"{place} {concurrent}": [
            round(statistics.median(r[i] for r in seen[disable]) / hops[concurrent] * 1e9)
            for disable in (True, False)
        ]
        for i, (place, concurrent) in enumerate(CELLS)
    }


def hop_tables(python: str, rounds: int = 5) -> dict[str, Any]:
    """Return both, for each loop: [stock, ours] per cell."""
    with ThreadPoolExecutor(2) as pool:  # counts don't mind company, times do
        counted = {
            (loop, disable): pool.submit(instructions, python, disable, loop)
            for loop in LOOPS
            for disable in (True, False)
        }
    result: dict[str, Any] = {}
    for loop in LOOPS:
        stock, ours = (counted[loop, disable].result() for disable in (True, False))
        result[loop] = {
            "instructions": stock and ours and {k: [stock[k], ours[k]] for k in stock},
            "nanoseconds": nanoseconds(python, loop, rounds),
        }
    return result


def queue(python: str, disable: bool, later: bool, waiting: int) -> dict[str, Any]:
    """Return the cost of a release and an acquire while so many wait."""
    worker = [python, str(HERE / "queue_worker.py"), "--waiting", str(waiting)]
    # No growth: nothing ever finishes while the waiters gather.
    env = environment(disable) | {"FASTAPI_OVERFLOW_STALL_THREADS": "0"}
    done = run(*worker, *(["--later"] if later else []), timeout=200, env=env, check=True)
    who = "stock" if disable else f"this package, {'later' if later else 'first'} hops"
    return {"who": who, "waiting": waiting, **json.loads(done.stdout)}


def queues(python: str) -> list[dict[str, Any]]:
    kinds = ((True, False), (False, False), (False, True))
    return [queue(python, *kind, waiting) for kind in kinds for waiting in WAITING]


def start_up(python: str, code: str, disable: bool = False) -> int | None:
    """Return the instructions that a Python needs for a piece of code."""
    if shutil.which("valgrind") is None:
        return None
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", python, "-c", code]
    env = environment(disable)
    run(python, "-c", code, timeout=60, env=env, check=True)  # bytecode
    try:
        done = run(*command, timeout=PATIENCE, env=env, check=True)
    except ChildHung:
        return None  # a machine too busy to count on, shown as a gap
    found = re.search(r"Collected : (\d+)", done.stderr)
    return int(found[1]) if found else None


def everything(stock: str, ours: str, wrapt: str) -> dict[str, Any]:
    """Return all micro-benchmarks, for `tables`."""
    starts = {"python -c pass": "pass", "import fastapi": "import fastapi"}
    pythons = {"stock": stock, "ours": ours, "wrapt": wrapt}
    with ThreadPoolExecutor(2) as pool:
        counted = {
            (what, who): pool.submit(start_up, python, code)
            for what, code in starts.items()
            for who, python in pythons.items()
            if what != "import fastapi" or who != "wrapt"
        }
    start: dict[str, dict[str, int | None]] = {what: {} for what in starts}
    for (what, who), future in counted.items():
        start[what][who] = future.result()
    return {"hops": hop_tables(ours, 3), "queue": queues(ours), "start": start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for loop, kinds in hop_tables(args.python, args.rounds).items():
        for kind, table in kinds.items():
            for cell, (stock, ours) in (table or {}).items():
                ratio = ours / stock
                print(f"{loop:8} {kind:12} {cell:12} {stock:9} {ours:9} {ratio:6.3f}")


if __name__ == "__main__":
    main()
