"""Health checks of an app that need a thread.

Called by `advise()` and `doctor --app`. It must never call the app's functions.
"""

from __future__ import annotations

import re

from .reading.source import Sources, name_of
from .routes import Found, is_sync, told

# The last part of a path that an orchestrator probes.
HEALTH = re.compile(
    r"(health([-_]?check)?|live(ness)?|ready|readiness|startup)z?|ping|up|status|alive|heartbeat",
    re.IGNORECASE,
)


def health_routes(found: list[Found], sources: Sources) -> list[str]:
    """Return advice for each route that looks like a health check and needs a thread."""
    advice = []
    for each in found:
        if not HEALTH.fullmatch(each.path.rstrip("/").rpartition("/")[2]):
            continue
        route = told(each)
        if not route.endpoint and not route.dependencies:
            continue
        handlers = list(each.handlers.values()) or [each.endpoint]
        sync = [handler for handler in handlers if is_sync(handler)] if route.endpoint else []
        named = " and ".join(f"{name_of(call)} is sync, {sources.place(call)}" for call in sync)
        what = named or f"it has sync dependencies, {sources.place(handlers[0])}"
        advice.append(
            f"{each.path} looks like a health check and needs a thread ({what}): with all threads"
            " taken it may be answered too late while the app works. Make it async, without sync"
            " dependencies; fastapi_overflow.is_saturated() tells a readiness probe"
        )
    return advice
