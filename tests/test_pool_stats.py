"""What each connection pool does, and how it is told to Prometheus and OpenTelemetry."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from child_tools import NEVER, run_child

LONG = 0.2  # seconds that something lasts, as in times_tools

IMPORTS = """
import gc, json, os, sqlite3, sys, threading, time
import anyio
import sqlalchemy
from times_tools import *
from child_tools import Door
from fastapi_overflow import run_in_threadpool, stats
from fastapi_overflow._watching.pool_stats import pool_stats, stats_by_name
"""


def told(program: str, *args: str, env: dict[str, str] | None = None) -> Any:
    code = f"{IMPORTS}\n{program}\n\nprint(json.dumps(anyio.run(main)))"
    return run_child(code, *args, env={**NEVER, **(env or {})})


EXPORTED = """
exporter = sys.argv[1]
engine = make_engine(2, pool_logging_name="not the name")
names = {
    "db.client.connection.count": "fastapi_overflow_connections",
    "db.client.connection.max": "fastapi_overflow_connection_limit",
    "db.client.connection.idle.max": "fastapi_overflow_connections_kept_open",
    "db.client.connection.pending_requests": "fastapi_overflow_connection_pending_requests",
    "db.client.connection.timeouts": "fastapi_overflow_connection_timeouts_total",
    "fastapi_overflow.connection.unused": "fastapi_overflow_connections_unused",
    "fastapi_overflow.connection.checkouts": "fastapi_overflow_connection_checkouts_total",
    "fastapi_overflow.connection.time.waited": "fastapi_overflow_connection_waited_seconds_total",
    "fastapi_overflow.connection.time.held": "fastapi_overflow_connection_held_seconds_total",
    "fastapi_overflow.connection.time.unused": "fastapi_overflow_connection_unused_seconds_total",
}

if exporter == "otel":
    from fastapi_overflow import otel
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    # What OpenTelemetry's own instrumentation of SQLAlchemy makes, and may make one day.
    theirs = provider.get_meter("opentelemetry.instrumentation.sqlalchemy")
    theirs.create_up_down_counter("db.client.connections.usage", "connections")
    theirs.create_up_down_counter("db.client.connection.count", "{connection}")
    otel.instrument(provider)

    def collected():
        return {
            " ".join((metric.name, point.attributes.get("db.client.connection.state", ""))).strip():
                [point.value, metric.unit, getattr(metric.data, "is_monotonic", None),
                 point.attributes["db.client.connection.pool.name"]]
            for resource in reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if "connection" in metric.name
            for point in metric.data.data_points
        }

else:
    from fastapi_overflow import prometheus
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess
    from prometheus_client.parser import text_string_to_metric_families

    registry = CollectorRegistry()
    prometheus.instrument(registry, refresh_seconds=0.02)
    otel_names = {name: otel for otel, name in names.items()}

    def scraped():
        from_files = registry
        if exporter == "multiprocess":
            from_files = CollectorRegistry(support_collectors_without_names=True)
            multiprocess.MultiProcessCollector(from_files)
        return {
            f"{otel_names[sample.name]} {sample.labels.get('state', '')}".strip():
                [sample.value, sample.labels["pool"]]
            for family in text_string_to_metric_families(generate_latest(from_files).decode())
            for sample in family.samples
            if sample.name in otel_names
        }

    def collected():
        if exporter == "multiprocess":
            time.sleep(0.5)  # written in the background meanwhile
        return scraped()


async def leak():
    kept.append(await run_in_threadpool(engine.connect))


async def main():
    app = app_of(leak=leak, db=lambda: engine.connect().close())
    await call(app, "/db")
    await call(app, "/db")
    await call(app, "/leak")
    connection = engine.connect()
    async with waiting(app, "/db", lambda: pool()["waiting"], "a request that waits"):
        now = await anyio.to_thread.run_sync(collected)
        connection.close()
    return [now, await anyio.to_thread.run_sync(collected)]

kept = []
"""


@pytest.fixture(scope="module", params=["otel", "prometheus", "multiprocess"])
def exported(request, tmp_path_factory):
    if request.param == "multiprocess" and sys.platform == "win32":
        pytest.skip("prometheus_client: not on Windows")
    folder = str(tmp_path_factory.mktemp("multiprocess"))
    env = {"PROMETHEUS_MULTIPROC_DIR": folder} if request.param == "multiprocess" else {}
    return told(EXPORTED, request.param, env=env)


class TestExported:
    """With OpenTelemetry, Prometheus, and Prometheus with several processes."""

    def test_now(self, exported):
        """How many are out, ready and unused, of how many, and how many wait for one."""
        now = {name: point[0] for name, point in exported[0].items()}
        assert now["db.client.connection.count used"] == 2
        assert now["db.client.connection.count idle"] == 0
        assert now["fastapi_overflow.connection.unused"] == 1  # the other isn't a request's
        assert now["db.client.connection.max"] == now["db.client.connection.idle.max"] == 2
        assert now["db.client.connection.pending_requests"] == 1

    def test_later(self, exported):
        """What is over is no longer told."""
        later = {name: point[0] for name, point in exported[1].items()}
        assert later["db.client.connection.count used"] == 1
        assert later["db.client.connection.count idle"] == 1
        assert later["db.client.connection.pending_requests"] == 0

    def test_totals(self, exported):
        """Checkouts, and the seconds waited, held and unused, while they last and afterwards."""
        now, later = ({name: point[0] for name, point in points.items()} for points in exported)
        assert later["fastapi_overflow.connection.checkouts"] == 6  # the first by make_engine
        assert now["db.client.connection.timeouts"] == 0
        for name in ("waited", "held", "unused"):
            total = f"fastapi_overflow.connection.time.{name}"
            assert LONG <= now[total] <= later[total], name

    def test_name(self, exported):
        """A pool goes by its engine's URL, as in connections()."""
        assert {point[-1] for point in exported[0].values()} == {"sqlite://"}


class TestConventions:
    def test_kinds(self):
        """Units and kinds are those of OpenTelemetry's semantic conventions, all in seconds."""
        now, _ = told(EXPORTED, "otel")
        kinds = {name: (unit, is_monotonic) for name, (_, unit, is_monotonic, _) in now.items()}
        db = "db.client.connection"
        for name in ("count used", "count idle", "max", "idle.max"):
            assert kinds[f"{db}.{name}"] == ("{connection}", False)
        assert kinds[f"{db}.pending_requests"] == ("{request}", False)
        assert kinds[f"{db}.timeouts"] == ("{timeout}", True)
        assert kinds["fastapi_overflow.connection.unused"] == ("{connection}", False)
        for name in ("waited", "held", "unused"):
            assert kinds[f"fastapi_overflow.connection.time.{name}"] == ("s", True)

    def test_names(self):
        """The names are those of the conventions' own package."""
        semconv = pytest.importorskip("opentelemetry.semconv._incubating.metrics.db_metrics")
        from fastapi_overflow._watching.connection_metrics import CONNECTIONS

        known = {v for n, v in vars(semconv).items() if n.startswith("DB_CLIENT_CONNECTION_")}
        ours = {row.name for row in CONNECTIONS if not row.name.startswith("fastapi_overflow.")}
        assert ours <= known


TIMEOUTS = """
from sqlalchemy.ext.asyncio import create_async_engine

engine = make_engine(1, pool_timeout=0.01)
slow = create_async_engine(f"sqlite+aiosqlite:///{sys.argv[1]}", pool_size=1, max_overflow=0,
                           pool_timeout=0.01, poolclass=sqlalchemy.pool.AsyncAdaptedQueuePool)


def fails():
    for _ in range(3):
        try:
            engine.connect()
        except sqlalchemy.exc.TimeoutError:
            pass


async def main():
    with engine.connect():
        thread = threading.Thread(target=fails)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
    async with slow.connect():
        for _ in range(2):
            try:
                await slow.connect()
            except sqlalchemy.exc.TimeoutError:
                pass
    found = {each.pool.partition(":")[0]: each.timeouts for each in pool_stats()}
    await slow.dispose()
    return found
"""


class TestTimeouts:
    def test_counted(self, tmp_path):
        """Checkouts that have failed for want of a connection, of sync and async engines."""
        assert told(TIMEOUTS, str(tmp_path / "db")) == {"sqlite": 3, "sqlite+aiosqlite": 2}


GONE = """
async def main():
    looks = []

    def look():
        looks.append({name: [each.checkouts, each.seconds_held, each.out, each.capacity]
                      for name, each in stats_by_name().items()})

    engines = [make_engine(2) for _ in range(3)]
    connection = engines[0].connect()
    time.sleep(LONG)
    look()
    del connection
    engines[0].dispose()
    look()
    engines[1:] = []
    gc.collect()
    look()
    with engines[0].connect():
        look()
    engines.clear()
    gc.collect()
    look()
    return looks
"""


class TestGone:
    def test_never_falls(self):
        """What pools have done stays when they are disposed of: Prometheus takes less for a reset.

        What they were doing doesn't.
        """
        looks = [look["sqlite://"] for look in told(GONE)]
        for column in (0, 1):
            values = [look[column] for look in looks]
            assert values == sorted(values)
        assert looks[-1][0] == 5
        assert [look[2] for look in looks] == [1, 0, 0, 1, 0]
        assert looks[0][3] == 6
        assert looks[-1][3] == 0


MANY = """
async def main():
    engines = []
    for n in range(120):
        engine = sqlalchemy.create_engine(
            f"sqlite:///{sys.argv[1]}/{n}.db", poolclass=sqlalchemy.pool.QueuePool)
        engine.connect().close()
        engines.append(engine)
        if n == 60:
            stats_by_name()
    for n in range(30):  # for each request one, as some apps do
        make_engine()
    found = stats_by_name()
    many = found.pop("(others)")
    for engine in engines:
        engine.dispose()
    return [len(found), many.checkouts + sum(each.checkouts for each in found.values())]
"""


class TestBound:
    def test_engines_without_end(self, tmp_path):
        """At most 50 pools are told apart; what the others do is told together."""
        names, checkouts = told(MANY, str(tmp_path))
        assert names == 50
        assert 120 <= checkouts <= 150  # of engines that are gone nothing is known


HIDDEN = """
async def main():
    engine = sqlalchemy.create_engine(
        "sqlite:///shop.db?token=secret",
        poolclass=sqlalchemy.pool.QueuePool,
        creator=lambda: sqlite3.connect(":memory:"),
    )
    engine.connect().close()
    return list(stats_by_name())
"""


class TestName:
    def test_nothing_secret(self):
        """The query of the URL is in no label: some drivers take a password there."""
        assert told(HIDDEN) == ["sqlite:///shop.db"]


RAISING = """
class Odd(sqlalchemy.pool.QueuePool):
    broken = False

    def checkedin(self):
        if self.broken:
            raise OSError("a pool of the app's own")
        return super().checkedin()


async def main():
    odd = sqlalchemy.create_engine("sqlite://", poolclass=Odd)
    odd.connect().close()
    engine = make_engine()
    Odd.broken = True
    return [[each.checkouts for each in pool_stats()], list(stats_by_name())]
"""


class TestOddPools:
    def test_raises(self):
        """A pool of the app's own that raises when it is asked is left out; the others are told."""
        assert told(RAISING) == [[1], ["sqlite://"]]


OFF = """
async def main():
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.pool.QueuePool)
    engine.connect().close()
    return [len(pool_stats()), len(stats_by_name())]
"""


class TestOff:
    @pytest.mark.parametrize(
        "off", [{"FASTAPI_OVERFLOW_DISABLE": "1"}, {"FASTAPI_OVERFLOW_CONNECTIONS": "0"}]
    )
    def test_nothing(self, off):
        """Where pools are left alone nothing is told of them."""
        assert told(OFF, env=off) == [0, 0]


MEANWHILE = """
async def main():
    engine = make_engine(3)
    end = time.monotonic() + 2

    def work():
        while time.monotonic() < end:
            with engine.connect():
                pass

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    fallen, before = [], None
    while time.monotonic() < end:
        (now,) = stats_by_name().values()
        for name in ("checkouts", "timeouts", "seconds_waited", "seconds_held", "seconds_idle"):
            if before is not None and getattr(now, name) < getattr(before, name):
                fallen.append(name)
        before = now
    for thread in threads:
        thread.join()
    (now,) = pool_stats()
    (later,) = stats_by_name().values()
    seconds = time.monotonic() - end + 2
    return [fallen, now.checkouts == later.checkouts,
            abs(now.seconds_held - later.seconds_held), now.seconds_held / seconds,
            later.seconds_waited / seconds]
"""


class TestMeanwhile:
    def test_never_falls(self):
        """No counter falls while connections come and go, and in the end all is told."""
        fallen, same, apart, held, waited = told(MEANWHILE)
        assert (fallen, same) == ([], True)
        assert apart < 0.05
        assert 0 < held < 3 * 1.05  # connections; by the clock's reading at both ends
        assert waited < 6 * 1.05  # threads
