"""What must not break Python: wrong settings, and half-removed or damaged installations.

Every claim is about a new process in an environment of the kind.
"""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest

from environments import TIMEOUT
from support import run

WRONG = {"FASTAPI_OVERFLOW_LIMIT": "abc"}
SENTENCE = "FASTAPI_OVERFLOW_LIMIT must be a whole number of at least 3, got 'abc'"

# An app on bare Starlette that makes a hop; it prints what it answers.
APP = """
import anyio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("fine"))])

async def main():
    async def receive():
        return {"type": "http.request"}
    async def send(message):
        if message["type"] == "http.response.body":
            print(message["body"].decode())
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    await app(scope, receive, send)

anyio.run(main)
"""


class TestWrongSettings:
    def test_do_not_disturb_others(self, wheel_python):
        """A Python that doesn't import Starlette, pip for one, runs and says nothing."""
        done = run(wheel_python, "-m", "pip", "--version", timeout=TIMEOUT, env=WRONG)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize("name", ["starlette", "fastapi", "starlette.concurrency"])
    def test_stop_the_import(self, environment, name):
        """Importing Starlette or FastAPI fails, and the error names variable, value and rule."""
        done = environment.run(f"import {name}", env=WRONG)
        assert done.returncode == 1
        assert done.stderr.strip().endswith(f"SettingsError: {SENTENCE}")

    def test_stop_the_second_attempt_too(self, environment):
        """An app that catches the error and imports again gets the error again."""
        code = """
        for _ in range(3):
            try:
                import starlette
            except ValueError as exc:
                print(exc)
        """
        done = environment.run(dedent(code), env=WRONG, check=True)
        assert done.stdout.splitlines() == [SENTENCE] * 3

    def test_mended_in_time(self, environment):
        """Once the variable is corrected in the same process, the import works and is patched."""
        code = """
        import os
        try:
            import starlette
        except ValueError:
            os.environ["FASTAPI_OVERFLOW_LIMIT"] = "7"
        import starlette.applications, fastapi_overflow
        print(fastapi_overflow.patched())
        """
        assert environment.run(dedent(code), env=WRONG, check=True).stdout == "True\n"

    def test_stop_a_server(self, wheel_python, tmp_path):
        """The server, here uvicorn, prints the error and exits with a code other than 0."""
        (tmp_path / "app.py").write_text("from fastapi import FastAPI\napp = FastAPI()\n")
        serve = (wheel_python, "-m", "uvicorn", "app:app", "--port", "0")
        done = run(*serve, timeout=TIMEOUT, env=WRONG, cwd=tmp_path)
        assert done.returncode != 0
        assert SENTENCE in done.stderr

    def test_do_not_matter_when_disabled(self, environment):
        """FASTAPI_OVERFLOW_DISABLE is checked first: the app starts, stock."""
        done = environment.run(APP, env={**WRONG, "FASTAPI_OVERFLOW_DISABLE": "1"}, check=True)
        assert (done.stdout, done.stderr) == ("fine\n", "")


def damage(environment, kind):
    """Damage an environment."""
    package = environment.package
    if kind == "package gone":
        environment.remove(*(file.name for file in package.iterdir()))
    elif kind == "__init__ only":
        environment.remove(*(f.name for f in package.iterdir() if f.name != "__init__.py"))
    elif kind == "__init__ gone":
        environment.remove("__init__.py")
    elif kind in ROOMS:
        environment.remove(kind.partition(" ")[0])
    elif kind == "_patching damaged":
        (package / "_patching" / "__init__.py").write_text("def broken(:\n")
    elif kind == "wrapt broken":
        (environment.site_packages / "wrapt").mkdir()
        (environment.site_packages / "wrapt" / "__init__.py").write_text("raise OSError('broken')")
    elif kind == "wrapt too old":
        (environment.site_packages / "wrapt.py").write_text("FunctionWrapper = object")
    elif kind == "old __init__":
        (package / "__init__.py").write_text("from ._gone import patch\n")
    elif kind == "old __init__ with its names":
        (package / "__init__.py").write_text("def patch(): ...\n__version__ = '0.1.0'\n")
    elif kind == "line of another version":
        environment.pth.write_text("import fastapi_overflow._gone; fastapi_overflow._gone.go()\n")
        environment.start.write_text("fastapi_overflow._gone:go\n")
    else:
        raise AssertionError(kind)


# To print that a module of a package is missing, Python 3.15 imports the package once more, and
# does not survive that this fails too while `site` runs; any package's .pth or .start file will do.
OLD_INIT = pytest.param(
    "old __init__",
    marks=pytest.mark.xfail(sys.version_info >= (3, 15), reason="Python's own fault", strict=True),
)

# `site` itself tells of these, at each start and each time it runs the line; it goes on.
TOLD_BY_SITE = ["package gone", "__init__ only", OLD_INIT, "line of another version"]

# Nobody notices before Starlette is imported; then a line says that the app is unprotected.
ROOMS = ["_patching gone", "_requests gone", "_threads gone"]
TOLD_BY_US = [
    "__init__ gone",
    *ROOMS,
    "_patching damaged",
    "wrapt broken",
    "wrapt too old",
]

HARMLESS = ["old __init__ with its names"]


class TestLeftovers:
    @pytest.mark.parametrize("kind", [*TOLD_BY_SITE, *TOLD_BY_US, *HARMLESS])
    def test_python_starts_and_the_app_runs(self, own_environment, kind):
        """Whatever is left of the package, Python starts and an app answers."""
        damage(own_environment, kind)
        assert own_environment.run("print('started')", check=True).stdout == "started\n"
        assert own_environment.run(APP, check=True).stdout == "fine\n"

    @pytest.mark.parametrize("kind", TOLD_BY_US)
    def test_one_line_says_that_the_app_is_unprotected(self, own_environment, kind):
        """A start says nothing; the import of Starlette says in one line what to do."""
        damage(own_environment, kind)
        assert own_environment.run("pass", check=True).stderr == ""
        (line,) = own_environment.run(APP, check=True).stderr.splitlines()
        assert line.startswith("fastapi-overflow is off")
        assert "unprotected" in line

    @pytest.mark.parametrize("kind", TOLD_BY_SITE)
    def test_nothing_but_what_site_says(self, own_environment, kind):
        """With the line left and no code for it, `site` names the file; nobody says more."""
        damage(own_environment, kind)
        at_start = own_environment.run("pass", check=True).stderr
        assert own_environment.hook.name in at_start
        assert own_environment.run(APP, check=True).stderr == at_start

    @pytest.mark.parametrize("kind", HARMLESS)
    def test_nothing_is_said(self, own_environment, kind):
        """Where the rest of the package works without it, nothing is said."""
        damage(own_environment, kind)
        assert own_environment.run(APP, check=True).stderr == ""

    def test_removed_files_leave_no_trace(self, own_environment):
        """With all its files gone, Python starts as if the package had never been there."""
        damage(own_environment, "package gone")
        own_environment.pth.unlink()
        own_environment.start.unlink()
        done = own_environment.run(APP, check=True)
        assert (done.stdout, done.stderr) == ("fine\n", "")
