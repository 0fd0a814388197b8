"""The demo from end to end: real servers, real requests, and nothing left behind.

The run that shows the freezes takes a minute: it waits for the app without the package to fail, for
both endpoints at once.
"""

from __future__ import annotations

import json
import signal
import zipfile
from collections import Counter
from contextlib import suppress

import anyio
import anyio.abc
import psutil
import pytest

from fastapi_overflow._cli.demo import database, stage
from fastapi_overflow._cli.demo.acts import ACTS
from fastapi_overflow._cli.demo.client import Load
from fastapi_overflow._cli.demo.health import Health
from fastapi_overflow._cli.demo.report import Comparison, Pair, Run
from support import PATIENCE, make_venv, run, run_python, started, tail, wait_until

DEADLOCK = 200  # requests, the default: 40 take all threads, the others do the rest
FEW = 5  # requests: no deadlock, no waiting


def demo(python, *words, timeout=300, **more):
    return run(python, "-m", "fastapi_overflow", "demo", *words, timeout=timeout, **more)


def error(done):
    """Return the one line in which a demo that can't be run has said why."""
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def shown(wheel_python, tmp_path_factory):
    """A demo with enough load for a deadlock, with its JSON and its temporary directory."""
    folder = tmp_path_factory.mktemp("demo")
    words = ("--requests", str(DEADLOCK), "--json")
    done = demo(wheel_python, *words, timeout=600, env={"TMPDIR": str(folder)})
    assert done.stdout, done.stderr
    done.report = json.loads(done.stdout)
    done.folder = folder
    return done


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """A Python with nothing installed, and the wheel unpacked where PYTHONPATH can name it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "target")
    return make_venv(folder / "venv"), str(folder / "target")


class TestDeadlock:
    def test_without_the_package_most_requests_are_lost(self, shown):
        """The app alone deadlocks: requests get no connection in time, and most get no answer."""
        assert shown.report["without"]["failures"]["HTTP 500"] > 0  # the pool's timeout
        assert shown.report["without"]["succeeded"] < DEADLOCK / 2

    def test_with_it_none_is_lost(self, shown):
        """The same app with the package installed answers every request, and the exit code is 0."""
        assert shown.report["with"]["succeeded"] == DEADLOCK
        assert shown.report["with"]["failed"] == 0
        assert shown.returncode == 0

    def test_without_the_package_the_async_endpoint_freezes_the_app(self, shown):
        """The event loop stands in the pool's checkout: most requests get no answer at all."""
        failures = shown.report["async_endpoint"]["without"]["failures"]
        assert failures["no answer within 60 s"] > DEADLOCK / 2

    def test_with_it_the_async_endpoint_answers(self, shown):
        """With the package installed none of the requests to the async endpoint is lost."""
        assert shown.report["async_endpoint"]["with"]["succeeded"] == DEADLOCK
        assert shown.report["async_endpoint"]["with"]["failed"] == 0

    def test_health_beside_it(self, shown):
        """`/health` gets no answer while the app is frozen, and always one with the package."""
        for act in acts(shown.report):
            assert act["without"]["health"]["unanswered"] > 0
            assert act["with"]["health"]["unanswered"] == 0
            assert act["with"]["health"]["asked"] > 0

    def test_every_request_is_accounted_for(self, shown):
        """Succeeded and failed add up, and each failure has a reason."""
        for act in acts(shown.report):
            for side in (act["without"], act["with"]):
                assert side["succeeded"] + side["failed"] == DEADLOCK
                assert sum(side["failures"].values()) == side["failed"]

    def test_json_keys(self, shown):
        """The keys that programs rely on are all there, and no others."""
        assert set(shown.report) == {
            "requests",
            "database",
            "pool",
            "versions",
            "without",
            "with",
            "times_faster",
            "async_endpoint",
        }
        assert set(shown.report["async_endpoint"]) == {"without", "with", "times_faster"}
        sides = {
            "succeeded",
            "failed",
            "failures",
            "wall_seconds",
            "median_seconds",
            "worst_seconds",
            "peak_threads",
            "health",
        }
        for act in acts(shown.report):
            for side in (act["without"], act["with"]):
                assert set(side) == sides
                assert set(side["health"]) == {"asked", "unanswered", "worst_seconds"}

    def test_threads_were_counted(self, shown):
        """The servers' threads are counted: all of the limit were in use, and some others."""
        assert shown.report["without"]["peak_threads"] > 40
        assert shown.report["with"]["peak_threads"] > 1

    def test_no_progress_bar_where_nobody_watches(self, shown):
        """Without a terminal, only the result is printed."""
        assert shown.stderr == ""

    def test_no_file_is_left(self, shown):
        """Database and logs are gone."""
        assert list(shown.folder.iterdir()) == []


class TestWithoutLoad:
    def test_says_when_it_shows_nothing(self, wheel_python):
        """With too few requests for a deadlock it says so, and still shows both side by side."""
        done = demo(wheel_python, "--requests", str(FEW))
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert "requests succeeded".ljust(20) in done.stdout
        assert next(line.split()[-4:] for line in lines if "succeeded" in line) == ["5"] * 4
        assert " ".join(done.stdout.split()).count("not enough load for a deadlock") == 2
        assert max(len(line) for line in lines) <= 80  # columns of a terminal

    def test_a_database_of_the_users_own(self, wheel_python, postgres_url):
        """Any SQLAlchemy URL and any pool size will do; the tables are gone afterwards."""
        words = ("--requests", str(FEW), "--pool-size", "3", "--database-url", postgres_url)
        done = demo(wheel_python, *words, "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["database"], report["pool"]) == (postgres_url, "3+10")
        code = (
            "import sqlalchemy as s, sys\n"
            "names = s.inspect(s.create_engine(sys.argv[1])).get_table_names()\n"
            "print([name for name in names if 'demo' in name])"
        )
        assert run_python(wheel_python, code, postgres_url, timeout=60).stdout == "[]\n"


class TestEnding:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
    def test_interrupted(self, wheel_python, tmp_path, number):
        """A demo that is ended by a signal takes its servers and its files with it."""
        command = (wheel_python, "-m", "fastapi_overflow", "demo", "--requests", str(DEADLOCK))
        with started(*command, env={"TMPDIR": str(tmp_path)}) as process:
            servers = wait_for_servers(process)
            process.send_signal(number)
            assert process.wait(PATIENCE) == 130, tail(process.output)
            assert not any(server.is_running() for server in servers)
        assert list(tmp_path.iterdir()) == []


class TestCannotRun:
    def test_extra_not_installed(self, elsewhere):
        """Without the extra it says in one line what is missing and what to install."""
        python, path = elsewhere
        done = demo(python, env={"PYTHONPATH": path})
        assert done.returncode == 2
        assert error(done).endswith(
            'needs fastapi, sqlalchemy, uvicorn, rich, psutil: pip install "fastapi-overflow[demo]"'
        )

    def test_hook_not_installed(self, wheel_python, elsewhere):
        """On PYTHONPATH no hook protects an app: it says so instead of comparing."""
        python, target = elsewhere
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        others = run_python(wheel_python, code, timeout=60, check=True).stdout.strip()
        done = demo(python, env={"PYTHONPATH": f"{target}:{others}"})
        assert done.returncode == 1
        assert "an app would be unprotected here" in error(done)
        assert "not a site directory" in error(done)

    def test_wrong_setting(self, wheel_python):
        """A wrong setting is named, and the exit code is 2."""
        done = demo(wheel_python, env={"FASTAPI_OVERFLOW_LIMIT": "abc"})
        assert done.returncode == 2
        assert "FASTAPI_OVERFLOW_LIMIT must be a whole number" in error(done)

    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("postgresql+psycopg://127.0.0.1:1/x", "database can't be reached: "),
            ("sqlite:////no/such/folder/x.db", "database can't be reached: unable to open"),
            ("sqlite://", "that several processes can open, got SQLite in memory"),
            ("postgresql+asyncpg://127.0.0.1/x", "the driver of postgresql+asyncpg"),
            ("nonsense", "--database-url must be a SQLAlchemy URL, got 'nonsense'"),
            ("me:secret@host/x", "must be a SQLAlchemy URL, got 'me:***@host/x'"),
            ("me:se/cr:et@host/x", "must be a SQLAlchemy URL, got 'me:***@host/x'"),
        ],
    )
    def test_database(self, wheel_python, url, sentence):
        """A database that can't be used gives a one-line error and exit code 2."""
        done = demo(wheel_python, "--database-url", url)
        assert done.returncode == 2
        assert sentence in error(done)

    def test_database_as_it_is_shown(self):
        """The result names the database without a password, and without the URL's options."""
        url = database.parse("sqlite:///demo.db?password=secret")
        assert database.shown(url).endswith("demo.db")

    def test_too_few_files_allowed(self, wheel_python):
        """More requests than files that may be open: it says how to raise the limit."""
        command = f"ulimit -n 300 && exec {wheel_python} -m fastapi_overflow demo --requests 500"
        done = run("sh", "-c", command, timeout=120)
        assert done.returncode == 2
        assert "`ulimit -n`" in error(done)


class TestTurns:
    """When the second endpoint gets its requests: the first one's figures are never its doing."""

    def test_beside_one_that_stands(self, monkeypatch):
        """The second begins while nothing is answered by the first, so that nobody waits twice."""
        monkeypatch.setattr(stage, "STANDS_SECONDS", 0.01)
        second = Endpoint()
        first = Endpoint(answers_after=second)
        play_both(first, second, side_by_side=True)
        assert first.log == ["asked", "answered"]

    @pytest.mark.parametrize(
        ("side_by_side", "stands_seconds"), [(False, 0), (True, PATIENCE)], ids=["never", "at work"]
    )
    def test_after_one_that_is_at_work(self, monkeypatch, side_by_side, stands_seconds):
        """The second waits for the end of the first, if that is at work or if it always has to."""
        monkeypatch.setattr(stage, "STANDS_SECONDS", stands_seconds)
        log = []
        play_both(Endpoint(log), Endpoint(log), side_by_side=side_by_side)
        assert log == ["asked", "answered"] * 2


class TestVerdict:
    """The last lines claim what the figures show, and no more."""

    def test_lost_without(self):
        """Requests were lost without the package and none with it: how many, how much faster."""
        assert verdict(3, 0, wall=(60, 2)) == (
            "def endpoint: without fastapi-overflow 3 of 4 requests failed; with it all 4 "
            "succeeded, 30 times faster."
        )

    def test_lost_with(self):
        """Requests were lost with the package: nothing is claimed."""
        sentence = "with fastapi-overflow 1 of 4 requests failed. They should not have"
        assert sentence in verdict(4, 1)

    def test_health_lost_with(self):
        """`/health` got no answer with the package: nothing is claimed, whatever else was."""
        lost = Health([0.1, 9], unanswered=[9])
        assert "with fastapi-overflow /health got no answer" in verdict(4, 0, health=lost)

    def test_health_cut_off(self):
        """`/health` asked just before the end doesn't count as lost."""
        cut_off = Health([0.1, 0.01], unanswered=[0.01])
        assert "with it all 4 succeeded" in verdict(4, 0, health=cut_off)

    def test_lost_never(self):
        """No request was lost either way: that shows nothing, and it says so."""
        assert "not enough load for a deadlock" in verdict(0, 0)

    def test_lost_with_in_one_act(self):
        """A request that is lost with the package counts for the exit code, in whichever act."""
        assert comparison([(3, 0), (3, 1)]).lost_with_it
        assert not comparison([(3, 0), (3, 0)]).lost_with_it


def acts(report):
    """Return the parts of a report that tell of one endpoint each."""
    return report, report["async_endpoint"]


def verdict(lost_without, lost_with, **more):
    """Return the sentence about the first of two endpoints with these losses, on one line."""
    both = comparison([(lost_without, lost_with)] * 2, **more)
    words = " ".join(both.as_text().split())
    return words[words.index("def endpoint: ") : words.index(" async def endpoint: ")]


def comparison(losses, wall=(1, 1), health=None):
    """Return the comparison of runs with 4 requests each."""
    pairs = []
    for act, lost in zip(ACTS, losses, strict=True):
        loads = [
            Load([1.0] * 4, Counter({"HTTP 500": failed}), seconds)
            for failed, seconds in zip(lost, wall, strict=True)
        ]
        pairs.append(Pair(act, *(Run(load, health or Health([0.1]), threads=1) for load in loads)))
    return Comparison(4, "x", "5+10", {}, pairs)


class Endpoint:
    """A server in this process that answers `/health` always, and a load of one request.

    :ivar port: where it listens, once `serve` has begun
    :ivar log: what has become of the load, after the first request, which warms up
    """

    def __init__(self, log=None, answers_after=None):
        self.log = [] if log is None else log
        self.peak_threads = 1
        self.asked = anyio.Event()
        self._answers_after = answers_after
        self._warm = False

    def sample(self):
        pass

    async def serve(self, *, task_status):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
            task_status.started()
            await listener.serve(self._answer)

    async def _answer(self, stream):
        async with stream:
            request = await stream.receive()
            if not request.startswith(b"GET /health ") and self._warm:
                self.log.append("asked")
                self.asked.set()
                if self._answers_after is not None:
                    await self._answers_after.asked.wait()
                await anyio.wait_all_tasks_blocked()  # whoever wants to begin beside it has
                self.log.append("answered")
            elif not request.startswith(b"GET /health "):
                self._warm = True
            await stream.send(b"HTTP/1.1 200 OK\r\n\r\n{}")


def play_both(*endpoints, side_by_side):
    async def scenario():
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as serving:
                for endpoint in endpoints:
                    await serving.start(endpoint.serve)
                await stage.play(endpoints, 1, lambda *_: None, side_by_side=side_by_side)
                serving.cancel_scope.cancel()

    anyio.run(scenario)


def wait_for_servers(process):
    """Return the uvicorns that a demo has started, one for each endpoint, once there are both."""

    def servers():
        found = []
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.NoSuchProcess):  # ended since it was listed, as a zombie has
                if "uvicorn" in child.cmdline():
                    found.append(child)
        return found if len(found) == len(ACTS) else None

    return wait_until(servers, "both servers", process)
