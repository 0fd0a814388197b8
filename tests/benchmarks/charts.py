"""The results as SVG: called by `run.py` at the end.

Charts must read on a light page and on a dark one: no background, and colours from the middle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from cells import CONNECTIONS

GREY = "#808080"
COLOURS = {
    "stock": "#d9534f",
    "stock, 200 threads": "#d98a4f",
    "stock, 1000 threads": "#c2a23a",
    "fastapi-overflow 0.1.0": "#b06fc4",
    "fastapi-overflow 0.1.x": "#8a6fd1",
    "max_concurrency=15": "#3c8dd0",
    "async rewrite": "#3aa6a6",
    "gunicorn threads": "#8c8c8c",
    "this package": "#3fa34d",
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


def draw(report: dict[str, Any], folder: Path) -> None:
    with mpl.rc_context(STYLE):
        if any(key.startswith("f ") for found in report["cells"].values() for key in found):
            _by_connections(report, folder)
        if "timeline" in report:
            _timeline(report["timeline"], folder)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def _by_connections(report: dict[str, Any], folder: Path) -> None:
    figure, (rate, p99) = plt.subplots(1, 2, figsize=(10, 4))
    for name, cells in report["cells"].items():
        found = [(n, cells[f"f {n}"]) for n in CONNECTIONS if cells.get(f"f {n}")]
        style = {
            "color": COLOURS[name],
            "label": name,
            "marker": "o",
            "markersize": 4,
            "linewidth": 3 if name == "this package" else 1.5,
            "zorder": 3 if name == "this package" else 2,
        }
        rate.plot([n for n, _ in found], [c["success_rate"] * 100 for _, c in found], **style)
        some = [(n, c["p99"]) for n, c in found if c["p99"] is not None]
        p99.plot([n for n, _ in some], [value for _, value in some], **style)
    for axes, title in (
        (rate, "requests that succeed, %"),
        (p99, "p99 of all, seconds"),
    ):
        axes.set_xscale("log")
        axes.set_xticks(CONNECTIONS, [str(n) for n in CONNECTIONS])
        axes.minorticks_off()
        axes.set_xlabel("connections, mixed load")
        axes.set_title(title)
    rate.set_ylim(-3, 103)
    p99.set_yscale("log")
    handles, labels = rate.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=5)
    _save(figure, folder / "connections.svg")


def _timeline(found: dict[str, Any], folder: Path) -> None:
    until = max(run["wall"] for run in found.values())
    figure, rows = plt.subplots(2, 1, figsize=(10, 6), sharex=True, sharey=True)
    for axes, name in zip(rows, ("stock", "this package"), strict=True):
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
