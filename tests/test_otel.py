"""OpenTelemetry: what the real SDK collects."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from fastapi_overflow import otel, run_in_threadpool, set_thread_limit, stats
from fastapi_overflow._watching import metric
from fastapi_overflow._watching import metrics as _metrics
from observed import busy, calm, deadlock, until
from support import PATIENCE, run_python

pytestmark = pytest.mark.anyio


@pytest.fixture
def collect(monkeypatch):
    """Instrument; return a function that collects: points by name, less what others left."""
    monkeypatch.setattr(metric, "totals", lambda all_loops: stats())  # of this test's loop
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    otel.instrument(provider)

    def points() -> dict[str, Any]:
        data = reader.get_metrics_data()
        return {
            metric.name.removeprefix("fastapi_overflow."): metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    yield points
    otel.uninstrument()
    provider.shutdown()


def values(metric: Any) -> dict[str, float]:
    return {" ".join(point.attributes.values()): point.value for point in metric.data.data_points}


class TestInstruments:
    async def test_threads(self, collect):
        """Threads by state, the limit, and who waits."""
        calm(3)
        async with busy(5):
            found = collect()
        assert values(found["thread.count"]) == {"used": 2, "idle": 1}
        assert values(found["thread.limit"]) == {"": 3}
        assert values(found["thread.pending_requests"]) == {"first": 3, "later": 0}

    async def test_totals(self, collect):
        """What has happened so far, as sums that only grow."""
        set_thread_limit(3)
        await deadlock()
        found, now = collect(), stats()
        for name, expected in {
            "hops": now.hops,
            "stalls": now.stalls,
            "thread.grown": now.threads_grown,
            "reserve.used": now.reserve_used,
            "deadlocks_averted": now.deadlocks_averted,
        }.items():
            assert values(found[name]) == {"": expected}
            assert found[name].data.is_monotonic
        assert now.threads_grown > 0

    async def test_times(self, collect):
        """Histograms in seconds: each hop's wait for a thread and its use of one."""
        calm(3)
        async with busy(4):
            await until(lambda: stats().longest_wait > 0.01, "a wait")
        found = collect()
        for name in ("thread.wait_time", "thread.use_time"):
            assert found[name].unit == "s"
            (point,) = found[name].data.data_points
            assert point.count == 4
            assert tuple(point.explicit_bounds) == _metrics.BUCKETS
        (wait,) = found["thread.wait_time"].data.data_points
        assert wait.min == 0  # two found a thread
        assert 0.01 < wait.max <= wait.sum
        # By two clocks, one a moment after the other: a busy machine may pause in between.
        assert wait.sum == pytest.approx(stats().seconds_waited, abs=1)

    async def test_kept_token(self, collect):
        """A hop in the token that its request has kept counts like any other."""
        from observed import request

        async def endpoint():
            await run_in_threadpool(int)
            await run_in_threadpool(int)

        await request(endpoint)
        (point,) = collect()["thread.use_time"].data.data_points
        assert point.count == 2

    async def test_units(self, collect):
        """Units are those of the conventions."""
        await run_in_threadpool(int)
        units = {name: metric.unit for name, metric in collect().items()}
        assert units["thread.count"] == "{thread}"
        assert units["thread.pending_requests"] == "{request}"


class TestSwitching:
    async def test_running_loop(self, request):
        """A loop that runs already is measured from now on; hops under way end as usual."""
        async with busy(1):
            collect = request.getfixturevalue("collect")
        await run_in_threadpool(int)
        (point,) = collect()["thread.use_time"].data.data_points
        assert point.count == 1

    async def test_off_again(self, collect):
        """Once nobody listens, hops run as if there had never been anybody."""
        await run_in_threadpool(int)
        otel.uninstrument()
        await run_in_threadpool(int)
        times = {name: metric for name, metric in collect().items() if name.endswith("_time")}
        points = [point for metric in times.values() for point in metric.data.data_points]
        assert [point.count for point in points] == [1, 1]

    async def test_twice(self, collect):
        """Instrumenting twice counts once."""
        otel.instrument()
        await run_in_threadpool(int)
        (point,) = collect()["thread.use_time"].data.data_points
        assert point.count == 1


CHILD = """
import logging, sys
logging.basicConfig(level="WARNING", stream=sys.stdout)
import starlette.applications
import anyio, fastapi_overflow
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reader = InMemoryMetricReader()  # set up after the app was imported, as many do
metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
anyio.run(fastapi_overflow.run_in_threadpool, int)
data = reader.get_metrics_data()
resources = data.resource_metrics if data else ()
scopes = [scope for resource in resources for scope in resource.scope_metrics]
print(sorted(metric.name for scope in scopes for metric in scope.metrics))
"""


class TestVariable:
    def test_on(self, wheel_python):
        """FASTAPI_OVERFLOW_OTEL=1 is all it takes."""
        env = {"FASTAPI_OVERFLOW_OTEL": "1"}
        done = run_python(wheel_python, CHILD, timeout=PATIENCE, env=env, check=True)
        assert "fastapi_overflow.thread.use_time" in done.stdout
        assert "fastapi_overflow.hops" in done.stdout

    @pytest.mark.parametrize("value", [None, "0"])
    def test_off(self, wheel_python, value):
        """Without it nothing is reported, and hops run unmeasured."""
        env = {"FASTAPI_OVERFLOW_OTEL": value}
        done = run_python(wheel_python, CHILD, timeout=PATIENCE, env=env, check=True)
        assert done.stdout.strip() == "[]"

    def test_wrong(self, wheel_python):
        """Any other value breaks the rule, and the error says which."""
        env = {"FASTAPI_OVERFLOW_OTEL": "maybe"}
        done = run_python(wheel_python, "import starlette", timeout=PATIENCE, env=env)
        assert "FASTAPI_OVERFLOW_OTEL must be 1 or 0, got 'maybe'" in done.stderr

    def test_without_the_api(self, wheel_python):
        """Where the API is missing, a warning says how to get it, and the app runs protected."""
        code = f"import sys; sys.modules['opentelemetry'] = None\n{CHILD.partition('from open')[0]}"
        env = {"FASTAPI_OVERFLOW_OTEL": "1"}
        code += "print(fastapi_overflow.patched())"
        done = run_python(wheel_python, code, timeout=PATIENCE, env=env, check=True)
        assert 'pip install "fastapi-overflow[otel]"' in done.stdout
        assert done.stdout.endswith("True\n")
