"""Prometheus metrics: `instrument()`, with prometheus_client.

Called by the app, once. It needs `pip install "fastapi-overflow[prometheus]"`. It must never start
a server: what is registered shows up wherever the app exposes its metrics already, such as::

    from prometheus_client import make_asgi_app
    from fastapi_overflow import prometheus

    prometheus.instrument()
    app.mount("/metrics", make_asgi_app())

Several worker processes behind one address: a scrape reaches one of them. prometheus_client's
multi-process mode sums them up, by files that each process writes. Set PROMETHEUS_MULTIPROC_DIR to
an empty directory before Python starts, call `instrument()` all the same, and expose::

    from prometheus_client import CollectorRegistry, make_asgi_app, multiprocess

    registry = CollectorRegistry(support_collectors_without_names=True)
    multiprocess.MultiProcessCollector(registry)
    app.mount("/metrics", make_asgi_app(registry))

No collector is asked in that mode, so a thread of each process writes its numbers there every few
seconds. Under gunicorn, call `multiprocess.mark_process_dead(worker.pid)` in `child_exit`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ._log import logger
from ._watching import metrics, observer

PREFIX = "fastapi_overflow_"


class OverflowCollector(Collector):
    """The numbers of all event loops and connection pools, read at each scrape."""

    def describe(self) -> Iterator[Metric]:
        for metric in metrics.METRICS:
            yield _family(metric, [])

    def collect(self) -> Iterator[Metric]:
        reading = metrics.Reading()
        for metric in metrics.METRICS:
            yield _family(metric, metric.read(reading))


def _family(metric: metrics.Metric, values: list[metrics.Value]) -> Metric:
    kind = CounterMetricFamily if metric.total else GaugeMetricFamily
    family = kind(PREFIX + metric.prometheus, metric.description, labels=metric.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


class _Times:
    def __init__(self, registry: CollectorRegistry) -> None:
        wait, use = (
            Histogram(PREFIX + name, text, registry=registry, buckets=metrics.BUCKETS)
            for name, text in (
                ("thread_wait_seconds", metrics.WAIT_TIME),
                ("thread_use_seconds", metrics.USE_TIME),
            )
        )
        self.waited = wait.observe
        self.used = use.observe


def instrument(registry: CollectorRegistry = REGISTRY, *, refresh_seconds: float = 5.0) -> None:
    """Report what threads and connections are doing to Prometheus.

    All event loops of the process are summed up, and pools with one URL: the label `pool`.

    :param registry: of the app; in multi-process mode what its own metrics are made with
    :param refresh_seconds: between two writes in multi-process mode
    :raises ValueError: when called twice with one registry
    """
    times = _Times(registry)
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mirror = _Mirror(registry, refresh_seconds)
        mirror.start()
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(after_in_child=mirror.start)  # gunicorn --preload
    else:
        registry.register(OverflowCollector())
    observer.listen(times)


class _Mirror:
    """Copies the numbers into metrics that multi-process mode knows, in a thread."""

    def __init__(self, registry: CollectorRegistry, seconds: float) -> None:
        self._seconds = seconds
        self._written: dict[tuple[str, ...], float] = {}
        self._metrics: list[tuple[metrics.Metric, Counter | Gauge]] = []
        for metric in metrics.METRICS:
            name, labels = PREFIX + metric.prometheus, metric.labels
            made: Counter | Gauge
            if metric.total:
                made = Counter(name, metric.description, labels, registry=registry)
            else:
                made = Gauge(
                    name,
                    metric.description,
                    labels,
                    registry=registry,
                    multiprocess_mode="livesum",
                )
            self._metrics.append((metric, made))

    def start(self) -> None:
        self._written.clear()
        threading.Thread(target=self._run, name="fastapi-overflow metrics", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self.write()
            except Exception:  # the disk may be full, or the directory gone; the next may succeed
                logger.debug("The metrics could not be written", exc_info=True)
            time.sleep(self._seconds)

    def write(self) -> None:
        reading = metrics.Reading()
        for metric, made in self._metrics:
            for labels, value in metric.read(reading):
                child = made.labels(*labels) if labels else made
                if isinstance(child, Gauge):
                    child.set(value)
                else:
                    key = (metric.name, *labels)
                    # Sums of seconds may differ by a rounding, and a counter must not go back.
                    child.inc(max(value - self._written.get(key, 0), 0))
                    self._written[key] = value
