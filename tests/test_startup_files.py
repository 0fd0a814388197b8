"""The two files that the package puts where `site` looks, on each version of Python that is here.

Called by pytest. From Python 3.15 on (PEP 829) a .start file takes the place of the .pth file of
the same name; before, nothing knows it. Nothing here may need Starlette: one wheel does for all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from environments import Environment
from matrix import COUNTED, find_pythons

READ = "import counted, json; print(json.dumps(counted.read))"

ARMED = """
import sys
from fastapi_overflow import _startup
print(_startup.armed_by, sys.meta_path.count(_startup))
"""

OLD = ("3.10", "3.11", "3.12", "3.13", "3.14")
YOUNG = ("3.15",)


@pytest.fixture(scope="session")
def pythons() -> dict[str, str]:
    """The interpreters of this machine, by version."""
    found = find_pythons([Path(sys.executable)], [])
    return {version: python.command[0] for version, python in found.items()}


@pytest.fixture
def environment(request, pythons, wheel, tmp_path) -> Environment:
    """An environment of the version that the test asks for, with the wheel's files in it."""
    if request.param not in pythons:
        pytest.skip(f"no Python {request.param} on this machine")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    return Environment(tmp_path / "venv", wheel, nothing, pythons[request.param])


def read(environment: Environment) -> list[str]:
    """Return which of the two files a start runs, as often as it does."""
    environment.run(COUNTED, check=True)
    return json.loads(environment.run(READ, check=True).stdout)


@pytest.mark.parametrize("environment", YOUNG, indirect=True)
class TestFrom315:
    def test_start_file_once(self, environment):
        """The .start file is run once, and the line of the .pth file not as well."""
        assert read(environment) == [".start"]

    def test_arms_the_hook(self, environment):
        """The .start file arms the hook, with one finder, and nothing is printed."""
        done = environment.run(ARMED, check=True)
        assert (done.stdout, done.stderr) == (".start 1\n", "")

    def test_falls_back_to_the_line(self, environment):
        """Where the .start file is missing, the line of the .pth file arms the hook."""
        environment.start.unlink()
        assert environment.run(ARMED, check=True).stdout == ".pth 1\n"

    def test_needs_no_pth_file(self, environment):
        """The .start file is enough: Python 3.18 will ignore the line of the .pth file."""
        environment.pth.unlink()
        assert environment.run(ARMED, check=True).stdout == ".start 1\n"


@pytest.mark.parametrize("environment", OLD, indirect=True)
class TestBefore315:
    def test_only_the_line(self, environment):
        """The line of the .pth file is run, the .start file is not."""
        assert set(read(environment)) == {".pth"}

    def test_arms_the_hook(self, environment):
        """The line, though run twice, arms the hook with one finder, and nothing is printed."""
        done = environment.run(ARMED, check=True)
        assert (done.stdout, done.stderr) == (".pth 1\n", "")

    def test_start_file_alone_does_nothing(self, environment):
        """Without the .pth file nothing is armed: the .start file is not looked at."""
        environment.pth.unlink()
        assert environment.run(ARMED, check=True).stdout == "None 0\n"
