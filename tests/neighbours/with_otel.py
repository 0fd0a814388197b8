"""OpenTelemetry's instrumentation of FastAPI and Starlette, with its SDK."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()


def install() -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.instrumentation.starlette import StarletteInstrumentor

    FastAPIInstrumentor().instrument()
    StarletteInstrumentor().instrument()


def listen() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def inside():
    return trace.get_tracer("test").start_as_current_span("inside")


def take():
    """Return what was recorded since the last time: trace, id, id of the parent, name, error."""
    spans = exporter.get_finished_spans()
    exporter.clear()
    return [
        (
            span.context.trace_id,
            span.context.span_id,
            span.parent and span.parent.span_id,
            f"{span.name} {(span.attributes or {}).get('asgi.event.type', '')}".strip(),
            not span.status.is_ok and span.status.status_code.name == "ERROR",
        )
        for span in spans
    ]
