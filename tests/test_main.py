"""The command line itself: what it loads, which subcommand it runs, what it says to wrong usage."""

from __future__ import annotations

import json
import os
import sys

import pytest

from support import run, run_python

HEAVY = """
import sys
import fastapi_overflow.__main__
names = {"anyio", "asyncio", "fastapi", "psutil", "rich", "sqlalchemy", "starlette", "wrapt"}
print(sorted(names.intersection(sys.modules)))
"""


def command(python, *words, **options):
    return run(python, "-m", "fastapi_overflow", *words, timeout=60, **options)


class TestMain:
    def test_importing_it_loads_nothing_heavy(self, wheel_python):
        """Importing the command line loads neither Starlette nor anything else that is heavy."""
        assert run_python(wheel_python, HEAVY, timeout=60, check=True).stdout == "[]\n"

    @pytest.mark.parametrize("words", [(), ("doctor",)], ids=["nothing", "doctor"])
    def test_doctor_is_the_default(self, wheel_python, words):
        """Without a subcommand `doctor` runs."""
        assert "an app in this environment is protected" in command(wheel_python, *words).stdout

    def test_doctor_is_the_default_with_options_too(self, wheel_python):
        """`--json` without a subcommand is doctor's."""
        assert json.loads(command(wheel_python, "--json").stdout)["protected"] is True

    def test_there_is_a_script(self, wheel_python):
        """`fastapi-overflow` is the same command."""
        script = next(wheel_python.parent.glob("fastapi-overflow*"))
        as_module = command(wheel_python, "doctor")
        assert run(script, "doctor", timeout=60).stdout == as_module.stdout

    def test_version(self, wheel_python):
        """`--version` prints the version that is installed."""
        code = "import importlib.metadata as m; print(m.version('fastapi-overflow'))"
        installed = run_python(wheel_python, code, timeout=60, check=True).stdout
        assert command(wheel_python, "--version").stdout == f"fastapi-overflow {installed}"

    @pytest.mark.parametrize("word", ["--help", "-h"])
    def test_help_names_the_subcommands(self, wheel_python, word):
        """`--help` lists the subcommands and exits with 0."""
        shown = command(wheel_python, word)
        assert shown.returncode == 0
        assert "doctor" in shown.stdout
        assert "demo" in shown.stdout
        assert "run a command protected" in shown.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE")
class TestNobodyReads:
    @pytest.mark.parametrize(
        ("word", "unbuffered"), [("doctor", None), ("doctor", "1"), ("--help", None)]
    )
    def test_ends_quietly(self, wheel_python, word, unbuffered):
        """If its reader has gone (`doctor | head -1`), it ends without a traceback."""
        read, write = os.pipe()
        os.close(read)
        try:
            env = {"PYTHONUNBUFFERED": unbuffered}
            done = command(wheel_python, word, env=env, stdout=write)
        finally:
            os.close(write)
        assert done.stderr == ""
        assert done.returncode == 141

    def test_closed(self, wheel_python):
        """If stdout is closed (`doctor >&-`), its exit code is as ever."""
        script = '"$1" -m fastapi_overflow doctor >&-'
        done = run("sh", "-c", script, "sh", wheel_python, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")

    def test_other_pipes_are_told(self, wheel_python):
        """It isn't quiet about another pipe that breaks."""
        code = (
            "import fastapi_overflow.__main__ as m, fastapi_overflow._cli.doctor as d\n"
            "def run(**_): raise BrokenPipeError('elsewhere')\n"
            "d.run = run\n"
            "m.main(['doctor'])"
        )
        done = run_python(wheel_python, code, timeout=60)
        assert "BrokenPipeError: elsewhere" in done.stderr


class TestWrongUsage:
    @pytest.mark.parametrize(
        "words",
        [
            ("nonsense",),
            ("doctor", "--nonsense"),
            ("--nonsense",),
            ("demo", "more"),
            ("demo", "--requests", "0"),
            ("demo", "--requests", "10001"),
            ("demo", "--requests", "many"),
            ("demo", "--pool-size", "0"),
        ],
        ids=" ".join,
    )
    def test_ends_with_2(self, wheel_python, words):
        """Wrong usage ends with exit code 2, says so on stderr and prints nothing else."""
        shown = command(wheel_python, *words)
        assert shown.returncode == 2
        assert "error:" in shown.stderr
        assert shown.stdout == ""

    def test_names_option_value_and_rule(self, wheel_python):
        """The error names the option, the value and the rule."""
        message = command(wheel_python, "demo", "--requests", "0").stderr
        rule = "argument --requests: must be a whole number from 1 to 10000, got '0'"
        assert rule in message
