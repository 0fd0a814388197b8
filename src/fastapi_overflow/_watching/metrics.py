"""What the metrics are called and how they are read, for OpenTelemetry and Prometheus alike.

Called by the exporters. Values are read when somebody collects; the two times of threads are taken
in each hop, and only while an exporter listens to the pools' observers.

Routes are no labels: series for a hundred of them are what an operator pays for every day, to be
told what `stats().routes`, `connections()` and the log tell for nothing when an alert on a pool
goes off; and for the times of requests by route apps have metrics already.
"""

from __future__ import annotations

from .connection_metrics import CONNECTIONS
from .metric import Metric, Reading, Value
from .thread_metrics import THREADS

__all__ = ["BUCKETS", "METRICS", "USE_TIME", "WAIT_TIME", "Metric", "Reading", "Value"]

# Seconds. A hop that finds a thread takes well below a millisecond, a starving one half a minute.
BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

METRICS = (*THREADS, *CONNECTIONS)

WAIT_TIME = "Time for which a hop waited for its thread"
USE_TIME = "Time for which a hop used its thread"
