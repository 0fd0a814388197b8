"""OpenTelemetry metrics: FASTAPI_OVERFLOW_OTEL=1, or `instrument()`.

Called by the patch or the app, once. It needs the API only (`pip install "fastapi-overflow[otel]"`;
recent versions of FastAPI bring it) and must never choose an SDK, an exporter or a reader: what is
done with the numbers is the app's to configure.

Connection pools go by the names of the semantic conventions, `db.client.connection.*`. What the
OpenTelemetry instrumentation of SQLAlchemy reports doesn't get in the way: it counts connections
under the conventions' former name, `db.client.connections.usage`, and a meter of its own, so that
nothing is registered twice even if it takes the new names one day. Use both, or add up one of them.

`db.client.connection.pool.name` is the engine's URL without password and query; 50 pools have a
name of their own, the rest go together. What the SDK collects is shown in the source, in
`_watching/README.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    MeterProvider,
    Observation,
    get_meter,
)

from . import __version__
from ._watching import metrics, observer

PREFIX = "fastapi_overflow."


class _Times:
    def __init__(self, wait: Histogram, use: Histogram) -> None:
        self.waited = wait.record
        self.used = use.record


_times: _Times | None = None


def instrument(meter_provider: MeterProvider | None = None) -> None:
    """Report what threads and connections are doing to OpenTelemetry. Further calls do nothing.

    All event loops of the process are summed up, and pools with one URL. May be called before the
    SDK is set up.

    :param meter_provider: of the SDK; None: the global one
    """
    global _times
    if _times is not None:
        return
    meter = get_meter("fastapi_overflow", __version__, meter_provider)
    for metric in metrics.METRICS:
        create = meter.create_observable_up_down_counter
        if metric.total:
            create = meter.create_observable_counter  # type: ignore[assignment]
        create(metric.name, [_callback(metric)], metric.unit, metric.description)
    wait, use = (
        meter.create_histogram(
            f"{PREFIX}thread.{name}",
            "s",
            description,
            explicit_bucket_boundaries_advisory=metrics.BUCKETS,
        )
        for name, description in (
            ("wait_time", metrics.WAIT_TIME),
            ("use_time", metrics.USE_TIME),
        )
    )
    _times = _Times(wait, use)
    observer.listen(_times)


def uninstrument() -> None:
    """Report no more. The instruments stay with their meter, as the API can't remove any."""
    global _times
    if _times is not None:
        observer.ignore(_times)
        _times = None


def _callback(metric: metrics.Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        if _times is None:
            return []
        values = metric.read(metrics.Reading())
        return [Observation(value, metric.attributes_of(labels)) for labels, value in values]

    return observe
