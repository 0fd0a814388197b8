"""When settings are decided: as Starlette is imported, all of them, and wholly.

Until then whoever sets a variable is in time, be it `load_dotenv()` at the top of the app or
`uvicorn --env-file`; afterwards a warning says that it is too late. Each program is a new process.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request

import pytest

from child_tools import run_child
from support import started, tail

REPORT = """
import json, sys
import anyio
from anyio import to_thread
from child_tools import request, told


def report(path=None):
    # What of the package is on, as an app sees it.
    import fastapi_overflow
    from starlette.concurrency import run_in_threadpool
    records = told()
    found = {}

    async def endpoint():
        await run_in_threadpool(int)
        limiter = to_thread.current_default_thread_limiter()
        found["stats"] = fastapi_overflow.stats().as_dict()
        found["saturated"] = fastapi_overflow.is_saturated()
        fastapi_overflow.set_thread_limit(11)
        found["limit"] = limiter.total_tokens
        found["limiter"] = type(limiter).__module__.partition(".")[0]

    anyio.run(request, endpoint)
    found["patched"] = fastapi_overflow.patched()
    found["all_loops"] = fastapi_overflow.stats(all_loops=True).hops
    found["told"] = [record.getMessage() for record in records]
    return found
"""


def is_wholly_off(found) -> bool:
    """Tell whether nothing at all is done to an app: it is stock."""
    return (
        not found["patched"]
        and not any(found["stats"].values())
        and found["all_loops"] == 0
        and (found["limiter"], found["limit"]) == ("anyio", 40)
        and any("no effect" in text for text in found["told"])  # of set_thread_limit()
    )


def is_wholly_on(found) -> bool:
    """Tell whether an app is protected, and whoever asks is told so."""
    return (
        found["patched"]
        and found["stats"]["hops"] == found["stats"]["loops"] == 1
        and (found["limiter"], found["limit"]) == ("fastapi_overflow", 11)
        and not any("no effect" in text for text in found["told"])
    )


EARLIER = {
    "nothing": "",
    "the package": "import fastapi_overflow",
    "its functions": "from fastapi_overflow import run_in_threadpool, stats, set_thread_limit",
    "anyio": "import anyio.to_thread",
}


class TestDisabledInTime:
    @pytest.mark.parametrize("earlier", EARLIER)
    def test_by_the_app(self, earlier):
        """FASTAPI_OVERFLOW_DISABLE set by the app's first lines switches everything off.

        Whatever of fastapi-overflow has been imported by then.
        """
        program = f"""
import os
{EARLIER[earlier]}
os.environ["FASTAPI_OVERFLOW_DISABLE"] = "1"
import starlette.applications
{REPORT}
print(json.dumps(report()))
"""
        found = run_child(program)
        assert is_wholly_off(found), found

    def test_by_dotenv(self, tmp_path):
        """So does a .env file that the app loads before it imports FastAPI."""
        (tmp_path / ".env").write_text("FASTAPI_OVERFLOW_DISABLE=true\n")
        program = f"""
import sys
from dotenv import load_dotenv
load_dotenv(sys.argv[1])
import fastapi
{REPORT}
print(json.dumps(report()))
"""
        found = run_child(program, str(tmp_path / ".env"))
        assert is_wholly_off(found), found

    def test_then_patched_by_hand(self):
        """An explicit patch() after that leaves everything off."""
        program = f"""
import os
os.environ["FASTAPI_OVERFLOW_DISABLE"] = "1"
import starlette.applications, fastapi_overflow
fastapi_overflow.patch()
{REPORT}
print(json.dumps(report()))
"""
        found = run_child(program)
        assert is_wholly_off(found), found

    def test_taken_back_in_time(self):
        """Taken back before Starlette is imported, it doesn't keep patch() from protecting the app.

        Asking for statistics before that decides nothing.
        """
        program = f"""
import os
from fastapi_overflow import patch, stats, run_in_threadpool
stats(all_loops=True)
del os.environ["FASTAPI_OVERFLOW_DISABLE"]
patch()
{REPORT}
print(json.dumps(report()))
"""
        found = run_child(program, env={"FASTAPI_OVERFLOW_DISABLE": "1"})
        assert is_wholly_on(found), found

    @pytest.mark.parametrize("then", ["starlette.concurrency", "starlette.applications"])
    def test_between_two_modules(self, then):
        """Set while Starlette's modules are being imported, all is on or all is off, never half."""
        program = f"""
import os
import starlette{"" if then.endswith("concurrency") else ".concurrency"}
os.environ["FASTAPI_OVERFLOW_DISABLE"] = "1"
import {then}, starlette.applications
{REPORT}
print(json.dumps(report()))
"""
        found = run_child(program)
        assert is_wholly_on(found) or is_wholly_off(found), found


class TestOthersInTime:
    def test_by_the_app(self):
        """FASTAPI_OVERFLOW_LIMIT set by the app's first lines is the limit."""
        program = f"""
import os
os.environ["FASTAPI_OVERFLOW_LIMIT"] = "7"
import starlette.applications
{REPORT}
print(json.dumps(report()))
"""
        assert run_child(program)["stats"]["limit"] == 7

    @pytest.mark.parametrize(
        "ask",
        ["advise()", "stats(all_loops=True)", "set_thread_limit(9)", "anyio.run(run)"],
    )
    def test_after_a_question(self, ask):
        """Neither a question nor a thread used before Starlette is imported makes it too late."""
        program = f"""
import os
import anyio
import fastapi_overflow
from fastapi_overflow import *


async def run():
    await fastapi_overflow.run_in_threadpool(int)


{ask}
os.environ["FASTAPI_OVERFLOW_LIMIT"] = "7"
os.environ["FASTAPI_OVERFLOW_OTEL"] = "1"
import starlette.applications
{REPORT}
found = report()
print(json.dumps([found["stats"]["limit"], "fastapi_overflow.otel" in sys.modules]))
"""
        # What the app has asked for by its own code is what counts in the end.
        assert run_child(program) == [9 if "set" in ask else 7, True]


LATE = """
import json, os, sys
import anyio
import starlette.applications
import fastapi_overflow
from child_tools import request, told
from starlette.concurrency import run_in_threadpool

records = told()
name, value = sys.argv[1:]
if value:
    os.environ[name] = value


async def endpoint():
    await run_in_threadpool(int)


async def main():
    await request(endpoint)
    first = len(records)
    for _ in range(3):
        await request(endpoint)
    hops = fastapi_overflow.stats().hops
    fastapi_overflow.set_thread_limit(11)
    limit = fastapi_overflow.stats().limit
    print(json.dumps({
        "first": first,
        "told": [[r.levelname, r.getMessage()] for r in records],
        "on": [fastapi_overflow.patched(), hops, limit],
    }))

anyio.run(main)
"""

SETTINGS = {
    "FASTAPI_OVERFLOW_DISABLE": "1",
    "FASTAPI_OVERFLOW_LIMIT": "7",
    "FASTAPI_OVERFLOW_RESERVE": "2",
    "FASTAPI_OVERFLOW_STALL_THREADS": "3",
    "FASTAPI_OVERFLOW_STALL_SECONDS": "0.5",
    "FASTAPI_OVERFLOW_OTEL": "1",
}


class TestTooLate:
    @pytest.mark.parametrize("name", SETTINGS)
    def test_is_told_once(self, name):
        """A variable set after Starlette was imported is warned of, once, by the first request."""
        found = run_child(LATE, name, SETTINGS[name])
        assert found["first"] == 1, found
        ((level, text),) = found["told"]
        assert level == "WARNING"
        assert name in text
        assert "too late" in text

    def test_changed(self):
        """So is one that had another value when Starlette was imported."""
        found = run_child(LATE, "FASTAPI_OVERFLOW_LIMIT", "7", env={"FASTAPI_OVERFLOW_LIMIT": "5"})
        ((level, text),) = found["told"]
        assert (level, "FASTAPI_OVERFLOW_LIMIT" in text, "too late" in text) == (
            "WARNING",
            True,
            True,
        )

    @pytest.mark.parametrize("name", SETTINGS)
    def test_changes_nothing(self, name):
        """What is too late changes nothing: the app is protected as before."""
        assert run_child(LATE, name, SETTINGS[name])["on"] == [True, 4, 11]

    def test_in_time_says_nothing(self):
        """Of what was set in time nothing is said."""
        assert run_child(LATE, "X", "1", env={"FASTAPI_OVERFLOW_LIMIT": "5"})["told"] == []


APP = """
import fastapi_overflow
from fastapi import FastAPI

app = FastAPI()


@app.get("/hop")
def hop():
    return 1


@app.get("/")
async def state():
    return {"patched": fastapi_overflow.patched(), "stats": fastapi_overflow.stats().as_dict()}
"""


@pytest.fixture
def served(tmp_path):
    """Serve an app by uvicorn with an environment file; return what it says of the package."""
    (tmp_path / "late_app.py").write_text(APP)

    def serve(variables: str) -> dict:
        (tmp_path / "settings").write_text(variables)
        command = ("uvicorn", "--port", "0", "--env-file", "settings", "late_app:app")

        with started(sys.executable, "-m", *command, cwd=tmp_path) as server:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"http://127\.0\.0\.1:\d+", tail(server.output))):
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"uvicorn did not start:\n{tail(server.output)}")
                time.sleep(0.05)
            for path in ("/hop", "/"):
                with urllib.request.urlopen(found[0] + path, timeout=30) as answer:
                    body = json.loads(answer.read())
            return body

    return serve


class TestUvicorn:
    def test_env_file_disables(self, served):
        """FASTAPI_OVERFLOW_DISABLE in the file of `uvicorn --env-file` leaves the app as stock."""
        found = served("FASTAPI_OVERFLOW_DISABLE=1\n")
        assert not found["patched"]
        assert not any(found["stats"].values())

    def test_env_file_limit(self, served):
        """The other settings of such a file hold too."""
        found = served("FASTAPI_OVERFLOW_LIMIT=7\nFASTAPI_OVERFLOW_RESERVE=2\n")
        assert found["patched"]
        assert (found["stats"]["limit"], found["stats"]["reserve"]) == (7, 2)
