"""Datadog's tracer, with its integrations of FastAPI, Starlette, anyio, asyncio and futures."""

from __future__ import annotations

from ddtrace.trace import TraceFilter, tracer

recorded = []


class Keep(TraceFilter):
    def process_trace(self, trace):
        recorded.extend(trace)
        # None: nothing is sent to anybody


def install() -> None:
    import ddtrace.auto  # noqa: F401


def listen() -> None:
    tracer.configure(trace_processors=[Keep()])


def inside():
    return tracer.trace("inside")


def take():
    """Return what was recorded since the last time: trace, id, id of the parent, name, error."""
    found = [
        (
            span.trace_id,
            span.span_id,
            span.parent_id,
            span.name if span.name == span.resource else f"{span.name} {span.resource}",
            bool(span.error),
        )
        for span in recorded
    ]
    recorded.clear()
    return found
