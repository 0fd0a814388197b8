"""Measure what the package adds to the start of Python and to `import fastapi`: run by itself.

    python tests/benchmarks/start_up.py

Prints a table in Markdown for the Python that runs it, with the wheel of this checkout in an
environment of its own. It must never compare environments that differ in more than the package.
Instructions are counted by callgrind, to be had by `apt-get install valgrind`: they vary by less
than 0.1 %. Times are medians of runs in turn and vary by far more. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import micro
from contestants import Contestant, python_of, versions, wrapt_python
from formats import table
from shared import child_environment

# Key of the environment, whether the package is disabled.
ROWS = {
    "without": ("stock", False),
    "with it": ("ours", False),
    "with it, disabled": ("ours", True),
    "without, `import wrapt` in a `.pth`": ("wrapt", False),
}
START, IMPORT = list(ROWS), list(ROWS)[:3]
CODES = {
    "pass": START,
    "import fastapi": IMPORT,
    # From Python 3.13 on FastAPI leaves asyncio to its server; wrapt doesn't, and all need it.
    "import asyncio, fastapi": IMPORT,
}
TIMEOUT = 60  # seconds for a run outside of callgrind


def environments(fastapi: str) -> dict[str, Path]:
    """Return the Python of each environment, made if need be."""
    return {
        "stock": python_of(Contestant("stock"), fastapi),
        "ours": python_of(Contestant("this package", ("WHEEL",)), fastapi),
        "wrapt": wrapt_python(fastapi),
    }


def milliseconds(pythons: dict[str, Path], code: str, runs: int) -> list[float]:
    """Return the median time of each row, all run in turn."""
    seen: list[list[float]] = [[] for _ in CODES[code]]
    for _ in range(runs):
        for name, times in zip(CODES[code], seen, strict=True):
            key, disable = ROWS[name]
            command = [pythons[key], "-c", code]
            env = child_environment(micro.environment(disable))
            start = time.perf_counter()
            # With a pipe, whose end tells at once: otherwise a wait with a timeout polls, in the
            # end every 50 ms.
            subprocess.run(command, env=env, timeout=TIMEOUT, check=True, capture_output=True)
            times.append((time.perf_counter() - start) * 1000)
    return [statistics.median(times) for times in seen]


def rows(pythons: dict[str, Path], code: str, runs: int) -> list[list[str]]:
    names = CODES[code]
    counts = [
        micro.start_up(str(pythons[key]), code, disable)
        for key, disable in (ROWS[name] for name in names)
    ]
    times = milliseconds(pythons, code, runs)
    return [
        [
            f"`python -c '{code}'` {name}",
            f"{count / 1e6:,.2f}" if count else "not counted",
            f"{count / counts[0]:.4f}" if count and counts[0] else "",
            f"{ms:.1f}",
            f"{ms / times[0]:.2f}",
        ]
        for name, count, ms in zip(names, counts, times, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--fastapi", default="0.165.0", help="version (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=15, help="for a time (default: %(default)s)")
    args = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("No instructions are counted: apt-get install valgrind\n")
    pythons = environments(args.fastapi)
    found = []
    for code in CODES:
        print(f"{code} ...", file=sys.stderr)
        found += rows(pythons, code, args.runs)
    print(table(["", "million instructions", "ratio", "ms", "ratio"], found))
    installed = versions(pythons["ours"])
    told = ", ".join(f"{name} {installed[name]}" for name in ("fastapi", "starlette", "wrapt"))
    print(f"Python {platform.python_version()}, {told}.")


if __name__ == "__main__":
    main()
