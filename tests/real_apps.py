"""Apps that others wrote, as their users install and start them, without the package and with it.

Run by hand: `python tests/real_apps.py [APP ...]`. It installs each app from the package index into
an environment of its own, starts it by its own command, sends 200 of its own requests at once, one
kind after another and then all mixed, and compares: what fails, and how long it takes. It reports
times and judges none; its exit code is 1 where a request fails that did not without the package.
`apps_of_others/recipes.py` has the apps. CI doesn't run it: it takes some minutes for each app.

It must never wait without a limit, and leaves nothing behind but the folder given by --keep. All
traffic stays on this machine.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from apps_of_others.load import Burst, send_burst
from apps_of_others.recipe import Ask, Recipe
from apps_of_others.recipes import RECIPES
from apps_of_others.report import HEAD, WAYS, Result, details, save, write_readme
from apps_of_others.server import Server, Site
from postgres import Server as Postgres
from postgres import postgres
from support import ChildFailed, ChildHung, build_wheel, tail

WARM = 60  # requests that aren't counted: what is imported and collected first is no news
FEW = 10  # requests at a time, fewer than the smallest pool has connections
STACK = ("fastapi", "starlette", "sqlalchemy", "sqlmodel", "anyio", "uvicorn")


@dataclass(frozen=True)
class Wanted:
    """A burst that an app is sent."""

    name: str
    asks: Sequence[Ask]
    at_once: int


def wanted(recipe: Recipe, count: int) -> list[Wanted]:
    """Return the bursts that an app is sent: few requests at a time, then all at once."""
    few = Wanted(f"all of them, {FEW} at a time", recipe.asks, FEW)
    return [
        few,
        *(Wanted(str(ask), (ask,), count) for ask in recipe.asks),
        Wanted("all of them, mixed", recipe.asks, count),
    ]


@contextmanager
def database(server: Postgres | None, name: str) -> Iterator[str]:
    """Make an empty database, and return it as recipes name it."""
    if server is None:
        yield ""
        return
    url = server.url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield f"{url.partition('://')[2].rpartition('/')[0]}/{name}"
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def measure(site: Site, postgres_name: str, count: int) -> list[Burst]:
    """Start an app on a new database, and send it all its bursts.

    After one that lost requests it is started again, so that the next finds it as its users would.
    """
    found: list[Burst] = []
    with tempfile.TemporaryDirectory(prefix="overflow-app-", ignore_cleanup_errors=True) as home:
        server = Server(site, Path(home), postgres_name)
        waiting = wanted(site.recipe, count)
        while waiting:
            with server.running(first=not found) as process:
                to = (server.port, server.headers, process.pid)
                send_burst("", site.recipe.asks, WARM, FEW, *to)
                while waiting:
                    burst = waiting.pop(0)
                    found.append(send_burst(burst.name, burst.asks, count, burst.at_once, *to))
                    print(f"{site.recipe.name}: {found[-1]}", file=sys.stderr, flush=True)
                    if found[-1].failed:
                        print(f"---- its output\n{tail(process.output)}", file=sys.stderr)
                        break
    return found


def compare(recipe: Recipe, wheel: Path, folder: Path, args: argparse.Namespace) -> Result:
    """Measure an app both ways, in turn."""
    site = Site(recipe, folder)
    if "fastapi-overflow" in site.versions():
        site.take_out()
    before = site.versions()
    stack = {name: before[name] for name in STACK if name in before}
    site.put_in(wheel)
    after = site.versions()
    changed = {n: f"{v} -> {after.get(n)}" for n, v in before.items() if after.get(n) != v}
    version = before[recipe.project]
    result = Result(recipe.project, version, recipe.database, stack, changed)
    server = postgres() if recipe.wants_postgres else nothing()
    with server as running:
        for number in range(args.rounds):
            # The way that goes first may find a colder machine.
            for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                site.take_out()
                if way == "with":
                    site.put_in(wheel)
                with database(running, f"{way}_{number}") as name:
                    result.rounds[way].append(measure(site, name, args.requests))
    return result


@contextmanager
def nothing() -> Iterator[None]:
    """Stand in for a PostgreSQL server where none is wanted."""
    yield None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("apps", nargs="*", help="default: all")
    parser.add_argument("--requests", type=int, default=200, help="at once")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--wheel", type=Path, help="default: built from this checkout")
    parser.add_argument("--keep", type=Path, help="a folder for the environments, used again")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--readme", action="store_true", help="write the table to tests/README.md")
    args = parser.parse_args()
    if unknown := set(args.apps) - {recipe.project for recipe in RECIPES}:
        parser.error(f"no recipe for {', '.join(sorted(unknown))}")
    # So that what was started is ended too where this is ended from outside.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(f"ended by signal {number}"))
    chosen = [r for r in RECIPES if not args.apps or r.project in args.apps]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="overflow-apps-") as folder:
        wheel = (args.wheel or build_wheel(Path(folder))).resolve()
        for recipe in chosen:
            results.append(try_app(recipe, wheel, (args.keep or Path(folder)).resolve(), args))
            if args.json:
                save(results, args.json)
            if args.readme:
                write_readme(results)
    print(HEAD + "".join(result.line() for result in results))
    worse = [f"{result.name}: {what}" for result in results for what in result.worse()]
    print(*worse, sep="\n", file=sys.stderr)
    return int(bool(worse) or any(result.broken for result in results))


def try_app(recipe: Recipe, wheel: Path, folder: Path, args: argparse.Namespace) -> Result:
    """Compare one app, and print what came of it; one that can't be run stops no other."""
    try:
        result = compare(recipe, wheel, folder, args)
    except (ChildFailed, ChildHung) as exc:
        print(f"{recipe.name}: {exc}", file=sys.stderr, flush=True)
        return Result(recipe.project, "", recipe.database, {}, {}, broken=str(exc))
    print(details(result), flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
