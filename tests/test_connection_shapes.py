"""Shapes that stall for want of a connection: they freeze or fail without the package, not with it.

Queries on the event loop, second sessions, and mixtures of these with the shapes of test_shapes.py;
see shapes/connections.py. Each run is a child process with the built wheel, the hook its only way
in. The apps share 15 connections.
"""

from __future__ import annotations

import pytest

from shape_tools import (
    CONNECTION_SHAPES,
    MIXTURES,
    is_freeze,
    not_answered,
    outcomes,
    send,
    sent_to_stock,
)

LATE = "on the loop, after a second"
CONTROLS = [name for name, shape in CONNECTION_SHAPES.items() if shape.control]
MIXED = [name for name in MIXTURES if name != "mixed"]
NAMES = [*(n for n, shape in CONNECTION_SHAPES.items() if not shape.late), *MIXED]

# Each stalls in another place: at a dependency, at the app's door, in asyncio's threads, in a
# thread that has one already, on the loop beside threads.
SELECTED = (
    "on the loop",
    "middleware inspects on the loop",
    "to_thread, twice",
    "second session in a computed field",
    "second session, around the app",
    "on the loop beside hops in hops",
)

# A run without the package. The whole event loop stands still for the pool's timeout, request after
# request, so nobody may be left to tell: what isn't answered at the deadline counts as frozen.
POOL_TIMEOUT = "1"  # seconds
DEADLINE = "10"


@pytest.fixture(scope="module")
def stock(request, wheel_python):
    """Reports of 200 requests each without the package, by shape."""
    names = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.cls is TestWithoutThePackage and "name" in item.callspec.params
    }
    deadline = ("--deadline", DEADLINE)
    with sent_to_stock(wheel_python, names, *deadline, POOL_TIMEOUT=POOL_TIMEOUT) as reports:
        yield reports


class TestWithoutThePackage:
    @pytest.mark.parametrize("name", [n for n in [*NAMES, LATE] if n not in CONTROLS])
    def test_requests_freeze_or_fail(self, stock, name):
        """Of 200 requests at once some wait for a connection in vain."""
        report = stock[name].result()
        assert is_freeze(report), report

    @pytest.mark.parametrize("name", CONTROLS)
    def test_a_brief_session_on_the_loop_works_alone(self, stock, name):
        """What is given back before anything else can run works: it is here for the mixtures."""
        assert not not_answered([stock[name].result()])


@pytest.fixture(scope="module", params=NAMES)
def reports(request, wheel_python):
    """The reports of each shape in turn: 200 requests in a new process, 200 more, then 1,000."""
    return send(wheel_python, request.param, "--requests", "200", "200", "1000")


class TestWithThePackage:
    def test_the_first_200_requests_are_answered(self, reports):
        """Of 200 requests at once, the first that the process ever gets, all are answered."""
        assert not not_answered(reports[:1])

    def test_200_more_requests_are_answered(self, reports):
        """Of 200 requests at once, after others, all are answered."""
        assert len(reports) > 1
        assert not not_answered(reports[1:2])

    def test_1000_requests_are_answered(self, reports):
        """Of 1,000 requests at once all are answered."""
        assert len(reports) == 3
        assert not not_answered(reports[2:])

    @pytest.mark.parametrize("name", SELECTED)
    def test_the_first_1000_requests_are_answered(self, wheel_python, name):
        """Of 1,000 requests at once, the first that the process ever gets, all are answered."""
        assert not not_answered(send(wheel_python, name, "--requests", "1000"))

    def test_uvloop(self, wheel_python):
        """All shapes answer on uvloop.

        One in a process of its own. Its app is that of another shape, whose middleware keeps a
        connection around a route that takes none: seen after that one, the first burst to a route
        that takes one more may lose a request, which README says.
        """
        apart = "middleware's connection of the loop, and a session"
        together = [name for name in NAMES if name != apart]
        reports = [
            *send(wheel_python, *together, "--loop", "uvloop"),
            *send(wheel_python, apart, "--loop", "uvloop"),
        ]
        assert len(reports) == len(NAMES)
        assert not not_answered(reports)


class TestPostgres:
    """A connection that is opened and a query take their time, and the loop's with it."""

    def test_fails_without_the_package(self, wheel_python, postgres_url):
        """Without the package some of 200 requests wait in vain."""
        options = ("--deadline", DEADLINE)
        env = {"POOL_TIMEOUT": POOL_TIMEOUT, "DATABASE_URL": postgres_url}
        with sent_to_stock(wheel_python, {SELECTED[0]}, *options, **env) as reports:
            report = reports[SELECTED[0]].result()
        assert is_freeze(report), report

    @pytest.mark.parametrize("name", SELECTED)
    def test_requests_are_answered(self, wheel_python, postgres_url, name):
        """The first 200 requests at once, and 1,000 after them, are all answered."""
        options = ("--requests", "200", "1000")
        reports = send(wheel_python, name, *options, DATABASE_URL=postgres_url)
        assert len(reports) == 2
        assert not not_answered(reports)


@pytest.fixture(scope="module")
def bursts(wheel_python):
    """The reports of three bursts of 40 late requests, with SQLAlchemy's own timeout."""
    return send(wheel_python, LATE, "--requests", "40", "40", "40", POOL_TIMEOUT="30")


class TestLate:
    """A query on the loop after a second: nothing tells in time that a request will need one."""

    def test_the_first_burst_is_not_frozen(self, bursts):
        """As many as there are connections are answered, the others fail instead of waiting."""
        assert outcomes(bursts[0]) <= {"200", "TimeoutError"}
        assert bursts[0]["outcomes"]["200"] >= 15

    def test_later_bursts_are_answered(self, bursts):
        """From the second burst on every request is answered."""
        assert len(bursts) == 3
        assert not not_answered(bursts[1:])
