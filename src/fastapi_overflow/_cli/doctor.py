"""The subcommand `doctor`: tells whether an app in this environment is protected, and if not, why.

Called by the command line, in a process that was started like any other of the environment. It
must never patch anything itself: it imports Starlette and FastAPI as an app would, and looks at
what the hook has made of them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import __version__, _settings, _startup
from .._log import logger
from .unarmed import REINSTALL, Problem, hook_files, name_conflict, why_unarmed

GOVERNS = ("anyio's default thread limiter, in each event loop: what Starlette and FastAPI use",)
GOVERNS_NOT = (
    "asyncio.to_thread() and loop.run_in_executor(): asyncio's own pool",
    "anyio.to_thread.run_sync(..., limiter=...): the limiter that the caller gives",
    "trio.to_thread.run_sync(): trio's own default limiter",
)
IN_PLACE, NOT_IN_PLACE, NOT_NEEDED = "in place", "not in place", "not needed"


@dataclass(frozen=True)
class PointState:
    """A row of the patch table as it was found."""

    name: str
    state: str  # IN_PLACE, NOT_IN_PLACE or NOT_NEEDED
    reason: str | None = None


@dataclass
class Report:
    """What `doctor` has found; `as_dict` is its JSON."""

    armed_by: str | None = None
    hook_file: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)  # None: not installed
    points: list[PointState] = field(default_factory=list)
    settings: dict[str, tuple[float, str]] = field(default_factory=dict)  # value, source
    unknown_variables: dict[str, str | None] = field(default_factory=dict)  # name: nearest known
    problems: list[Problem] = field(default_factory=list)
    settings_wrong: bool = False
    app: dict[str, Any] | None = None  # of `--app`: what _app_report tells, or its "error"

    @property
    def protected(self) -> bool:
        return not self.problems

    @property
    def exit_code(self) -> int:
        if self.settings_wrong or "error" in (self.app or ()):
            return 2
        return 0 if self.protected else 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "protected": self.protected,
            "armed_by": self.armed_by,
            "hook_file": self.hook_file,
            "package": str(_package()),
            "versions": self.versions,
            "patch_points": [vars(point) for point in self.points],
            "settings": {
                name: {"value": value, "source": source}
                for name, (value, source) in self.settings.items()
            },
            "unknown_variables": self.unknown_variables,
            "governs": list(GOVERNS) if self.protected else [],
            "governs_not": list(GOVERNS_NOT),
            "problems": [vars(found) for found in self.problems],
            **({} if self.app is None else {"app": self.app}),
        }

    def as_text(self) -> str:
        verdict = "protected" if self.protected else "NOT PROTECTED"
        lines = [f"fastapi-overflow {__version__}: an app in this environment is {verdict}", ""]

        def section(name: str, rows: list[tuple[str, ...]]) -> None:
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
                lines.append(f"{name:<9} {'  '.join(cells)}".rstrip())
                name = ""

        for found in self.problems:
            section("problem", [(found.problem,)])
            section("remedy", [(found.remedy,)])
        for name, nearest in self.unknown_variables.items():
            hint = f", did you mean {nearest}?" if nearest else ""
            section("warning", [(f"{name} is not a setting of fastapi-overflow{hint}",)])
        if lines[-1]:
            lines.append("")
        where = f", {self.hook_file}" if self.hook_file and self.armed_by != "patch()" else ""
        section("hook", [(f"armed by {self.armed_by}{where}" if self.armed_by else "not armed",)])
        versions = (f"{n} {v}" for n, v in self.versions.items() if v)
        section("versions", [(", ".join(versions),)])
        if self.points:
            section("patches", [(p.name, p.state, p.reason or "") for p in self.points])
        if self.settings:
            section(
                "settings",
                [
                    (variable, str(value), "environment" if source == variable else source)
                    for name, (value, source) in self.settings.items()
                    for variable in [f"{_settings.PREFIX}{name.upper()}"]
                ],
            )
        if self.protected:
            section("governs", [(pool,) for pool in GOVERNS])
        section("not", [(pool,) for pool in GOVERNS_NOT])
        if self.app is not None:
            lines.append("")
            for name, rows in _app_sections(self.app):
                section(name, [(row,) for row in rows])
        return "\n".join(lines)


def _app_sections(app: dict[str, Any]) -> list[tuple[str, list[str]]]:
    if "error" in app:
        return [("app", [app["error"]])]
    routes = app["in_threads"]
    how_many = f"{app['name']}: {len(routes)} of {len(app['routes'])} routes need threads"
    return [
        ("app", [how_many]),
        ("routes", routes),
        ("pools", app["connection_pools"] or ["none of SQLAlchemy or psycopg_pool found"]),
        ("advice", app["advice"] or ["none: threads and connections fit"]),
    ]


def run(*, as_json: bool, app: str | None = None) -> int:
    """Print the report and return the exit code: 0 protected, 1 not, 2 wrong usage or settings.

    :param app: "module:attribute", an app to import and to look at too
    """
    # What the package would log while Starlette is imported is in the report.
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    report = examine()
    if app is not None and not report.settings_wrong:
        report.app = _look_at_app(app)
    print(json.dumps(report.as_dict(), indent=2) if as_json else report.as_text())
    return report.exit_code


def _look_at_app(name: str) -> dict[str, Any]:
    try:
        from . import app_report as _app_report

        return _app_report.report(name)
    except Exception as exc:  # whatever the app's import raises
        return {"name": name, "error": f"{name} can't be looked at: {type(exc).__name__}: {exc}"}


def examine() -> Report:
    """Find out what an app that is started in this environment gets."""
    report = Report(versions=_versions())
    report.unknown_variables = _settings.unknown_variables(os.environ)
    report.hook_file = next((str(file) for file in hook_files()), None)
    report.armed_by = _startup.armed_by or _patched_before()
    if _startup.is_disabled_by(os.environ):
        value = os.environ["FASTAPI_OVERFLOW_DISABLE"]
        report.problems.append(
            Problem(f"FASTAPI_OVERFLOW_DISABLE is set, to {value!r}", "unset it, or set it to 0")
        )
    elif report.armed_by is None:
        report.problems.append(why_unarmed(_package()))
    try:
        report.settings = _settings_in_force()
    except _settings.SettingsError as exc:
        report.settings_wrong = True
        remedy = "correct it or unset it: until then the import of Starlette fails with this error"
        report.problems.append(Problem(str(exc), remedy))
    else:
        _import_and_look(report)
    return report


def _import_and_look(report: Report) -> None:
    for name in ("starlette.applications", "fastapi"):
        if name == "fastapi" and find_spec(name) is None:
            continue
        try:
            import_module(name)
            if name == "fastapi":
                import_module("fastapi.concurrency")
        except Exception as exc:
            package = name.partition(".")[0]
            report.problems.append(
                name_conflict(package)
                or Problem(f"{package} can't be imported: {exc}", f"reinstall {package}")
            )
            return
    try:
        from .._patching import points, table
    except ImportError as exc:
        report.problems.append(
            name_conflict("wrapt")
            or Problem(f"a dependency is missing or broken: {exc}", REINSTALL)
        )
        return
    for point in table.TABLE:
        report.points.append(_state(point, report))
    absent = [point for point in report.points if point.state == NOT_IN_PLACE]
    if report.problems or not absent:
        return
    if failure := points.failure():
        report.problems.append(Problem(failure, points.REMEDY))
        return
    conflicts = (name_conflict(name) for name in ("wrapt", "anyio", "starlette", "fastapi"))
    report.problems.append(
        next(filter(None, conflicts), None)
        or Problem(f"{absent[0].name} is {NOT_IN_PLACE}: {absent[0].reason}", points.REMEDY)
    )


def _state(point: Any, report: Report) -> PointState:
    from .._patching import points, table

    name = point.place
    if points.in_place(point):
        return PointState(name, IN_PLACE)
    if point not in table.NEEDED and find_spec("fastapi") is None:
        return PointState(name, NOT_NEEDED, "FastAPI is not installed")
    if report.problems:
        return PointState(name, NOT_IN_PLACE, "see the problem above")
    return PointState(name, NOT_IN_PLACE, points.failure() or "another object has taken its place")


def _settings_in_force() -> dict[str, tuple[float, str]]:
    settings = _settings.load()
    values = {
        name: (getattr(settings, name), settings.sources.get(name, "default"))
        for name in _settings.VARIABLES.values()
        if name != "disabled"
    }
    if settings.stall_threads is None:
        values["stall_threads"] = settings.limit, "default: the limit"
    return values


def _patched_before() -> str | None:
    """Tell whether something in this environment calls `patch()` by itself (a sitecustomize)."""
    points = sys.modules.get("fastapi_overflow._patching.points")
    return "patch()" if points is not None and points.are_hooks_registered() else None


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "Python": ".".join(str(part) for part in sys.version_info[:3]),
        "fastapi-overflow": __version__,
    }
    for name in ("starlette", "fastapi", "anyio", "wrapt", "uvloop", "trio"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _package() -> Path:
    return Path(__file__).parent.parent
