"""The report of `doctor`: what the examination found, as text for people and JSON for programs.

Filled in by the examination and printed by `doctor`. It must never look for anything itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__, _settings
from .problems import Problem

GOVERNS = ("anyio's default thread limiter, in each event loop: what Starlette and FastAPI use",)
GOVERNS_NOT = (
    "asyncio.to_thread() and loop.run_in_executor(): asyncio's own pool",
    "anyio.to_thread.run_sync(..., limiter=...): the caller's own limiter",
    "trio.to_thread.run_sync(): trio's own default limiter",
)
PACKAGE = Path(__file__).parents[2]

IN_PLACE, NOT_IN_PLACE, NOT_NEEDED = "in place", "not in place", "not needed"


@dataclass(frozen=True)
class PointState:
    """The state of one row of the patch table."""

    name: str
    state: str  # IN_PLACE, NOT_IN_PLACE or NOT_NEEDED
    reason: str | None = None


@dataclass
class Report:
    """What `doctor` has found; `as_dict` is its JSON."""

    armed_by: str | None = None  # ".pth", ".start", "run", "arm()" or "patch()"
    hook_file: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)  # None: not installed
    points: list[PointState] = field(default_factory=list)
    settings: dict[str, tuple[float, str]] = field(default_factory=dict)  # value, source
    unknown_variables: dict[str, str | None] = field(default_factory=dict)  # name: nearest known
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)  # what doesn't stop the protection
    settings_wrong: bool = False
    app: dict[str, Any] | None = None  # what `--app` adds: `app_report`, or its "error"

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
            "package": str(PACKAGE),
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
            "warnings": [vars(found) for found in self.warnings],
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
        for found in self.warnings:
            section("warning", [(f"{found.problem}: {found.remedy}",)])
        if lines[-1]:
            lines.append("")
        section("hook", [(self._armed(),)])
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

    def _armed(self) -> str:
        if self.armed_by is None:
            return "not armed"
        if self.armed_by in (".pth", ".start") and self.hook_file:
            return f"armed by {self.armed_by}, {self.hook_file}"
        return (
            "armed by fastapi-overflow run"
            if self.armed_by == "run"
            else f"armed by {self.armed_by}"
        )


def _app_sections(app: dict[str, Any]) -> list[tuple[str, list[str]]]:
    if "error" in app:
        return [("app", [app["error"]])]
    routes = app["in_threads"]
    how_many = f"{app['name']}: {len(routes)} of {len(app['routes'])} routes need threads"
    return [
        ("app", [how_many]),
        ("routes", routes),
        ("pools", app["connection_pools"] or ["no pools of SQLAlchemy or psycopg_pool found"]),
        ("at most", app["most_connections"]),
        ("advice", app["advice"] or ["none: nothing found that keeps requests waiting"]),
    ]
