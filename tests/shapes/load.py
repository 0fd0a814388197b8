"""Sends many requests at once to an app in this very process, and reports as JSON, a line per run.

Run as a script by the Python under test, in an empty directory. It never imports fastapi_overflow:
only the hook may do that. Nobody waits for ever: at the deadline the report says how many requests
were never answered, and the process ends.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import threading
import time
from collections import Counter
from importlib import import_module
from typing import Any

import anyio
from clients import send_request
from gauge import Gauge
from table import Shape, shapes_of

gauge = Gauge()


async def run(name: str, shapes: list[Shape], count: int, args: argparse.Namespace) -> None:
    """Send `count` requests at once, of the shapes in turn, and print the report."""
    apps = {shape.app: load_app(shape.app) for shape in shapes}
    outcomes = Counter[str]()

    def report() -> None:
        line = {
            "shape": name,
            "requests": count,
            "outcomes": {**outcomes, "never answered": count - sum(outcomes.values())},
            "seconds": round(time.perf_counter() - began, 2),
            **{what: gauge.peak[what] for what in ("threads", "hops", "exits")},
        }
        print(json.dumps(line), flush=True)

    def give_up() -> None:
        if args.stacks:
            faulthandler.dump_traceback()
        report()
        os._exit(0)

    async def one(shape: Shape) -> None:
        outcome = await send_request(shape, apps[shape.app])
        outcomes[outcome] += 1
        if args.stop_at_failure and outcome != "200":
            report()
            os._exit(0)  # its threads are blocked: nothing else would end it soon

    watchdog = threading.Timer(args.deadline, give_up)
    watchdog.daemon = True
    gauge.reset(baseline=2)  # this one and the watchdog's
    began = time.perf_counter()
    watchdog.start()
    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(one, shapes[number % len(shapes)])
    watchdog.cancel()
    watchdog.join()
    report()


def load_app(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="+", help="names of shapes or mixtures in table.py")
    parser.add_argument("--requests", type=int, nargs="+", default=[200])
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    parser.add_argument("--deadline", type=float, default=240, help="seconds, for each run")
    parser.add_argument("--stop-at-failure", action="store_true")
    parser.add_argument("--stacks", action="store_true", help="show them at the deadline")
    args = parser.parse_args()

    # A small upload then takes the way of a large one: its file is read in a thread.
    from starlette.formparsers import MultiPartParser

    MultiPartParser.spool_max_size = MultiPartParser.max_file_size = 1024
    gauge.install()
    backend = "trio" if args.loop == "trio" else "asyncio"
    options = {} if args.loop == "trio" else {"use_uvloop": args.loop == "uvloop"}
    for name in args.shapes:
        shapes = shapes_of(name)
        for count in args.requests:
            anyio.run(run, name, shapes, count, args, backend=backend, backend_options=options)


if __name__ == "__main__":
    main()
