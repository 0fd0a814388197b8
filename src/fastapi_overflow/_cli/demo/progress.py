"""The demo's progress bars, on stderr if that is a terminal: one for each act of each run.

Called by the runner. It must write nothing where nobody watches.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from .acts import Act
from .client import Load
from .stage import Show


def bars() -> Progress:
    """Return the bars, none yet; they are shown while it is entered."""
    return Progress(
        TextColumn("{task.description:<27}"),
        BarColumn(bar_width=15),  # all of it fits into 80 columns
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def shown_in(progress: Progress, run: str, requests: int) -> Show:
    """Return what shows a run's acts, each from its first call on."""
    started: dict[Act, TaskID] = {}

    def show(act: Act, load: Load) -> None:
        if act not in started:
            name = f"{act.name}, {run}"
            started[act] = progress.add_task(name, total=requests, failed=0)
        progress.update(started[act], completed=len(load.latencies), failed=load.failed)

    return show
