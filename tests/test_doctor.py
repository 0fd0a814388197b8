"""`doctor`, each time in an environment of the kind that it has to judge.

Every environment is a real one: the built wheel installed, unpacked elsewhere, or damaged.
"""

from __future__ import annotations

import json
import shutil
import stat
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastapi_overflow._cli.doctor import leftovers as _leftovers
from fastapi_overflow._cli.doctor import problems as _problems
from support import install, make_venv, run, run_python

SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"
OUT_OF_REACH = 300 * "a"  # too long for a name: an error even where root may look into everything
SETTINGS = (
    "limit",
    "reserve",
    "stall_threads",
    "stall_seconds",
    "max_wait",
    "connections",
    "otel",
)


def doctor(python, *words, options=(), **more):
    """Run `doctor` and return it with what its JSON says."""
    command = (python, *options, "-m", "fastapi_overflow", "doctor", "--json", *words)
    done = run(*command, timeout=60, **more)
    assert done.stdout, done.stderr
    done.report = json.loads(done.stdout)
    return done


def text(python, **more):
    return run(python, "-m", "fastapi_overflow", "doctor", timeout=60, **more).stdout


def site_packages(python) -> Path:
    return Path(run_python(python, SITE_PACKAGES, timeout=60, check=True).stdout.strip())


def only_problem(done):
    """Return the one problem and its remedy; the exit code and the verdict must agree with it."""
    assert done.returncode == 1
    assert done.report["protected"] is False
    (found,) = done.report["problems"]
    return found["problem"], found["remedy"]


def states(done):
    return {point["name"]: point["state"] for point in done.report["patch_points"]}


@pytest.fixture(scope="module")
def bare_python(wheel, tmp_path_factory):
    """A Python with the built wheel and nothing else: no FastAPI, no extras."""
    python = make_venv(tmp_path_factory.mktemp("bare") / "venv")
    install(python, wheel)
    return python


@pytest.fixture(scope="module")
def elsewhere(wheel, bare_python, tmp_path_factory):
    """A Python without the package, and a PYTHONPATH on which it is, as `pip install --target`
    leaves it: `.pth` and all."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "target")
    assert (folder / "target" / "fastapi_overflow.pth").exists()
    python = make_venv(folder / "venv")
    return python, f"{folder / 'target'}:{site_packages(bare_python)}"


@pytest.fixture
def customize(tmp_path):
    """Write a sitecustomize.py: code that runs when Python starts, after the hook."""

    def write(code, *more_folders):
        (tmp_path / "sitecustomize.py").write_text(code)
        return {"PYTHONPATH": ":".join([str(tmp_path), *more_folders])}

    return write


class TestProtected:
    def test_ends_with_0(self, wheel_python):
        """Where the wheel is installed, an app is protected: exit code 0."""
        done = doctor(wheel_python)
        assert done.returncode == 0
        assert done.report["protected"] is True
        assert done.report["problems"] == []

    def test_prints_nothing_on_stderr(self, wheel_python):
        """All that it says goes to stdout."""
        assert doctor(wheel_python).stderr == ""

    def test_says_what_has_armed_the_hook(self, wheel_python):
        """It names the kind of file that armed the hook, and the file."""
        report = doctor(wheel_python).report
        kind = ".start" if sys.version_info >= (3, 15) else ".pth"
        assert report["armed_by"] == kind
        assert report["hook_file"] == str(site_packages(wheel_python) / f"fastapi_overflow{kind}")

    def test_every_point_is_in_place(self, wheel_python):
        """Each place that the package patches is listed, and in place."""
        assert states(doctor(wheel_python)) == {
            "anyio.to_thread.current_default_thread_limiter": "in place",
            "anyio.to_thread.run_sync": "in place",
            "starlette.concurrency.run_in_threadpool": "in place",
            "starlette.concurrency.iterate_in_threadpool": "in place",
            "starlette.applications.Starlette.__call__": "in place",
            "starlette.routing.Route.handle": "in place",
            "starlette.routing.WebSocketRoute.handle": "in place",
            "starlette.background.BackgroundTask.__call__": "in place",
            "fastapi.routing.APIRoute.handle": "in place",
            "fastapi.concurrency.run_in_threadpool": "in place",
            "fastapi.concurrency.iterate_in_threadpool": "in place",
        }

    def test_without_fastapi_its_points_are_not_needed(self, bare_python):
        """With Starlette alone an app is protected; FastAPI's points aren't needed."""
        done = doctor(bare_python)
        assert done.returncode == 0
        found = states(done)
        assert [s for n, s in found.items() if n.startswith("fastapi.")] == ["not needed"] * 3
        assert {s for n, s in found.items() if not n.startswith("fastapi.")} == {"in place"}

    def test_versions(self, wheel_python):
        """The versions are those installed."""
        code = "import importlib.metadata as m; print(m.version('starlette'))"
        installed = run_python(wheel_python, code, timeout=60, check=True).stdout.strip()
        assert doctor(wheel_python).report["versions"]["starlette"] == installed

    def test_what_is_not_installed_has_no_version(self, bare_python):
        """A package that isn't installed is listed with null."""
        assert doctor(bare_python).report["versions"]["fastapi"] is None

    def test_says_what_it_governs_and_what_not(self, wheel_python):
        """It names the thread pools that stay as they are: asyncio's, and trio's own."""
        report = doctor(wheel_python).report
        assert any("anyio's default" in pool for pool in report["governs"])
        assert any("asyncio.to_thread" in pool for pool in report["governs_not"])
        assert any("trio.to_thread" in pool for pool in report["governs_not"])

    def test_json_keys(self, wheel_python):
        """The keys that programs rely on are all there, and no others."""
        assert set(doctor(wheel_python).report) == {
            "protected",
            "armed_by",
            "hook_file",
            "package",
            "versions",
            "patch_points",
            "settings",
            "unknown_variables",
            "governs",
            "governs_not",
            "problems",
            "warnings",
        }

    def test_an_explicit_patch_protects_too(self, elsewhere, customize):
        """If start-up code calls patch() itself, that protects the app, and doctor says so."""
        python, path = elsewhere
        done = doctor(python, env=customize("import fastapi_overflow as f; f.patch()", path))
        assert (done.returncode, done.report["armed_by"]) == (0, "patch()")


class TestNotArmed:
    def test_disabled(self, wheel_python):
        """FASTAPI_OVERFLOW_DISABLE=1: not protected, and the remedy is to unset it."""
        done = doctor(wheel_python, env={"FASTAPI_OVERFLOW_DISABLE": "1"})
        problem, remedy = only_problem(done)
        assert problem == "FASTAPI_OVERFLOW_DISABLE is set, to '1'"
        assert "unset it" in remedy
        assert set(states(done).values()) == {"not in place"}

    def test_without_site(self, wheel_python):
        """`python -S` runs no .pth: not protected, and the remedy is to do without -S."""
        done = doctor(
            wheel_python, options=("-S",), env={"PYTHONPATH": str(site_packages(wheel_python))}
        )
        problem, remedy = only_problem(done)
        assert "option -S" in problem
        assert "without -S" in remedy
        assert "fastapi_overflow.patch()" in remedy

    def test_installed_with_target(self, elsewhere):
        """`pip install --target`, on PYTHONPATH: not protected although the .pth is there."""
        python, path = elsewhere
        problem, remedy = only_problem(doctor(python, env={"PYTHONPATH": path}))
        assert f"the package comes from {path.partition(':')[0]}, which is not a site" in problem
        assert "pip install fastapi-overflow" in remedy
        assert "fastapi_overflow.patch()" in remedy

    def test_hook_file_missing(self, bare_python):
        """The .pth was deleted: not protected, and the remedy restores it."""
        with damaged(bare_python, None):
            problem, remedy = only_problem(doctor(bare_python))
        assert "fastapi_overflow.pth is missing from" in problem
        assert "--force-reinstall" in remedy

    def test_hook_file_emptied(self, bare_python):
        """The .pth is there but does nothing: not protected, and the remedy restores it."""
        with damaged(bare_python, "# nothing\n"):
            problem, remedy = only_problem(doctor(bare_python))
        assert "did not arm the hook" in problem
        assert "--force-reinstall" in remedy

    @pytest.mark.parametrize(
        "found",
        [
            SimpleNamespace(st_flags=stat.UF_HIDDEN),
            SimpleNamespace(st_file_attributes=stat.FILE_ATTRIBUTE_HIDDEN),
        ],
        ids=["macOS", "Windows"],
    )
    def test_hook_file_hidden(self, monkeypatch, found):
        """A hidden .pth is left out by Python on macOS and Windows: the remedy unhides it."""

        class Hidden:
            def lstat(self):
                return found

            def __str__(self):
                return "/env/fastapi_overflow.pth"

        monkeypatch.setattr(_problems, "hook_files", lambda: [Hidden()])
        told = _problems.why_not_armed(Path("/env/fastapi_overflow"))
        assert "fastapi_overflow.pth is hidden" in told.problem
        assert "hidden '/env/fastapi_overflow.pth'" in told.remedy or "attrib -h" in told.remedy

    def test_hook_file_of_python_3_18(self, monkeypatch, tmp_path):
        """From Python 3.18 on (PEP 829) the .pth does nothing: it's the .start that is missing."""
        (tmp_path / "fastapi_overflow.pth").touch()
        monkeypatch.setattr(_problems, "site_directories", lambda: [tmp_path])
        monkeypatch.setattr(_problems, "sys", python_of(3, 18))
        told = _problems.why_not_armed(tmp_path / "fastapi_overflow")
        assert "fastapi_overflow.start is missing from" in told.problem

    def test_files_not_allowed(self, bare_python):
        """Where a policy has deleted the .pth, the other remedy is `run`."""
        with damaged(bare_python, None):
            _, remedy = only_problem(doctor(bare_python))
        assert "python -m fastapi_overflow run COMMAND" in remedy

    def test_target_remedy(self, elsewhere):
        """With `pip install --target` the first remedy is `run`, which needs nothing installed."""
        python, path = elsewhere
        _, remedy = only_problem(doctor(python, env={"PYTHONPATH": path}))
        assert remedy.startswith("start it by: python -m fastapi_overflow run COMMAND")

    def test_lambda(self, elsewhere):
        """In a layer of AWS Lambda: the remedy is what can be done there."""
        python, path = elsewhere
        env = {"PYTHONPATH": path, "AWS_LAMBDA_FUNCTION_NAME": "items"}
        problem, remedy = only_problem(doctor(python, env=env))
        assert problem.startswith("on AWS Lambda the package comes from")
        assert "fastapi_overflow.patch()" in remedy
        assert "AWS_LAMBDA_EXEC_WRAPPER" in remedy

    def test_archive(self, elsewhere, wheel):
        """In a zip file: not protected, and the file is named."""
        python, path = elsewhere
        libraries = path.partition(":")[2]
        done = doctor(python, env={"PYTHONPATH": f"{wheel}:{libraries}"})
        problem, remedy = only_problem(done)
        assert problem.startswith(f"the package comes from the archive {wheel}, ")
        assert "python -m fastapi_overflow run COMMAND" in remedy


class TestRun:
    @pytest.fixture(scope="class")
    @classmethod
    def python(cls, bare_python):
        """A Python without the start-up files."""
        with damaged(bare_python, None):
            yield bare_python

    @pytest.fixture
    def folder(self, python):
        """The folder that `run` puts on PYTHONPATH."""
        return site_packages(python) / "fastapi_overflow" / "_cli" / "run" / "first_on_path"

    def test_protects(self, python):
        """What `run` starts is protected, and doctor says by what."""
        words = (python, "-m", "fastapi_overflow", "run", python, "-m", "fastapi_overflow")
        done = run(*words, timeout=60)
        assert done.returncode == 0
        assert "hook      armed by fastapi-overflow run\n" in done.stdout

    def test_json(self, python, folder):
        """Its JSON tells `run` from the start-up files."""
        report = doctor(python, env={"PYTHONPATH": str(folder)}).report
        assert (report["armed_by"], report["protected"]) == ("run", True)

    @pytest.mark.parametrize("option", ["-I", "-E"])
    def test_out_of_reach(self, python, folder, option):
        """`run` doesn't reach a Python that ignores PYTHONPATH: the option is named."""
        done = doctor(python, options=(option,), env={"PYTHONPATH": str(folder)})
        problem, remedy = only_problem(done)
        assert "-I or -E" in problem
        assert "fastapi_overflow.patch()" in remedy

    def test_kept_out(self, python, folder, customize):
        """A `sitecustomize` that came first and imports no other is named, with what to do."""
        env = customize("", str(folder))
        problem, remedy = only_problem(doctor(python, env=env))
        assert problem.startswith(f"{env['PYTHONPATH'].partition(':')[0]}/sitecustomize.py came")
        assert "right before the app's" in remedy


class TestLeftovers:
    def test_none(self, wheel_python):
        """Where all is in order, there is no warning."""
        assert doctor(wheel_python).report["warnings"] == []

    def test_second_copy(self, bare_python, tmp_path):
        """A second copy on the path is named, wherever the first one is; the app is protected."""
        installed = site_packages(bare_python) / "fastapi_overflow"
        shutil.copytree(installed, tmp_path / "fastapi_overflow")
        done = doctor(bare_python, env={"PYTHONPATH": str(tmp_path)})
        (found,) = done.report["warnings"]
        assert found["problem"].startswith(f"{installed}/__init__.py is a second copy")
        assert done.returncode == 0

    def test_folder_out_of_reach(self, wheel_python, tmp_path):
        """A folder on the path that can't be looked into, as another user's, stops nothing."""
        done = doctor(wheel_python, env={"PYTHONPATH": str(tmp_path / OUT_OF_REACH)})
        assert done.returncode == 0
        assert done.report["warnings"] == []

    def test_site_directory_out_of_reach(self, monkeypatch, tmp_path):
        """Nor does a site directory, as below another user's home."""
        for module in (_leftovers, _problems):
            monkeypatch.setattr(module, "site_directories", lambda: [tmp_path / OUT_OF_REACH])
        assert _problems.hook_files() == []
        assert _leftovers.leftovers(Path(_leftovers.__file__).parents[2], None) == []

    def test_module_of_0_1_0(self, bare_python):
        """The module that was version 0.1.0 is named, if it was left beside the package."""
        old = site_packages(bare_python) / "fastapi_overflow.py"
        old.touch()
        try:
            (found,) = doctor(bare_python).report["warnings"]
        finally:
            old.unlink()
        assert found["problem"].startswith(f"{old} is a second copy")

    def test_file_of_another_version(self, bare_python):
        """A start-up file that imports something else of the package is named."""
        old = site_packages(bare_python) / "overflow-old.pth"
        old.write_text("import sys; sys.modules.get('fastapi_overflow.gone')\n")
        try:
            (found,) = doctor(bare_python).report["warnings"]
        finally:
            old.unlink()
        assert found["problem"].startswith(f"{old} starts fastapi-overflow in another way")
        assert "delete it" in found["remedy"]

    @pytest.mark.parametrize(
        ("version", "armed_by", "warns"),
        [
            ((3, 14), ".pth", False),
            ((3, 15), ".pth", True),
            ((3, 17), ".pth", True),
            ((3, 15), ".start", False),
        ],
        ids=str,
    )
    def test_only_the_pth(self, monkeypatch, tmp_path, version, armed_by, warns):
        """Armed by .pth where .start should do it: Python 3.18 will leave the app unprotected."""
        monkeypatch.setattr(_leftovers, "site_directories", lambda: [])
        monkeypatch.setattr(_leftovers, "sys", python_of(*version))
        told = _leftovers.leftovers(tmp_path, armed_by)
        assert [found.problem.startswith("fastapi_overflow.start") for found in told] == [
            True
        ] * warns

    def test_text(self, bare_python):
        """A warning comes right after the verdict, with what to do."""
        old = site_packages(bare_python) / "fastapi_overflow.py"
        old.touch()
        try:
            shown = text(bare_python).splitlines()
        finally:
            old.unlink()
        assert shown[0].endswith("is protected")
        assert shown[2].startswith(f"warning   {old} is a second copy")
        assert shown[2].endswith(": delete or uninstall it")


class TestNotPatched:
    def test_unknown_shape(self, wheel_python, customize):
        """Where anyio isn't as expected, the point is named and nothing is patched."""
        env = customize("import anyio.to_thread as t; t.run_sync = lambda f, *a, limiter=None: 0")
        done = doctor(wheel_python, env=env)
        problem, remedy = only_problem(done)
        assert problem.startswith("anyio.to_thread.run_sync is not as expected")
        assert "newer version" in remedy
        assert set(states(done).values()) == {"not in place"}
        assert done.stderr == ""

    def test_replaced_by_others(self, bare_python, customize):
        """If something else stands in the place of a replacement, the point is named."""
        code = "import starlette.concurrency as c; c.run_in_threadpool = lambda *a: None"
        problem, _ = only_problem(doctor(bare_python, env=customize(code)))
        assert "starlette.concurrency.run_in_threadpool is not in place" in problem

    @pytest.mark.parametrize("name", ["fastapi", "starlette", "wrapt"])
    def test_name_conflict(self, wheel_python, tmp_path, name):
        """A file fastapi.py beside the app hides FastAPI: it is named, with what to do."""
        (tmp_path / f"{name}.py").touch()
        problem, remedy = only_problem(doctor(wheel_python, cwd=tmp_path))
        assert problem == f"{tmp_path / name}.py hides the installed package {name}"
        assert remedy == "rename it"

    def test_dependency_broken(self, bare_python):
        """A half-removed installation, wrapt gone: not protected, and what is missing is named."""
        wrapt = site_packages(bare_python) / "wrapt"
        wrapt.rename(wrapt.with_name("wrapt.gone"))
        try:
            problem, remedy = only_problem(doctor(bare_python))
        finally:
            wrapt.with_name("wrapt.gone").rename(wrapt)
        assert "wrapt" in problem
        assert "--force-reinstall" in remedy


class TestSettings:
    def test_defaults(self, wheel_python):
        """Each setting is listed with its value and that it is the default."""
        settings = doctor(wheel_python).report["settings"]
        assert set(settings) == set(SETTINGS)
        assert settings["limit"] == {"value": 40, "source": "default"}
        assert settings["stall_threads"] == {"value": 40, "source": "default: the limit"}

    def test_from_the_environment(self, wheel_python):
        """A setting of the environment is listed with the variable that it came from."""
        settings = doctor(wheel_python, env={"FASTAPI_OVERFLOW_LIMIT": "20"}).report["settings"]
        assert settings["limit"] == {"value": 20, "source": "FASTAPI_OVERFLOW_LIMIT"}
        assert settings["stall_threads"]["value"] == 20

    def test_a_wrong_value_ends_with_2(self, wheel_python):
        """A wrong value ends in exit code 2, and the message names variable, value and rule."""
        done = doctor(wheel_python, env={"FASTAPI_OVERFLOW_LIMIT": "abc"})
        assert done.returncode == 2
        (found,) = done.report["problems"]
        sentence = "FASTAPI_OVERFLOW_LIMIT must be a whole number of at least 3, got 'abc'"
        assert found["problem"] == sentence

    def test_unknown_variable(self, wheel_python):
        """A mistyped variable is listed with the nearest known one; the app stays protected."""
        done = doctor(wheel_python, env={"FASTAPI_OVERFLOW_LIMITS": "20"})
        assert done.returncode == 0
        nearest = {"FASTAPI_OVERFLOW_LIMITS": "FASTAPI_OVERFLOW_LIMIT"}
        assert done.report["unknown_variables"] == nearest
        assert done.stderr == ""


class TestText:
    def test_verdict_comes_first(self, wheel_python):
        """The first line says whether an app is protected."""
        first = text(wheel_python).splitlines()[0]
        assert first.endswith(": an app in this environment is protected")

    def test_problem_and_remedy_come_next(self, wheel_python):
        """What stops the protection, and the remedy, come right after the verdict."""
        lines = text(wheel_python, env={"FASTAPI_OVERFLOW_DISABLE": "yes"}).splitlines()
        assert lines[0].endswith(": an app in this environment is NOT PROTECTED")
        assert lines[2] == "problem   FASTAPI_OVERFLOW_DISABLE is set, to 'yes'"
        assert lines[3] == "remedy    unset it, or set it to 0"

    def test_unknown_variable(self, wheel_python):
        """A mistyped variable is a warning with a suggestion."""
        shown = text(wheel_python, env={"FASTAPI_OVERFLOW_RESERVED": "2"})
        hint = "FASTAPI_OVERFLOW_RESERVED is not a setting of fastapi-overflow, did you mean"
        assert f"warning   {hint} FASTAPI_OVERFLOW_RESERVE?" in shown


def python_of(*version):
    """Return what passes for `sys` of a Python of another version."""
    flags = SimpleNamespace(no_site=False, ignore_environment=False)
    return SimpleNamespace(version_info=version, flags=flags, path=[], modules={})


@contextmanager
def damaged(python, content):
    """Replace the text of the hook files, or take them away (None), for the time of the block."""
    files = [site_packages(python) / f"fastapi_overflow{kind}" for kind in (".pth", ".start")]
    before = {file: file.read_text() for file in files}
    try:
        for file in files:
            file.unlink() if content is None else file.write_text(content)
        yield
    finally:
        for file, original in before.items():
            file.write_text(original)
