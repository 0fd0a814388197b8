"""Route shapes under many requests at once: they deadlock without the package, and don't with it.

Each run is a child process with the built wheel, the hook its only way in; see shapes/load.py. The
apps share 15 connections (or as many tokens of a semaphore) and wait 5 s for one.
"""

from __future__ import annotations

import pytest

from shape_tools import SHAPES, is_deadlock, not_answered, send, sent_to_stock

DEADLOCKING = [name for name, shape in SHAPES.items() if not shape.control]
CONTROLS = [name for name, shape in SHAPES.items() if shape.control]

LIMIT = 40  # threads, the default

# Each gives the loop another kind of work: plain hops, pauses, a hop per item, a hop outside any
# lease, hops within hops.
ON_TRIO = (
    "session dependency",
    "async endpoint with pauses",
    "sync stream, fast client",
    "file",
    "upload, async",
    "nested, one deep",
    "WebSocket",
    "BaseHTTPMiddleware",
    "around the app",
    "semaphore",
)


def test_the_gauge_sees_more_threads_than_the_limit(wheel_python):
    """A limit of 45 shows as more than 40 hops at once: the bound below could be broken."""
    limits = {"FASTAPI_OVERFLOW_LIMIT": "45", "FASTAPI_OVERFLOW_STALL_THREADS": "0"}
    # No database: where connections are short, no more hops begin than there are of these.
    (report,) = send(wheel_python, "semaphore, async", **limits)
    assert LIMIT < report["hops"] <= 45


@pytest.fixture(scope="module")
def stock(request, wheel_python):
    """Reports of 200 requests each without the package, by shape."""
    names = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.cls is TestWithoutThePackage and "name" in item.callspec.params
    }
    with sent_to_stock(wheel_python, names) as reports:
        yield reports


class TestWithoutThePackage:
    @pytest.mark.parametrize("name", DEADLOCKING)
    def test_requests_fail(self, stock, name):
        """Of 200 requests at once some wait for a connection until the pool's timeout."""
        report = stock[name].result()
        assert is_deadlock(report), report

    @pytest.mark.parametrize("name", CONTROLS)
    def test_one_hop_does_not_deadlock(self, stock, name):
        """A route that holds nothing from one hop to the next works: it is here for comparison."""
        assert not not_answered([stock[name].result()])


@pytest.fixture(scope="module", params=SHAPES)
def reports(request, wheel_python):
    """The reports of each shape in turn: 200 requests in a new process, then 1,000."""
    return send(wheel_python, request.param, "--requests", "200", "1000")


class TestWithThePackage:
    def test_the_first_200_requests_are_answered(self, reports):
        """Of 200 requests at once, the first that the process ever gets, all are answered."""
        assert not not_answered(reports[:1])

    def test_1000_requests_are_answered(self, reports):
        """Of 1,000 requests at once all are answered; none waits too long for a connection."""
        assert len(reports) == 2
        assert not not_answered(reports[1:])

    def test_threads_are_bounded(self, reports):
        """There are never more threads than twice the limit and those of FastAPI's exits.

        Twice: a machine that stands still for a moment looks like a stall.
        """
        for report in reports:
            assert report["hops"] <= 2 * LIMIT
            assert report["threads"] <= 2 * LIMIT + report["exits"]


@pytest.fixture(scope="module")
def without_growth(wheel_python):
    """Reports of 200 requests each, with no thread added when the pool stalls."""
    names = [name for name, shape in SHAPES.items() if not shape.grows]
    return send(wheel_python, *names, FASTAPI_OVERFLOW_STALL_THREADS="0")


class TestWithoutGrowth:
    def test_requests_are_answered(self, without_growth):
        """Lease and reserve are enough for all but a few shapes, with no extra thread."""
        assert len(without_growth) == sum(not shape.grows for shape in SHAPES.values())
        assert not not_answered(without_growth)

    def test_hops_keep_to_the_limit(self, without_growth):
        """No more hops run at once than the limit says."""
        assert [r for r in without_growth if r["hops"] > LIMIT] == []

    def test_threads_keep_to_the_limit(self, without_growth):
        """There are no more threads than the limit and those in which FastAPI exits dependencies.

        A thread is started only for a hop that has its token while no thread is idle: the number of
        threads never exceeds the most tokens that were out at once, the limit's and the exits'.
        """
        assert [r for r in without_growth if r["threads"] > LIMIT + r["exits"]] == []


class TestLoops:
    def test_uvloop(self, wheel_python):
        """All shapes answer on uvloop."""
        reports = send(wheel_python, *SHAPES, "--loop", "uvloop")
        assert len(reports) == len(SHAPES)
        assert not not_answered(reports)

    def test_trio(self, wheel_python):
        """A selection of shapes answers on trio."""
        reports = send(wheel_python, *ON_TRIO, "--loop", "trio")
        assert len(reports) == len(ON_TRIO)
        assert not not_answered(reports)


class TestMixed:
    def test_fails_without_the_package(self, wheel_python):
        """All shapes at once, 3,000 requests: without the package some wait in vain."""
        options = ("--requests", "3000", "--stop-at-failure")
        (report,) = send(wheel_python, "mixed", *options, FASTAPI_OVERFLOW_DISABLE="1")
        assert is_deadlock(report), report

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def test_3000_requests_are_answered(self, wheel_python, loop):
        """All shapes at once, 3,000 requests: every one is answered."""
        assert not not_answered(send(wheel_python, "mixed", "--requests", "3000", "--loop", loop))
