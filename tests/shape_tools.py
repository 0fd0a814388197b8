"""Runs of shapes/load.py in child processes, and what their reports say.

Used by test_shapes.py and test_connection_shapes.py. It must never wait without a limit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import run_python

LOAD = Path(__file__).parent / "shapes" / "load.py"

sys.path.insert(0, str(LOAD.parent))
from table import CONNECTION_SHAPES, MIXTURES, SHAPES  # noqa: E402

CHILD_TIMEOUT = 900  # seconds; load.py gives up on a single run long before

Report = dict[str, Any]


def send(python: Path, *args: str, **env: str) -> list[Report]:
    """Run load.py and return its reports."""
    child = run_python(python, LOAD, *args, env=env, timeout=CHILD_TIMEOUT)
    reports = [json.loads(line) for line in child.stdout.splitlines()]
    assert reports, f"load.py reported nothing:\n{child.stderr[-3000:]}"
    return reports


@contextmanager
def sent_to_stock(
    python: Path, names: set[str], *options: str, **env: str
) -> Iterator[dict[str, Future[Report]]]:
    """Send 200 requests of each of these with FASTAPI_OVERFLOW_DISABLE=1, up to the first failure.

    Eight at a time: they spend their time waiting for the timeout.
    """

    def send_one(name: str) -> Report:
        args = (name, "--stop-at-failure", *options)
        (report,) = send(python, *args, FASTAPI_OVERFLOW_DISABLE="1", **env)
        return report

    with ThreadPoolExecutor(8) as pool:
        yield {name: pool.submit(send_one, name) for name in sorted(names)}
        pool.shutdown(cancel_futures=True)


def not_answered(reports: list[Report]) -> list[Report]:
    """Return the reports in which a request didn't get status 200 and its whole body."""
    return [r for r in reports if r["outcomes"].get("200") != r["requests"]]


def outcomes(report: Report) -> set[str]:
    """Return what became of some request at least."""
    return {outcome for outcome, requests in report["outcomes"].items() if requests}


def is_deadlock(report: Report) -> bool:
    """Tell whether requests waited for a connection in vain and nothing else went wrong."""
    return "TimeoutError" in outcomes(report) <= {"200", "TimeoutError", "never answered"}


def is_freeze(report: Report) -> bool:
    """Tell the same, also where the event loop stood still until the deadline."""
    wrong = outcomes(report) - {"200"}
    return bool(wrong) and wrong <= {"TimeoutError", "never answered"}


__all__ = [
    "CONNECTION_SHAPES",
    "MIXTURES",
    "SHAPES",
    "Report",
    "is_deadlock",
    "is_freeze",
    "not_answered",
    "outcomes",
    "send",
    "sent_to_stock",
]
