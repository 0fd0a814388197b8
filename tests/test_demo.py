"""The demo from end to end: real servers, real requests, and nothing left behind.

The run that shows the freezes takes a minute: it waits for the app without the package to fail, for
both endpoints at once.
"""

from __future__ import annotations

import json
import signal
import zipfile
from contextlib import suppress

import psutil
import pytest

from fastapi_overflow._cli.demo import database
from fastapi_overflow._cli.demo.acts import ACTS
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


def acts(report):
    """Return the parts of a report that tell of one endpoint each."""
    return report, report["async_endpoint"]


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
