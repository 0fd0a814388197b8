"""What the benchmarks have in common with the tests: processes, ports, the database's server.

They are run as scripts, with only their own folder on the path: this module adds that of the tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from postgres import postgres
from support import (
    ROOT,
    ChildFailed,
    ChildHung,
    answers,
    build_wheel,
    child_environment,
    free_port,
    install,
    kill_group,
    make_venv,
    run,
    started,
    wait_until,
)

__all__ = [
    "ROOT",
    "ChildFailed",
    "ChildHung",
    "answers",
    "build_wheel",
    "child_environment",
    "free_port",
    "install",
    "kill_group",
    "make_venv",
    "postgres",
    "run",
    "started",
    "wait_until",
]
