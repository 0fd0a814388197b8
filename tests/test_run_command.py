"""`run`: a command protected without any file of ours in site-packages, and otherwise itself.

Run by pytest. Each claim is about processes of their own, in environments from which the start-up
files were deleted; the server is a real uvicorn.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import pytest

from environments import TIMEOUT, Environment
from fastapi_overflow._cli.run import FOLDER, run_as_child
from support import PATIENCE, run, run_python, started, tail, wait_until
from test_server import APP_DIR, REQUESTS, send

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and scripts of POSIX")

BY = "import starlette.applications, fastapi_overflow as f; print(f.patched_by())"
PATH = "import os; print(os.environ.get('PYTHONPATH'))"


def without_hook(environment: Environment) -> Environment:
    """Delete the start-up files, as some policies do."""
    for file in (environment.pth, environment.start):
        file.unlink()
    return environment


@pytest.fixture(scope="module")
def stripped(wheel, dependencies, tmp_path_factory) -> Environment:
    """An environment with the package and without its start-up files."""
    return without_hook(
        Environment(tmp_path_factory.mktemp("stripped") / "venv", wheel, dependencies)
    )


@pytest.fixture
def stranger(wheel, dependencies, tmp_path) -> Environment:
    """An environment with FastAPI and without the package."""
    stranger = without_hook(Environment(tmp_path / "stranger", wheel, dependencies))
    shutil.rmtree(stranger.package)
    return stranger


def command(python, *words):
    return (python, "-m", "fastapi_overflow", "run", *words)


def run_in(environment, *words, **more):
    """Run a command by `run`, its Python by default."""
    return run(*command(environment.python, *words), timeout=TIMEOUT, **more)


def lines(environment, code, **more):
    """Return what a Python that is started by `run` prints, and the one of `run` itself."""
    return run_in(environment, environment.python, "-c", code, check=True, **more).stdout.split()


def serve(environment, tmp_path):
    """Serve the tutorial's app by the script of uvicorn, as `run uvicorn app:app` does."""
    script = environment.python.parent / "uvicorn"
    script.write_text(f"#!{environment.python}\nfrom uvicorn.main import main\nmain()\n")
    script.chmod(0o755)
    return started(
        *command(environment.python, "uvicorn", "tutorial:app", "--app-dir", APP_DIR),
        *("--port", "0"),
        env={"DATABASE_URL": f"sqlite:///{tmp_path}/app.db"},
    )


def address(server):
    told = re.compile(r"running on (http://\S+)")
    return wait_until(lambda: told.search(tail(server.output)), "the start of uvicorn", server)[1]


class TestProtected:
    def test_without_it_nothing_is(self, stripped):
        """With the start-up files deleted, an app is unprotected: what `run` is for."""
        assert stripped.run(BY, check=True).stdout == "None\n"

    def test_command(self, stripped):
        """The command's app is protected, and patched_by() says by what."""
        assert lines(stripped, BY) == ["run"]

    def test_uvicorn(self, stripped, tmp_path):
        """`run uvicorn app:app` answers every one of 200 requests at once."""
        with serve(stripped, tmp_path) as server:
            assert send(address(server)) == {"200": REQUESTS}

    def test_children(self, stripped):
        """A Python that the command starts is protected."""
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BY!r}], check=True)"
        assert lines(stripped, code) == ["run"]

    def test_spawned(self, stripped):
        """A process of `multiprocessing`, as uvicorn's workers and its reloader are, is too."""
        by = (
            "[__import__('starlette.applications'), __import__('fastapi_overflow')][1].patched_by()"
        )
        pool = "multiprocessing.get_context('spawn').Pool(1)"
        code = f"import multiprocessing; print({pool}.apply(eval, [{by!r}]))"
        assert lines(stripped, code) == ["run"]

    def test_script(self, stripped, wheel_python):
        """`fastapi-overflow run` is the same command as `python -m fastapi_overflow run`."""
        script = wheel_python.parent / "fastapi-overflow"
        done = run(script, "run", stripped.python, "-c", PATH, timeout=TIMEOUT, check=True)
        assert done.stdout.strip().endswith("first_on_path")

    def test_hook_too(self, environment):
        """Where the start-up files are there too, they arm the hook, and nothing is done twice."""
        finders = "import sys; print(sum('_startup' in str(f) for f in sys.meta_path));"
        assert lines(environment, f"{finders}{BY}") == ["1", "hook"]

    def test_disabled(self, stripped):
        """With FASTAPI_OVERFLOW_DISABLE the command runs all the same, as without `run`."""
        found = lines(stripped, f"{PATH}; {BY}", env={"FASTAPI_OVERFLOW_DISABLE": "1"})
        assert found == ["None", "None"]


class TestCommandsOwn:
    def test_process(self, stripped):
        """The command has the process id of `run`: it has taken its place."""
        words = command(stripped.python, stripped.python, "-c", "import os; print(os.getpid())")
        with started(*words) as process:
            assert process.wait(PATIENCE) == 0
            assert tail(process.output) == f"{process.pid}\n"

    def test_sigterm(self, stripped):
        """SIGTERM reaches the command, whose exit code it then is."""
        code = (
            "import signal, sys\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
            "print('ready', flush=True)\n"
            "signal.sigwait([signal.SIGTERM])\n"
            "sys.exit(7)"
        )
        with started(*command(stripped.python, stripped.python, "-c", code)) as process:
            wait_until(lambda: "ready" in tail(process.output), "the command", process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 7

    def test_sigterm_ends_uvicorn(self, stripped, tmp_path):
        """Uvicorn shuts down on a SIGTERM as it does by itself."""
        with serve(stripped, tmp_path) as server:
            address(server)
            server.send_signal(signal.SIGTERM)
            server.wait(PATIENCE)
            assert "Finished server process" in tail(server.output)

    def test_exit_code(self, stripped):
        """The exit code is the command's."""
        assert run_in(stripped, "sh", "-c", "exit 3").returncode == 3

    def test_ended_by_a_signal(self, stripped):
        """A command that a signal ends is seen to have been ended by it."""
        assert run_in(stripped, "sh", "-c", "kill -KILL $$").returncode == -signal.SIGKILL

    @pytest.mark.parametrize("name", ["SIGPIPE", "SIGXFSZ"])
    def test_no_signal_is_ignored(self, stripped, name):
        """Signals that Python ignores are not ignored in the command."""
        done = run_in(stripped, "sh", "-c", f"kill -{name[3:]} $$; echo still here")
        assert (done.returncode, done.stdout) == (-getattr(signal, name), "")

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"], ids=["stdin", "stdout", "stderr"])
    def test_closed(self, stripped, closed):
        """It runs with stdin, stdout or stderr closed, as by itself."""
        script = f'"$1" -m fastapi_overflow run sh -c "exit 7" {closed}'
        done = run("sh", "-c", script, "sh", stripped.python, timeout=TIMEOUT)
        assert (done.returncode, done.stdout, done.stderr) == (7, "", "")

    def test_arguments(self, stripped):
        """All that comes after the command is the command's, options of ours and `--` as well."""
        code = "import json, sys; print(json.dumps(sys.argv[1:]))"
        words = ["--help", "--", "--json", "run", "", "a b"]
        done = run_in(stripped, stripped.python, "-c", code, *words, check=True)
        assert json.loads(done.stdout) == words

    def test_after_dashes(self, stripped, tmp_path):
        """A command whose name begins with a dash may come after `--`."""
        script = tmp_path / "-odd"
        script.write_text("#!/bin/sh\necho odd $0\n")
        script.chmod(0o755)
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        assert run_in(stripped, "--", "-odd", env=env, check=True).stdout.startswith("odd")

    @pytest.mark.parametrize("given", [None, "", "/a:/b", "/a::/b"])
    def test_pythonpath(self, stripped, given):
        """PYTHONPATH is as it was, but for one folder more at its beginning."""
        (found,) = lines(stripped, PATH, env={"PYTHONPATH": given})
        first, _, rest = found.partition(os.pathsep)
        assert first == str(stripped.package / "_cli" / "run" / "first_on_path")
        assert rest == (given or "")


CUSTOM = "import builtins; builtins.ran = getattr(builtins, 'ran', 0) + 1; mine = True"
RAN = "import builtins, sitecustomize; print(builtins.ran, sitecustomize.mine)"

# Launchers of others put a folder of their own first, as `run` does. What its `sitecustomize` does:
CHAINS = """
import os, sys
print("launched")
folder = os.path.dirname(__file__)
place = sys.path.index(folder)
del sys.path[place]
this = sys.modules.pop("sitecustomize")
try:
    import sitecustomize
except ImportError:
    sys.modules["sitecustomize"] = this
sys.path.insert(place, folder)
"""
TAKES_ITSELF_OFF = """
import os
print("launched")
entries = os.environ["PYTHONPATH"].split(os.pathsep)
os.environ["PYTHONPATH"] = os.pathsep.join(e for e in entries if e != os.path.dirname(__file__))
"""
ENTRY_POINTS = """
from importlib.metadata import entry_points
print("launched")
for entry_point in entry_points(group="opentelemetry_pre_instrument"):
    entry_point.load()()
"""


def customized(folder: Path, code: str) -> str:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return str(folder)


@pytest.fixture
def launcher(tmp_path):
    """Write a launcher and return the words that start a command by it."""

    def write(code):
        folder = customized(tmp_path / "launcher", code)
        path = f'PYTHONPATH="{folder}${{PYTHONPATH:+:$PYTHONPATH}}"'
        return "sh", "-c", f'{path} exec "$@"', "launcher"

    return write


class TestSitecustomize:
    def test_runs_once(self, stripped, tmp_path):
        """A `sitecustomize` that was there before runs, once, and is the module of that name."""
        env = {"PYTHONPATH": customized(tmp_path / "mine", CUSTOM)}
        assert lines(stripped, f"{RAN}; {BY}", env=env) == ["1", "True", "run"]

    def test_none(self, stripped):
        """Without one there is no such module, as without `run`."""
        code = "import sys, importlib.util as u; print('sitecustomize' in sys.modules)"
        assert lines(stripped, code) == ["False"]

    @pytest.mark.parametrize("code", ["1/0", "import nonsense", "raise SystemExit(4)"])
    def test_errors(self, stripped, tmp_path, code):
        """Its errors are what they are without `run`."""
        env = {"PYTHONPATH": customized(tmp_path / "mine", code)}
        plain = run_python(stripped.python, "print('on')", timeout=TIMEOUT, env=env)
        # Not in the Python of `run` itself.
        words = ("env", f"PYTHONPATH={FOLDER}:{env['PYTHONPATH']}", stripped.python)
        by_run = run(*words, "-c", "print('on')", timeout=TIMEOUT)
        assert (by_run.returncode, by_run.stdout) == (plain.returncode, plain.stdout)
        assert by_run.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1]

    def test_path_is_whole(self, stripped, tmp_path):
        """The path of the app is the one that PYTHONPATH says, in this order."""
        mine = customized(tmp_path / "mine", CUSTOM)
        found = lines(stripped, "import sys; print(*sys.path[1:3])", env={"PYTHONPATH": mine})
        assert found == [str(stripped.package / "_cli" / "run" / "first_on_path"), mine]

    def test_run_by_run(self, stripped):
        """`run` within `run` is the same as one."""
        inner = command(stripped.python, stripped.python, "-c", f"{PATH}; {BY}")
        path, by = run_in(stripped, *inner, check=True).stdout.split()
        assert (path.count("first_on_path"), by) == (1, "run")

    def test_needs_no_new_python(self):
        """A Python too old for the package can read it, and is left as it is."""
        source = Path(FOLDER, "sitecustomize.py").read_text()
        ast.parse(source, feature_version=(3, 4))


class TestOtherLaunchers:
    def test_around(self, stripped, launcher):
        """`LAUNCHER fastapi-overflow run COMMAND`: both do their work in the command."""
        words = (*launcher(CHAINS), *command(stripped.python, stripped.python, "-c", BY))
        done = run(*words, timeout=TIMEOUT, check=True)
        assert done.stdout.split() == ["launched", "launched", "run"]  # `run` is a Python too

    def test_inside(self, stripped, launcher):
        """`fastapi-overflow run LAUNCHER COMMAND`: both do their work in the command."""
        done = run_in(stripped, *launcher(CHAINS), stripped.python, "-c", BY, check=True)
        assert done.stdout.split() == ["launched", "run"]

    def test_around_and_off_the_path(self, stripped, launcher):
        """A launcher that has taken itself off PYTHONPATH, for `run`, isn't lost to the command."""
        code = launcher(TAKES_ITSELF_OFF)
        done = run(
            *code, *command(stripped.python, stripped.python, "-c", BY), timeout=TIMEOUT, check=True
        )
        assert done.stdout.split() == ["launched", "launched", "run"]

    def test_inside_and_imports_no_other(self, stripped, launcher):
        """OpenTelemetry's imports no other `sitecustomize`: an entry point of its arms ours."""
        done = run_in(stripped, *launcher(ENTRY_POINTS), stripped.python, "-c", BY, check=True)
        assert done.stdout.split() == ["launched", "arm()"]


class TestElsewhere:
    @pytest.fixture
    def target(self, wheel, dependencies, tmp_path):
        """A folder as `pip install --target` leaves it: all packages, their scripts in `bin`."""
        folder = tmp_path / "target"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        for entry in dependencies.iterdir():
            (folder / entry.name).symlink_to(entry)
        (folder / "bin").mkdir()
        script = folder / "bin" / "of-the-target"
        script.write_text(f"#!/bin/sh\nexec {sys._base_executable} -c '{BY}'\n")
        script.chmod(0o755)
        return folder

    def test_target(self, target):
        """What `pip install --target` has installed protects, though Python runs no .pth there."""
        python = sys._base_executable
        env = {"PYTHONPATH": str(target)}
        done = run(*command(python, python, "-c", BY), timeout=TIMEOUT, env=env, check=True)
        assert done.stdout == "run\n"

    def test_script_of_the_target(self, target):
        """Commands of such a folder are found, though they are not on PATH."""
        words = command(sys._base_executable, "of-the-target")
        done = run(*words, timeout=TIMEOUT, env={"PYTHONPATH": str(target)}, check=True)
        assert done.stdout == "run\n"

    def test_script_beside_python(self, stripped):
        """Commands of an environment that isn't activated are found as well."""
        script = stripped.python.parent / "beside-python"
        script.write_text(f"#!{stripped.python}\n{BY}\n")
        script.chmod(0o755)
        assert run_in(stripped, "beside-python", check=True).stdout == "run\n"

    def test_other_environment(self, stripped, stranger):
        """The app of an environment that has FastAPI, but not the package, is protected."""
        assert run_in(stripped, stranger.python, "-c", BY, check=True).stdout == "run\n"

    def test_other_environment_without_wrapt(self, target, stranger, tmp_path):
        """wrapt, which the app's environment may not have, is lent; nothing else is."""
        rest = tmp_path / "rest"
        rest.mkdir()
        for entry in target.iterdir():
            if not entry.name.startswith(("wrapt", "fastapi_overflow", "httpx")):
                (rest / entry.name).symlink_to(entry.resolve())
        (stranger.site_packages / "zz_borrowed.pth").write_text(f"{rest}\n")
        code = f"{BY}; import importlib.util as u; print(u.find_spec('httpx'))"
        env = {"PYTHONPATH": str(target / "fastapi_overflow/_cli/run/first_on_path")}
        done = stranger.run(code, env=env, check=True)
        assert done.stdout.split() == ["run", "None"]

    def test_archive(self, stripped, stranger, tmp_path):
        """A zip file on PYTHONPATH that has the package protects."""
        name = shutil.make_archive(
            str(tmp_path / "archive"), "zip", stripped.site_packages, "fastapi_overflow"
        )
        words = command(stranger.python, stranger.python, "-c", BY)
        done = run(*words, timeout=TIMEOUT, env={"PYTHONPATH": name}, check=True)
        assert done.stdout == "run\n"

    def test_folder_that_pythonpath_cannot_name(self, stripped, tmp_path):
        """From a folder with a colon in its name no PYTHONPATH leads: that is told."""
        shutil.copytree(stripped.package, tmp_path / "a:b" / "fastapi_overflow")
        code = (
            f"import sys; sys.path.insert(0, {str(tmp_path / 'a:b')!r})\n"
            "from fastapi_overflow._cli.run import run\n"
            "sys.exit(run(['echo', 'on']))"
        )
        done = run_python(sys._base_executable, code, timeout=TIMEOUT, check=True)
        assert done.stdout == "on\n"
        assert done.stderr.startswith("fastapi-overflow run: echo: runs unprotected: ")

    def test_damaged(self, stripped, stranger, tmp_path):
        """If the package is damaged, that is told in a line, and the command runs all the same."""
        copy = tmp_path / "copy" / "fastapi_overflow"
        shutil.copytree(stripped.package, copy)
        (copy / "_startup.py").write_text("1/0")
        env = {"PYTHONPATH": str(copy / "_cli" / "run" / "first_on_path")}
        done = stranger.run("import fastapi; print('on')", env=env, check=True)
        assert done.stdout == "on\n"
        (line,) = done.stderr.splitlines()
        assert line.startswith("fastapi-overflow is off, the app runs unprotected: ZeroDivision")


class TestUsage:
    @pytest.mark.parametrize("words", [(), ("--",), ("--nonsense",), ("--nonsense", "true")])
    def test_wrong(self, stripped, words):
        """Without a command, or with an option that isn't ours, it ends with 2 and runs nothing."""
        done = run_in(stripped, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "fastapi-overflow run: error:" in done.stderr or "--nonsense" in done.stderr

    def test_help(self, stripped):
        """`--help` says which Pythons it can't reach."""
        done = run_in(stripped, "--help", check=True)
        assert "-I, -E or -S" in done.stdout

    @pytest.mark.parametrize("name", ["no-such-command", "./no-such-command", ""])
    def test_not_found(self, stripped, name):
        """A command that isn't there ends with 127, as in a shell, and a line that names it."""
        done = run_in(stripped, name)
        assert (done.returncode, done.stdout) == (127, "")
        assert done.stderr == f"fastapi-overflow run: {name}: error: command not found\n"

    def test_nowhere_to_say_it(self, stripped):
        """With stderr closed nothing is said in its place on stdout, which is the command's."""
        script = '"$1" -m fastapi_overflow run no-such-command 2>&-'
        done = run("sh", "-c", script, "sh", stripped.python, timeout=TIMEOUT)
        assert (done.returncode, done.stdout) == (127, "")

    @pytest.mark.parametrize(
        ("content", "mode", "why"),
        [
            ("#!/bin/sh\n", 0o644, "can't be executed: Permission denied"),
            ("no program\n", 0o755, "can't be executed: Exec format error"),
            ("#!/no/such/python\n", 0o755, "what its first line names isn't there to run it"),
            (None, 0o755, "can't be executed: Permission denied"),
        ],
        ids=["no permission", "no program", "no interpreter", "folder"],
    )
    def test_cannot_be_executed(self, stripped, tmp_path, content, mode, why):
        """What is there but can't be executed ends with 126, as in a shell, and says why."""
        path = tmp_path / "command"
        if content is None:
            path.mkdir()
        else:
            path.write_text(content)
            path.chmod(mode)
        done = run_in(stripped, path)
        assert (done.returncode, done.stdout) == (126, "")
        assert done.stderr == f"fastapi-overflow run: {path}: error: {why}\n"


class TestAsChild:
    """What `run` does on Windows, where a process can't become another."""

    def test_exit_code(self):
        """The exit code of the child is passed on."""
        assert run_as_child([sys.executable, "-c", "raise SystemExit(5)"], os.environ) == 5

    def test_interrupted(self):
        """Ctrl-C, which the command gets too, is left to it: its exit code is waited for."""
        child = (
            "import signal, sys\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
            "print('ready', flush=True)\n"
            "signal.sigwait([signal.SIGINT])\n"
            "sys.exit(6)"
        )
        code = (
            "import os, sys\n"
            "from fastapi_overflow._cli.run import run_as_child\n"
            f"sys.exit(run_as_child([sys.executable, '-c', {child!r}], os.environ))"
        )
        with started(sys.executable, "-c", code) as process:
            wait_until(lambda: "ready" in tail(process.output), "the child", process)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(PATIENCE) == 6


class TestTold:
    def told(self, environment, before="", **more):
        code = (
            "import logging, sys; logging.basicConfig(level='INFO', stream=sys.stdout)\n"
            f"{before}\nimport starlette.applications"
        )
        (line,) = environment.run(code, check=True, **more).stdout.splitlines()
        return line.partition("protects")[0]

    def test_hook(self, environment):
        """The line of the log says that the start-up files protect the app."""
        assert "(hook)" in self.told(environment)

    def test_run(self, stripped):
        """It says so if `run` does."""
        path = {"PYTHONPATH": str(stripped.package / "_cli" / "run" / "first_on_path")}
        assert "(run)" in self.told(stripped, env=path)

    def test_patch(self, stripped):
        """It says so if a call of patch() does."""
        assert "(patch())" in self.told(stripped, "import fastapi_overflow as f; f.patch()")

    def test_patch_with_the_hook(self, environment):
        """A call that changes nothing, as the hook is there, isn't named."""
        assert "(hook)" in self.told(environment, "import fastapi_overflow as f; f.patch()")
