"""Run many seeds, two at a time, and print those that lost a request with their description.

    python tests/random_apps/run.py --seeds 200          # 0 to 199
    python tests/random_apps/run.py --only 17 23 --stock # without the package

The property: whatever finishes alone finishes in company. Exits with 1 where it doesn't hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from draw import App, draw  # noqa: E402

from support import run_python  # noqa: E402

AT_ONCE = 2
CHILD_TIMEOUT = 120  # seconds; load.py ends itself before


@dataclass(frozen=True)
class Outcome:
    """What has become of the requests of one app.

    :ivar alone: what went wrong alone, which is a fault of draw.py or build.py; "" for nothing
    :ivar lost: what went wrong in company, by burst; empty where nothing did
    :ivar stderr: the end of what load.py printed there
    """

    app: App
    alone: str
    lost: dict[str, str]
    stderr: str

    def __str__(self) -> str:
        lines = [str(self.app)]
        if self.alone:
            lines.append(f"  ALONE: {self.alone}")
        lines += [f"  {burst}: {what}" for burst, what in self.lost.items()]
        return "\n".join(lines)


def try_seed(seed: int, python: str | Path = sys.executable, stock: bool = False) -> Outcome:
    """Run the app of a seed alone and in company.

    :param stock: without the package
    """
    env = {"FASTAPI_OVERFLOW_DISABLE": "1"} if stock else {}
    alone, stderr = _load(python, seed, "alone", env)
    faults = "" if alone else f"no report: {stderr[-1500:]}"
    faults += "; ".join(_shown(each) for each in alone if each["lost"])
    if faults:
        return Outcome(draw(seed), faults, {}, stderr)
    reports, stderr = _load(python, seed, "company", env)
    lost = {each["what"]: _shown(each) for each in reports if each["lost"]}
    if len(reports) < 2:
        lost["cold" if not reports else "second"] = "hung"
    return Outcome(draw(seed), "", lost, stderr)


def _load(
    python: str | Path, seed: int, how: str, env: dict[str, str]
) -> tuple[list[dict[str, Any]], str]:
    child = run_python(python, HERE / "load.py", str(seed), how, env=env, timeout=CHILD_TIMEOUT)
    lines = child.stdout.splitlines()
    return (json.loads(lines[-1]) if lines else []), child.stderr


def _shown(report: dict[str, Any]) -> str:
    lost = "; ".join(f"{count} {what}" for what, count in report["lost"].items())
    return (
        f"{report['what']}: {report['answered']} of {report['sent']} answered"
        f" in {report['seconds']} s: {lost}"
    )


def try_seeds(
    seeds: Iterable[int], python: str | Path = sys.executable, stock: bool = False
) -> Iterator[Outcome]:
    with ThreadPoolExecutor(AT_ONCE) as executor:
        yield from executor.map(lambda seed: try_seed(seed, python, stock), seeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--only", type=int, nargs="+", help="these seeds only")
    parser.add_argument("--stock", action="store_true", help="without the package")
    parser.add_argument("--show", action="store_true", help="print the descriptions, run nothing")
    parser.add_argument("--stacks", action="store_true", help="print what went to stderr too")
    args = parser.parse_args()
    seeds = args.only or range(args.first, args.first + args.seeds)
    if args.show:
        print(*map(draw, seeds), sep="\n")
        return 0
    count: Counter[str] = Counter()
    for outcome in try_seeds(seeds, stock=args.stock):
        count["run"] += 1
        count["alone"] += bool(outcome.alone)
        count.update(list(outcome.lost))
        if outcome.alone or outcome.lost:
            count["lost"] += 1
            print(outcome, flush=True)
            if args.stacks:
                print(outcome.stderr)
    print(
        f"{count['run']} seeds: {count['lost']} lost requests, {count['cold']} of them in the cold"
        f" burst, {count['second']} in the second, {count['alone']} alone"
    )
    return bool(count["lost"])


if __name__ == "__main__":
    sys.exit(main())
