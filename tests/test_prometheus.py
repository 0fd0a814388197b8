"""Prometheus: what a real scrape over HTTP finds."""

from __future__ import annotations

import os
import re
import sys
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from fastapi_overflow import (
    Stats,
    prometheus,
    run_in_threadpool,
    set_thread_limit,
    stats,
)
from fastapi_overflow._watching import metric, observer
from observed import busy, calm, deadlock, until
from support import PATIENCE, run_python

pytestmark = pytest.mark.anyio


@pytest.fixture
def scrape(monkeypatch):
    """Instrument a registry and serve it; return a function that scrapes: values by sample."""
    now = Stats()  # of this test's loop: the server asks in a thread of its own
    monkeypatch.setattr(metric, "totals", lambda all_loops: now)
    registry = CollectorRegistry()
    before = observer._listeners
    prometheus.instrument(registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)

    def samples() -> dict[str, float]:
        nonlocal now
        now = stats()
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            text = answer.read().decode()
        return {
            sample.name.removeprefix("fastapi_overflow_")
            + "".join(f" {name}={value}" for name, value in sample.labels.items()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    yield samples
    for listener in set(observer._listeners) - set(before):
        observer.ignore(listener)
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE)


class TestScrape:
    async def test_threads(self, scrape):
        """Threads by state, the limit, and who waits."""
        calm(3)
        async with busy(5):
            found = scrape()
        assert (found["threads state=used"], found["threads state=idle"]) == (2, 1)
        assert found["thread_limit"] == 3
        assert found["pending_requests hop=first"] == 3
        assert found["pending_requests hop=later"] == 0

    async def test_totals(self, scrape):
        """What has happened so far, as counters."""
        set_thread_limit(3)
        await deadlock()
        found, now = scrape(), stats()
        assert found["hops_total"] == now.hops
        assert found["stalls_total"] == now.stalls > 0
        assert found["threads_grown_total"] == now.threads_grown > 0
        assert found["reserve_used_total"] == now.reserve_used
        assert found["deadlocks_averted_total"] == now.deadlocks_averted

    async def test_times(self, scrape):
        """Histograms in seconds: each hop's wait for a thread and its use of one."""
        calm(3)
        async with busy(4):
            await until(lambda: stats().longest_wait > 0.01, "a wait")
        found = scrape()
        assert found["thread_wait_seconds_count"] == found["thread_use_seconds_count"] == 4
        assert found["thread_wait_seconds_bucket le=0.001"] == 2
        assert found["thread_wait_seconds_sum"] == pytest.approx(stats().seconds_waited, abs=1)

    async def test_while_stuck(self, scrape):
        """It works while not one thread is free."""
        set_thread_limit(3)
        async with busy(9):
            await until(lambda: stats().stalled, "a stall")
            found = scrape()
        assert (found["threads state=used"], found["threads state=idle"]) == (3, 0)
        assert found["pending_requests hop=first"] == 6

    async def test_all_loops(self):
        """The collector sums up the loops of the process."""
        await run_in_threadpool(int)
        (hops,) = [f for f in prometheus.OverflowCollector().collect() if f.name.endswith("hops")]
        assert hops.samples[0].value == stats(all_loops=True).hops > 0


WORKER = """
import sys, anyio, fastapi_overflow
from fastapi_overflow import prometheus
from prometheus_client import CollectorRegistry, generate_latest, multiprocess

prometheus.instrument(refresh_seconds=0.02)

async def main(hops):
    for _ in range(hops):
        await fastapi_overflow.run_in_threadpool(int)
    registry = CollectorRegistry(support_collectors_without_names=True)
    multiprocess.MultiProcessCollector(registry)
    seen = f"fastapi_overflow_hops_total {sys.argv[2]}.0"
    with anyio.fail_after(60):
        while seen not in (text := generate_latest(registry).decode()):
            await anyio.sleep(0.05)
    print(text)

anyio.run(main, int(sys.argv[1]))
"""


class TestMultiProcess:
    @pytest.mark.skipif(sys.platform == "win32", reason="prometheus_client: not on Windows")
    def test_two_processes(self, wheel_python, tmp_path):
        """In multi-process mode a scrape of one process has the totals of all of them."""
        env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        for hops, together in (("3", "3"), ("4", "7")):
            done = run_python(
                wheel_python, WORKER, hops, together, timeout=2 * PATIENCE, env=env, check=True
            )
        text = done.stdout
        assert "fastapi_overflow_thread_use_seconds_count 7.0" in text
        assert re.search(r"^fastapi_overflow_thread_limit \d+", text, re.MULTILINE)
        assert 'fastapi_overflow_threads{state="used"}' in text

    def test_where_processes_do_not_fork(self, monkeypatch, tmp_path):
        """Windows, which knows no fork, has the mode too."""
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        monkeypatch.delattr(os, "register_at_fork", raising=False)
        before = observer._listeners
        prometheus.instrument(CollectorRegistry())
        for listener in set(observer._listeners) - set(before):
            observer.ignore(listener)
