"""The results as SVG: called by `run.py` at the end.

Charts must read on a light page and on a dark one: no background, and colours from the middle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from cells import CONNECTIONS, LOADS
from contestants import HAND_TUNED, OURS

GREY = "#808080"
COLOURS = {
    "stock": "#d9534f",
    "stock, 200 threads": "#d98a4f",
    "stock, 1000 threads": "#c2a23a",
    "fastapi-overflow 0.1.0": "#b06fc4",
    "fastapi-overflow 0.1.x": "#8a6fd1",
    HAND_TUNED: "#3c8dd0",
    "async rewrite": "#3aa6a6",
    "gunicorn threads": "#8c8c8c",
    OURS: "#3fa34d",
    "this package, limit 17": "#7fbf6a",
}
GREEN = {"color": "#3fa34d", "linewidth": 2.5}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fastapi-overflow",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


# Of each load that is charted: the file, and what is shown on the left and on the right.
CHARTS = {
    "f": ("connections.svg", "success_rate", "p99"),
    "h": ("loop.svg", "success_rate", "p99"),
    "i": ("second.svg", "success_rate", "p99"),
    "j": ("quiet.svg", "throughput", "health_p99"),
}
TITLES = {
    "success_rate": "requests that succeed, %",
    "p99": "p99 of all, seconds",
    "throughput": "requests a second to the slow route",
    "health_p99": "p99 of the quiet route, seconds",
}


def draw(report: dict[str, Any], folder: Path) -> None:
    with mpl.rc_context(STYLE):
        for load, (file, _, _) in CHARTS.items():
            found = _lines(report, load)
            if found:
                _by_connections(found, load, folder / file)
        if "timeline" in report:
            _timeline(report["timeline"], folder)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def _lines(report: dict[str, Any], load: str) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """Return by contestant the cells of a load; those that have but one are in the tables."""
    found = {
        name: [(n, cells[f"{load} {n}"]) for n in CONNECTIONS if f"{load} {n}" in cells]
        for name, cells in report["cells"].items()
    }
    return {name: cells for name, cells in found.items() if len(cells) > 1}


def _by_connections(
    found: dict[str, list[tuple[int, dict[str, Any]]]], load: str, path: Path
) -> None:
    figure, both = plt.subplots(1, 2, figsize=(10, 4))
    for axes, what in zip(both, CHARTS[load][1:], strict=True):
        for name, cells in found.items():
            known = [(n, c[what]) for n, c in cells if c[what] is not None]
            axes.plot(
                [n for n, _ in known],
                [value * (100 if what == "success_rate" else 1) for _, value in known],
                color=COLOURS[name],
                label=name,
                marker="o",
                markersize=4,
                linewidth=3 if name == OURS else 1.5,
                zorder=3 if name == OURS else 2,
            )
        axes.set_xscale("log")
        axes.set_xticks(CONNECTIONS, [str(n) for n in CONNECTIONS])
        axes.minorticks_off()
        axes.set_xlabel(f"connections, {LOADS[load].title}")
        axes.set_title(TITLES[what])
        if what == "success_rate":
            axes.set_ylim(-3, 103)
        elif what != "throughput":
            axes.set_yscale("log")
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=5)
    _save(figure, path)


def _timeline(found: dict[str, Any], folder: Path) -> None:
    until = max(run["wall"] for run in found.values())
    figure, rows = plt.subplots(2, 1, figsize=(10, 6), sharex=True, sharey=True)
    for axes, name in zip(rows, ("stock", OURS), strict=True):
        run = found[name]
        samples = [s for s in run["samples"] if -0.05 <= s[0] <= until]
        times = [t for t, _, _ in samples]
        axes.step(times, [s[1] for s in samples], color="#d98a4f", label="threads in use")
        axes.step(times, [s[2] for s in samples], color="#8a6fd1", label="hops that wait")
        done = [0.0, *run["done_at"], until]
        count = [*range(len(run["done_at"]) + 1), len(run["done_at"])]
        axes.step(done, count, where="post", label="requests that have succeeded", **GREEN)
        axes.set_title(name)
        axes.set_ylim(-5, 210)
    rows[1].set_xlabel("seconds after 200 requests at once (load a)")
    handles, labels = rows[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=3)
    _save(figure, folder / "timeline.svg")
