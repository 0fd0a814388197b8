"""The examination: what an app that is started in this environment gets.

Called by `doctor`. It must never patch anything itself: it imports Starlette and FastAPI as an app
would, and looks at what the hook has made of them.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from ... import __version__, _settings, _startup
from .leftovers import leftovers
from .problems import REINSTALL, Problem, hook_files, name_conflict, why_not_armed
from .report import IN_PLACE, NOT_IN_PLACE, NOT_NEEDED, PACKAGE, PointState, Report


def examine() -> Report:
    """Find out whether an app that is started in this environment is protected."""
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
        report.problems.append(why_not_armed(PACKAGE))
    report.warnings = leftovers(PACKAGE, report.armed_by)
    try:
        report.settings = _settings_in_force()
    except _settings.SettingsError as exc:
        report.settings_wrong = True
        remedy = "correct it or unset it; until then importing Starlette fails with this error"
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
        from ..._patching import points, table
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
    from ..._patching import points, table

    name = point.place
    if points.in_place(point):
        return PointState(name, IN_PLACE)
    if point not in table.NEEDED and find_spec("fastapi") is None:
        return PointState(name, NOT_NEEDED, "FastAPI is not installed")
    if point.is_optional and points.patched():
        return PointState(name, NOT_NEEDED, "an app is protected without it")
    if report.problems:
        return PointState(name, NOT_IN_PLACE, "see the problem above")
    return PointState(name, NOT_IN_PLACE, points.failure() or "another object has taken its place")


def _settings_in_force() -> dict[str, tuple[float, str]]:
    settings = _settings.current()
    values = {
        name: (getattr(settings, name), settings.sources.get(name, "default"))
        for name in _settings.VARIABLES.values()
        if name != "disabled"
    }
    if settings.stall_threads is None:
        values["stall_threads"] = settings.limit, "default: the limit"
    return values


def _patched_before() -> str | None:
    """Tell whether start-up code of this environment, a sitecustomize, has called `patch()`."""
    points = sys.modules.get("fastapi_overflow._patching.points")
    return None if points is None else points.hooked_by()


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
