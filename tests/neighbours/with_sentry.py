"""Sentry's SDK, with its integrations of FastAPI and Starlette that switch themselves on."""

from __future__ import annotations

import sentry_sdk
from sentry_sdk.transport import Transport

events = []


class Events(Transport):
    def capture_envelope(self, envelope):
        events.extend(item.payload.json for item in envelope.items if item.payload.json)


def install() -> None:
    sentry_sdk.init(
        dsn="http://key@localhost/1",
        transport=Events,
        traces_sample_rate=1.0,
        send_client_reports=False,
        auto_session_tracking=False,
    )


def listen() -> None:
    pass


def inside():
    return sentry_sdk.start_span(name="inside")


def take():
    """Return what was recorded since the last time: trace, id, id of the parent, name, error."""
    sentry_sdk.flush()
    found = []
    for event in events:
        root = event["contexts"]["trace"]
        if "exception" in event:
            name = event["exception"]["values"][-1]["type"]
            found.append((root["trace_id"], None, root["span_id"], name, True))
            continue
        for span in (root, *event["spans"]):
            name = event["transaction"] if span is root else span["description"]
            error = span.get("status") == "internal_error"
            parent = span.get("parent_span_id")
            found.append((span["trace_id"], span["span_id"], parent, name, error))
    events.clear()
    return found
