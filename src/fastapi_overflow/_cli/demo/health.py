"""`/health` beside the load: asked again and again, as an orchestrator does, and how long it takes.

Called by stage. It must ask one at a time: requests that pile up would be a load of their own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import anyio

from .client import get

PATH = "/health"
PAUSE_SECONDS = 0.1


@dataclass
class Health:
    """How long `/health` took, in seconds."""

    waits: list[float] = field(default_factory=list)
    unanswered: list[float] = field(default_factory=list)  # those of `waits` that ended in nothing

    @property
    def worst(self) -> float:
        return max(self.waits)

    @property
    def answered(self) -> bool:
        """One that was asked shortly before the end has merely been cut off: the others count."""
        return self.worst not in self.unanswered

    def as_dict(self) -> dict[str, Any]:
        return {
            "asked": len(self.waits),
            "unanswered": len(self.unanswered),
            "worst_seconds": round(self.worst, 3),
        }


async def ask_until(over: anyio.Event, port: int, health: Health) -> None:
    """Ask until `over` is set, and wait for the last answer too; the caller sets the deadline."""
    while not over.is_set():
        begin = time.perf_counter()
        answered = False
        try:
            answered = await get(port, PATH) is None
        finally:
            health.waits.append(wait := time.perf_counter() - begin)
            if not answered:
                health.unanswered.append(wait)
        with anyio.move_on_after(PAUSE_SECONDS):
            await over.wait()
