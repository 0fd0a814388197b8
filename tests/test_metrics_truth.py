"""What the numbers must not do: count twice, go backwards, or cost a thread.

For Prometheus a counter that falls by one has been reset: all it shows is counted once more.
"""

from __future__ import annotations

import sys

import pytest

from child_tools import NEVER, run_child

COUNTERS = (
    "hops",
    "waits",
    "seconds_waited",
    "reserve_used",
    "stalls",
    "threads_grown",
    "deadlocks_averted",
)

no_fork = pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")

FORKING = """
import json, os, sys, threading, time, warnings
import anyio
import fastapi_overflow
from child_tools import PATIENCE, in_fork
from fastapi_overflow import run_in_threadpool, stats

warnings.simplefilter("ignore")  # of forks beside threads: that is what servers do
state = sys.argv[1]
up, end = threading.Event(), threading.Event()


async def hops(number):
    for _ in range(number):
        await run_in_threadpool(int)


async def serve():
    await hops(5)
    up.set()
    while state == "serving" and not end.is_set():
        await anyio.sleep(0.01)


def with_server(then):
    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    assert up.wait(PATIENCE)
    if state == "over":
        thread.join(PATIENCE)
    try:
        return then()
    finally:
        end.set()
        thread.join(PATIENCE)
"""

FORK_STATS = f"""
{FORKING}

def begin():
    before = stats(all_loops=True).as_dict()
    anyio.run(hops, 2)
    return [before, stats(all_loops=True).hops]

print(json.dumps(with_server(lambda: in_fork(begin))))
"""

FORK_PROMETHEUS = f"""
{FORKING}
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from prometheus_client.parser import text_string_to_metric_families
from fastapi_overflow import prometheus

prometheus.instrument(CollectorRegistry(), refresh_seconds=0.02)


def scraped():
    registry = CollectorRegistry(support_collectors_without_names=True)
    multiprocess.MultiProcessCollector(registry)
    return {{
        sample.name.removeprefix("fastapi_overflow_"): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.labels
    }}


def scraped_with(hops):
    # At least so many: more than there were, if some were counted twice.
    deadline = time.monotonic() + PATIENCE
    while scraped().get("hops_total", 0) < hops:
        assert time.monotonic() < deadline, scraped()
        time.sleep(0.02)
    return scraped()


def begin():
    anyio.run(hops, 2)
    return scraped_with(7)


def both():
    scraped_with(5)
    found = in_fork(begin)
    return [found["hops_total"], found["thread_use_seconds_count"]]

print(json.dumps(with_server(both)))
"""


@no_fork
@pytest.mark.parametrize("state", ["serving", "over"])
class TestFork:
    def test_statistics(self, state):
        """A fork's statistics are its own: neither loops nor totals of its parent are in them."""
        before, hops = run_child(FORK_STATS, state)
        assert {name for name, value in before.items() if value} == set()
        assert hops == 2

    def test_prometheus(self, state, tmp_path):
        """In multi-process mode what a process had counted before a fork is counted once."""
        env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        assert run_child(FORK_PROMETHEUS, state, env=env) == [7, 7]


CLOSING = """
import gc, json, sys, threading
import anyio
from child_tools import PATIENCE, Door, begin_requests, until
from fastapi_overflow import run_in_threadpool, set_thread_limit, stats

backend, collect = sys.argv[1:]
up, end = threading.Event(), threading.Event()
all_of_them = []


def look():
    all_of_them.append(stats(all_loops=True).as_dict())


async def serve():
    for _ in range(3):
        await run_in_threadpool(int)
    up.set()
    while not end.is_set():
        await anyio.sleep(0.01)


async def second():
    set_thread_limit(3)
    door = Door()

    async with anyio.create_task_group() as group:
        go_on = await begin_requests(group, 6, door)
        go_on.set()
        try:
            await until(lambda: stats().threads_grown, "a stall that makes the pool grow")
            look()
        finally:
            door.open()
    look()


thread = threading.Thread(target=anyio.run, args=(serve,), daemon=True)
thread.start()
assert up.wait(PATIENCE)
look()
for _ in range(2):
    anyio.run(second, backend=backend)
    if collect == "collected":
        gc.collect()
    look()
end.set()
thread.join(PATIENCE)
look()
print(json.dumps(all_of_them))
"""


class TestClosedLoops:
    @pytest.mark.parametrize("collected", ["collected", "not yet collected"])
    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_totals_stay(self, backend, collected):
        """What a loop has counted stays in the totals of all loops when it is closed."""
        looks = run_child(CLOSING, backend, collected)
        for name in COUNTERS:
            values = [look[name] for look in looks]
            assert values == sorted(values), name
        assert looks[-1]["hops"] == 3 + 2 * 12

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_gauges_go(self, backend):
        """What it was doing doesn't stay: a loop that has ended has no limit and no threads."""
        last = run_child(CLOSING, backend, "not yet collected")[-1]
        assert {n: last[n] for n in ("loops", "limit", "threads_in_use", "waiting_first")} == {
            "loops": 0,
            "limit": 0,
            "threads_in_use": 0,
            "waiting_first": 0,
        }


CANCELLED = """
import asyncio, json
import anyio
import starlette.applications
from anyio import to_thread
from child_tools import until
from fastapi_overflow import run_in_threadpool, set_thread_limit, stats


async def main():
    set_thread_limit(3)
    limiter = to_thread.current_default_thread_limiter()
    await run_in_threadpool(int)
    looks = []

    def look():
        looks.append([stats(all_loops=True).as_dict(), limiter.borrowed_tokens])

    holders = [object() for _ in range(3)]
    for holder in holders:
        limiter.acquire_on_behalf_of_nowait(holder)
    look()
    task = asyncio.create_task(run_in_threadpool(int))
    await until(lambda: stats().waiting == 1, "a hop that waits")
    look()
    limiter.release_on_behalf_of(holders.pop(0))  # it is granted,
    look()
    task.cancel()  # and cancelled in the same turn; anyio's own scopes would let it run
    await asyncio.wait([task])
    look()
    for holder in holders:
        limiter.release_on_behalf_of(holder)
    look()
    print(json.dumps(looks))

anyio.run(main)
"""


class TestCancelled:
    def test_in_the_turn_of_its_grant(self):
        """No counter falls when a hop is cancelled in the very turn in which it got its thread."""
        looks = run_child(CANCELLED, env=NEVER)
        assert looks[-1][1] == 0, "a token is lost"
        for name in COUNTERS:
            values = [counts[name] for counts, _ in looks]
            assert values == sorted(values), name


TORN = """
import json, sys
import anyio
import fastapi_overflow
import starlette.applications
from anyio import to_thread
from fastapi_overflow import run_in_threadpool, stats

FOLDER = fastapi_overflow.__file__.rpartition("/")[0]


async def main():
    await run_in_threadpool(int)
    limiter = to_thread.current_default_thread_limiter()
    stats(all_loops=True)
    looks, step = [], 0
    while True:
        # A hop ends while somebody reads, between two of its steps: at each in turn.
        holder, steps = object(), 0
        limiter.acquire_on_behalf_of_nowait(holder)
        begun = stats(all_loops=True).hops

        def trace(frame, event, arg):
            nonlocal steps
            if not frame.f_code.co_filename.startswith(FOLDER):
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                steps += 1
                if steps == step:
                    sys.settrace(None)
                    limiter.release_on_behalf_of(holder)
                    sys.settrace(trace)
            return trace

        sys.settrace(trace)
        found = stats(all_loops=True).hops
        sys.settrace(None)
        if steps < step:
            break
        if not step:
            limiter.release_on_behalf_of(holder)
        looks.append(found - begun)
        step += 1
    print(json.dumps(looks))

anyio.run(main)
"""


class TestOtherThreads:
    def test_hop_ends_meanwhile(self):
        """Whoever reads while a hop ends counts it once: a counter must not fall at the next look.

        Exporters read in threads of their own, between any two steps of the loop's.
        """
        looks = run_child(TORN, env=NEVER)
        assert len(looks) > 100, "nothing was interleaved"
        assert set(looks) == {0}


RAISING = """
import json, logging, sys
import anyio
from anyio import to_thread
from child_tools import PATIENCE, Door, deadlock, request, until
from fastapi_overflow import otel, run_in_threadpool, set_thread_limit, stats

exporter, raises = sys.argv[1:]
recorded = 0


def record(*args, **kwargs):
    global recorded
    recorded += 1
    raise OSError("no space left on device")


if exporter == "otel":

    class Instrument:
        def __init__(self, name, *args, **kwargs):
            if raises in name:
                self.record = record

        def record(self, *args, **kwargs):
            pass

    class Meter:
        def __getattr__(self, name):
            return Instrument

    class MeterProvider:
        def get_meter(self, *args, **kwargs):
            return Meter()

    otel.instrument(MeterProvider())
else:
    import prometheus_client
    from fastapi_overflow import prometheus

    class Histogram(prometheus_client.Histogram):
        def observe(self, *args, **kwargs):
            if raises in self._name:
                record()

    prometheus.Histogram = Histogram
    prometheus.instrument(prometheus_client.CollectorRegistry())


async def main():
    set_thread_limit(3)
    answers = []
    door = Door()

    def work():
        door()
        return 7

    async def hop():
        answers.append(await run_in_threadpool(work))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for _ in range(6):  # some wait, some don't
                group.start_soon(request, hop)
            try:
                await until(lambda: stats().waiting, "hops that wait")
            finally:
                door.open()
        limiter = to_thread.current_default_thread_limiter()
        lost = limiter.borrowed_tokens, limiter.statistics().tasks_waiting
    await deadlock(lambda do: do, lambda do: do)
    assert recorded, "nobody was told"
    print(json.dumps([answers, lost, stats().threads_grown > 0, stats().threads_in_use]))

anyio.run(main)
"""


class TestRaisingListener:
    @pytest.mark.parametrize("raises", ["wait", "use"])
    @pytest.mark.parametrize("exporter", ["otel", "prometheus"])
    def test_loses_no_token(self, exporter, raises):
        """A hop answers, a token comes back and a stall ends though recording a time fails."""
        assert run_child(RAISING, exporter, raises) == [[7] * 6, [0, 0], True, 0]


MIRROR = """
import json, sys, threading, time
import anyio
import prometheus_client
from child_tools import PATIENCE
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from fastapi_overflow import prometheus, run_in_threadpool

threading.excepthook = lambda *_: None
fail = threading.Event()
failed = threading.Event()


class Gauge(prometheus_client.Gauge):
    def set(self, value):
        if fail.is_set():
            fail.clear()
            failed.set()
            raise OSError("no space left on device")
        super().set(value)


prometheus.Gauge = Gauge
prometheus.instrument(CollectorRegistry(), refresh_seconds=0.02)


async def hops(number):
    for _ in range(number):
        await run_in_threadpool(int)
    deadline = time.monotonic() + PATIENCE
    registry = CollectorRegistry(support_collectors_without_names=True)
    multiprocess.MultiProcessCollector(registry)
    while f"fastapi_overflow_hops_total {total}.0" not in generate_latest(registry).decode():
        if time.monotonic() > deadline:
            return False
        await anyio.sleep(0.02)
    return True


async def main():
    global total
    total = 3
    assert await hops(3)
    fail.set()
    while not failed.is_set():
        await anyio.sleep(0.01)
    total = 5
    print(json.dumps(await hops(2)))

anyio.run(main)
"""


class TestMirror:
    def test_writes_again(self, tmp_path):
        """In multi-process mode one failure to write, a full disk, doesn't end the metrics."""
        env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        assert run_child(MIRROR, env=env)
