"""The verdict: whether an app is stuck, and on what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_overflow._watching.verdict import seconds, verdict
from status_tools import POOL, connection, figures, pool, route, short_of_connections

BUSY = "running in a thread"


def sentence(**changes):
    return verdict(figures(**changes))["sentence"]


def state(**changes):
    return verdict(figures(**changes))["state"]


def all_out(doing="idle", held=12.0, *, number=15, **changes):
    """Return a pool all of whose connections are out, with those who have them and who waits."""
    idle = number if doing in ("idle", "ended") else 0
    one = pool(capacity=number, out=number, idle=idle, waiting=22, longest_wait=6.0)
    return {
        "pools": [{**one, **changes}],
        "connections": [connection(doing=doing, seconds=held) for _ in range(number)],
    }


class TestOk:
    def test_nobody_waits(self):
        """Where nobody waits all is well, and what is in use is told."""
        told = verdict(figures(threads_in_use=3, pools=[pool(out=2), pool(out=1, capacity=5)]))
        assert told == {
            "state": "ok",
            "sentence": "Nobody waits; 3 of 40 threads and 3 of 20 connections are in use.",
        }

    def test_no_pool(self):
        """An app without a database is told nothing of connections."""
        assert sentence() == "Nobody waits; 0 of 40 threads are in use."

    def test_no_limit(self):
        """Where there is no limit, none is told."""
        told = sentence(limit=None, threads_in_use=50, pools=[pool(capacity=None, out=70)])
        assert told == "Nobody waits; 50 threads and 70 connections are in use."

    def test_all_in_use(self):
        """All threads in use are no trouble as long as nobody waits for one."""
        assert state(threads_in_use=40, limit=40) == "ok"

    def test_switched_off(self):
        """A process in which the package is switched off isn't called well."""
        told = verdict(figures(loops=0, limit=0))
        assert told["state"] == "off"
        assert "switched off" in told["sentence"]


class TestBusy:
    def test_short_waits(self):
        """Who waits for a moment only is no shortage."""
        told = verdict(
            figures(
                waiting_first=2,
                longest_wait=0.2,
                pools=[pool(waiting=1, longest_wait=0.34), pool(capacity=None)],
            )
        )
        assert told["state"] == "busy"
        assert told["sentence"] == (
            "2 requests wait for a thread, the longest for 0.2 s and"
            " 1 request waits for a connection, for 0.3 s now; it goes on."
        )

    def test_held_back(self):
        """Requests that wait before they begin are told."""
        assert sentence(requests_held_back=3) == "3 requests wait to begin; it goes on."

    def test_stalled_for_a_moment(self):
        """A pool in which nothing has finished for a tenth of a second isn't stuck."""
        assert state(waiting_first=1, longest_wait=0.1, stalled=True, stalled_for=0.1) == "busy"

    def test_most_are_idle(self):
        """Who keeps most of the connections for nothing is named before others wait for long."""
        told = verdict(figures(**all_out("idle", longest_wait=0.5)))
        assert told["state"] == "busy"
        assert told["sentence"].startswith(f"15 of 15 connections of {POOL} are out, all idle, all")

    def test_few_are_idle(self):
        """Where most connections are at work nobody is blamed."""
        given = all_out("idle", longest_wait=0.5, idle=3)
        assert sentence(**given).startswith("22 requests wait for a connection")


class TestThreads:
    SLOW = {  # noqa: RUF012
        "threads_in_use": 40,
        "waiting_first": 4,
        "waiting_later": 1,
        "longest_wait": 3.24,
        "routes": {"GET /block": route(running=35), "GET /": route(running=5)},
    }

    def test_short(self):
        """Who has the threads is told, and how many wait for how long."""
        told = verdict(figures(**self.SLOW))
        assert told["state"] == "short of threads"
        assert told["sentence"] == (
            "40 of 40 threads are taken, 35 of them by GET /block;"
            " 5 requests wait for a thread, the longest for 3.2 s."
        )

    def test_saturated(self):
        """Where a queue hasn't been empty for ten seconds threads are short, however fast it is."""
        assert state(**{**self.SLOW, "longest_wait": 0.5}, saturated=True) == "short of threads"

    def test_slow_is_not_stuck(self):
        """Requests of a second each keep others waiting, but that isn't stuck."""
        assert state(**self.SLOW, stalled=True, stalled_for=0.9) == "short of threads"

    def test_stuck(self):
        """Nothing has finished for long: stuck."""
        told = verdict(figures(**self.SLOW, stalled=True, stalled_for=75.2))
        assert told["state"] == "stuck"
        assert told["sentence"].startswith("Nothing has finished for 75 s: 40 of 40 threads are")

    def test_nobody_knows_whose(self):
        """Without a route it is still a sentence."""
        told = sentence(threads_in_use=40, waiting_first=1, longest_wait=2.0)
        assert told == "40 of 40 threads are taken; 1 request waits for a thread, for 2.0 s now."


class TestConnections:
    def test_short(self):
        """Who keeps connections and doesn't use them is named, with the line."""
        told = verdict(short_of_connections())
        assert told["state"] == "short of connections"
        assert told["sentence"] == (
            f"15 of 15 connections of {POOL} are out, 11 of them idle, all with"
            " GET /stream (app/stream.py:12); 22 requests wait for one, the longest for 1.3 s."
        )

    def test_several_keep_them(self):
        """The one that keeps most is named, with its share."""
        status = short_of_connections()
        status["connections"][0]["route"] = "/other"
        assert ", 11 of them idle, 10 of these with GET /stream (" in verdict(status)["sentence"]

    def test_all_at_work(self):
        """Where none is idle those at work are named."""
        told = verdict(figures(**all_out(BUSY, held=0.5)))
        assert told["state"] == "short of connections"
        assert "connections of " + POOL + " are out, all with GET /stream (" in told["sentence"]

    @pytest.mark.parametrize(
        ("doing", "who"),
        [
            ("none", "code outside of any request (app/stream.py:12)"),
            ("on the event loop", "requests before their route (app/stream.py:12)"),
        ],
    )
    def test_no_route(self, doing, who):
        """What was taken without a route has a name too."""
        given = all_out(doing)
        for each in given["connections"]:
            each.update(route=None, method=None)
        assert who in sentence(**given)

    def test_no_bound(self):
        """A pool without a bound is never short."""
        assert state(**all_out(capacity=None)) == "busy"

    def test_stuck_while_nobody_works(self):
        """Nobody who has one is at work, and none has come back for two seconds: stuck."""
        told = verdict(figures(**all_out("idle", held=2.5)))
        assert told["state"] == "stuck"
        assert told["sentence"].startswith("Nothing has come back for 2.5 s: 15 of 15 connections")

    def test_at_work_for_a_while(self):
        """Queries that take three seconds aren't stuck."""
        assert state(**all_out(BUSY, held=3.0)) == "short of connections"

    def test_hung_database(self):
        """Queries none of which has come to an end for long are."""
        assert state(**all_out(BUSY, held=9.0)) == "stuck"

    def test_moves(self):
        """A connection that somebody has just got shows that it moves."""
        given = all_out("idle", held=9.0)
        given["connections"][7]["seconds"] = 0.1
        assert state(**given) == "short of connections"

    def test_has_just_begun_to_wait(self):
        """All may have been out for a minute: stuck is who waits, and for how long."""
        assert state(**all_out("idle", held=60.0, longest_wait=1.2)) == "short of connections"

    def test_nobody_knows_who(self):
        """Connections that were taken before anybody looked make no sentence fail."""
        given = {**all_out("idle"), "connections": []}
        assert state(**given) == "short of connections"

    def test_beside_threads(self):
        """Where threads wait for connections the connections are the reason: told first."""
        told = verdict(
            figures(**all_out("idle"), threads_in_use=40, waiting_first=9, longest_wait=8.0)
        )
        assert told["state"] == "stuck"
        assert told["sentence"].startswith("Nothing has come back")
        assert told["sentence"].endswith(
            " Also, 9 requests wait for a thread, the longest for 8.0 s."
        )


class TestLeaks:
    def test_told(self):
        """A leak is told while all is well."""
        told = verdict(figures(pools=[pool(out=1)], connections=[connection(doing="ended")]))
        assert told["state"] == "ok"
        assert told["sentence"].endswith(
            " 1 connection is still out of requests that have ended:"
            " GET /stream (app/stream.py:12)."
        )

    def test_the_end_of_a_request(self):
        """A connection that comes back a moment after its request isn't called a leak."""
        assert "ended" not in sentence(connections=[connection(doing="ended", seconds=0.1)])


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0.0 s"), (9.84, "9.8 s"), (12.3, "12 s"), (150, "2 min 30 s")]
)
def test_seconds(value, text):
    """Times are told as people say them."""
    assert seconds(value) == text


numbers = st.integers(0, 100)
times = st.floats(0, 1e5)
doings = (BUSY, "on the event loop", "waiting for a thread", "waiting for a connection")
connections = st.builds(
    connection,
    route=st.sampled_from([None, "/a", "/b"]),
    method=st.sampled_from([None, "GET"]),
    line=st.sampled_from([None, "a.py:1"]),
    seconds=times,
    doing=st.sampled_from([*doings, "idle", "ended", "none"]),
)
pools = st.builds(
    pool,
    capacity=st.none() | numbers,
    out=numbers,
    idle=numbers,
    waiting=numbers,
    longest_wait=times,
)


@given(
    st.builds(
        figures,
        threads_in_use=numbers,
        limit=st.none() | numbers,
        waiting_first=numbers,
        longest_wait=times,
        stalled_for=times,
        saturated=st.booleans(),
        pools=st.lists(pools, max_size=3),
        connections=st.lists(connections, max_size=5),
        routes=st.dictionaries(st.sampled_from("abc"), st.builds(route, running=numbers)),
    )
)
def test_figures_that_do_not_fit(status):
    """Figures that were read while they moved get a verdict too."""
    told = verdict(status)
    assert told["state"] in ("ok", "busy", "short of threads", "short of connections", "stuck")
    assert told["sentence"].endswith(".")
