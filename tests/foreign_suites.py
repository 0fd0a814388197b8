"""Other people's tests: Starlette's, FastAPI's and anyio's own suites with the package and without.

Run by hand and from CI: `python tests/foreign_suites.py [NAME ...]`. It fetches each project's
source distribution from the package index, makes an environment with what its tests need and the
built wheel, runs the suite several ways and compares the outcomes test by test. It must never
change a foreign test, and leaves nothing behind but the folder it is given.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support import ROOT, ChildHung, build_wheel, install, make_venv, run, uv

TEST_TIMEOUT = 180  # seconds that one foreign test may take
SUITE_TIMEOUT = 2400  # seconds that one run of a suite may take
DOWNLOAD_TIMEOUT = 600
AGAIN = 3  # times that a test which fails only with the package is run again

# The outcomes that are not worse with the package than what was there without it.
FINE = ("passed", "skipped", "xfailed")


@dataclass(frozen=True)
class Way:
    """One way to run a suite: environment variables and pytest options."""

    name: str
    environ: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


# Starlette is imported before the tests, so that the import hook patches anyio.
IMPORT_STARLETTE = ("-p", "starlette.applications")

OFF = Way("without", {"FASTAPI_OVERFLOW_DISABLE": "1"})
ON = Way("with")
LOW = Way("with, limit 3", {"FASTAPI_OVERFLOW_LIMIT": "3"})
STOCK_LOW = Way(
    "without, limit 3",
    {"FASTAPI_OVERFLOW_DISABLE": "1", "FOREIGN_STOCK_LIMIT": "3"},
)
ANYIO_OFF = Way("without", {"FASTAPI_OVERFLOW_DISABLE": "1"}, IMPORT_STARLETTE)
ANYIO_ON = Way("with", {}, IMPORT_STARLETTE)
ANYIO_LOW = Way(
    "with, limit 3",
    {"FASTAPI_OVERFLOW_LIMIT": "3"},
    # Says that the default limiter has 40 tokens.
    (*IMPORT_STARLETTE, "-k", "not test_current_default_thread_limiter"),
)


def replaced(reserve: int) -> Way:
    """Return the way to run anyio's tests with OverflowLimiter in the place of its own limiter."""
    return Way(
        f"OverflowLimiter(reserve={reserve})",
        {"FOREIGN_RESERVE": str(reserve)},
        IMPORT_STARLETTE,
    )


@dataclass(frozen=True)
class Suite:
    """A project's tests: where they are, what they need and the ways to run them, stock first."""

    project: str
    version: str
    group: str  # of the dependencies in its pyproject.toml
    ways: tuple[Way, ...]
    extras: str = ""
    requirements: tuple[str, ...] = ()
    tests: tuple[str, ...] = ("tests",)
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.project}-{self.version}"


# Those of anyio's tests that go through a thread limiter.
ANYIO_TESTS = (
    "tests/test_synchronization.py::TestCapacityLimiter",
    *(f"tests/test_{name}.py" for name in ("to_thread", "from_thread", "fileio", "tempfile")),
)
ANYIO_WAYS = (ANYIO_OFF, ANYIO_ON, ANYIO_LOW, replaced(0), replaced(1))

SUITES = (
    Suite("starlette", "1.10.0", "dev", (OFF, ON, STOCK_LOW, LOW), extras="[full]"),
    Suite(
        "fastapi",
        "0.165.0",
        "tests",
        (OFF, ON, STOCK_LOW, LOW),
        extras="[all]",
        options=("-n", "2", "--dist", "loadfile"),
    ),
    *(
        Suite(
            "anyio",
            version,
            "test",
            ANYIO_WAYS,
            extras="[trio]",
            requirements=("starlette==1.10.0", pytest),
            tests=ANYIO_TESTS,
        )
        # 4.14's pytest plugin imports a name that newer versions of pytest warn of.
        for version, pytest in (("4.14.0", "pytest<9.1"), ("4.16.0", "pytest"))
    ),
)


def fetch(suite: Suite, folder: Path) -> Path:
    """Return the unpacked source distribution."""
    source = folder / suite.name
    if not source.exists():
        requirement = f"{suite.project}=={suite.version}"
        pip = (sys.executable, "-m", "pip", "download", "--no-binary", suite.project)
        run(*pip, "--no-deps", "--dest", folder, requirement, timeout=DOWNLOAD_TIMEOUT, check=True)
        with tarfile.open(folder / f"{suite.name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return source


def environment(suite: Suite, source: Path, wheel: Path, folder: Path) -> Path:
    """Return the Python of an environment with the suite, what it needs and the built wheel."""
    venv = folder / f"{suite.name}-venv"
    python = venv / "bin" / "python"
    if not python.exists():
        make_venv(venv)
        if not uv():
            install(python, "--upgrade", "pip")  # --group is young
        group = f"{source / 'pyproject.toml'}:{suite.group}"
        wanted = (f"{source}{suite.extras}", *suite.requirements, "pytest-timeout")
        install(python, *wanted, "--group", group)
    # Its requirements as they are in the suite's environment; the wheel itself anew each time.
    pip = (python, "-m", "pip", "uninstall", "--quiet", "--yes", "fastapi-overflow")
    run(*pip, timeout=DOWNLOAD_TIMEOUT, check=True)
    install(python, wheel)
    return python


def run_suite(
    suite: Suite, way: Way, source: Path, python: Path, tests: Iterable[str], note: str = ""
) -> dict[str, str]:
    """Run tests of a suite one way; return the outcome of each."""
    report = source.parent / f"{suite.name} {way.name}{note}.xml"
    report.unlink(missing_ok=True)
    command = (
        *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"),
        *(f"--timeout={TEST_TIMEOUT}", f"--junitxml={report}", "-o", "junit_family=xunit1"),
        *("-p", "foreign_plugin"),
        *suite.options,
        *way.options,
        *tests,
    )
    env = {"PYTHONPATH": str(ROOT / "tests" / "foreign"), **way.environ}
    try:
        done = run(*command, timeout=SUITE_TIMEOUT, env=env, cwd=source)
    except ChildHung as exc:
        print(f"{suite.name} {way.name}: {exc}")
        return {}
    report.with_suffix(".log").write_text(done.stdout + done.stderr)
    if not report.exists():
        print(f"{suite.name} {way.name}: ended with {done.returncode}\n{done.stdout[-4000:]}")
        return {}
    return outcomes(report)


def outcomes(report: Path) -> dict[str, str]:
    """Return the outcome of each test in a JUnit report, by the name pytest takes."""
    found = {}
    for case in ET.parse(report).iter("testcase"):
        parts = case.get("classname", "").split(".")
        file = case.get("file", "")
        inner = parts[len(Path(file).parts) :]
        name = "::".join([file, *inner, case.get("name", "")])
        tags = {child.tag: child for child in case}
        if "failure" in tags or "error" in tags:
            found[name] = "failed"
        elif "skipped" in tags:
            found[name] = "xfailed" if "xfail" in tags["skipped"].get("type", "") else "skipped"
        else:
            found.setdefault(name, "passed")
    return found


def compare(suite: Suite, source: Path, python: Path, keyword: str | None) -> dict[str, object]:
    """Run a suite all ways; print and return the counts and what fails only with the package."""
    result: dict[str, object] = {}
    stock: dict[str, str] = {}
    narrow = ("-k", keyword) if keyword else ()
    for way in suite.ways:
        found = run_suite(suite, way, source, python, (*suite.tests, *narrow))
        counts = dict(Counter(found.values()))
        if "FASTAPI_OVERFLOW_DISABLE" in way.environ:
            stock.update({n: o for n, o in found.items() if o not in FINE or n not in stock})
            worse = []
        else:
            worse = [
                n for n, o in found.items() if o not in FINE and stock.get(n, "passed") in FINE
            ]
            if not any(option == "-k" for option in way.options):
                worse += [n for n in stock if n not in found]
        print(f"{suite.name:18} {way.name:28} {counts or 'NO RESULT'}", flush=True)
        again = recheck(suite, way, source, python, worse)
        for name, (ours, theirs) in again.items():
            print(f"    {name}")
            print(
                f"        run {AGAIN} times more: fails {ours} with, {theirs} without", flush=True
            )
        result[way.name] = {"counts": counts, "worse": again}
    return result


def recheck(
    suite: Suite, way: Way, source: Path, python: Path, worse: list[str]
) -> dict[str, tuple[int, int]]:
    """Run the tests that got worse again both ways; return how often each failed with and without.

    Some of them have timeouts of their own, which a busy machine exceeds with or without us.
    """
    if not worse:
        return {}
    failures = dict.fromkeys(worse, (0, 0))
    for _ in range(AGAIN):
        with_it = run_suite(suite, way, source, python, worse, note=" again")
        without = run_suite(suite, suite.ways[0], source, python, worse, note=" again")
        for name, (ours, theirs) in failures.items():
            failures[name] = (
                ours + (with_it.get(name) not in FINE),
                theirs + (without.get(name) not in FINE),
            )
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(s.name for s in SUITES)}")
    parser.add_argument("--folder", type=Path, help="keep downloads and environments here")
    parser.add_argument("--wheel", type=Path, help="default: built from this checkout")
    parser.add_argument("-k", dest="keyword", help="passed on to pytest")
    args = parser.parse_args()
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="foreign-suites-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        shutil.rmtree(folder / "dist", ignore_errors=True)
        wheel = args.wheel or build_wheel(folder / "dist")
        results = {}
        for suite in SUITES:
            if not args.names or {suite.name, suite.project} & set(args.names):
                source = fetch(suite, folder)
                python = environment(suite, source, wheel, folder)
                results[suite.name] = compare(suite, source, python, args.keyword)
        (folder / "results.json").write_text(json.dumps(results, indent=1))
        return int(
            any(
                not way["counts"] or any(ours > theirs for ours, theirs in way["worse"].values())
                for ways in results.values()
                for way in ways.values()
            )
        )
    finally:
        if not args.folder:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
