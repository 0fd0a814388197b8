"""What is in the distributions, what an installation puts where, and how Python may be started.

Called by pytest. Installations are real ones, into environments of their own.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import shutil
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from textwrap import dedent

import pytest

from environments import TIMEOUT, site_packages
from support import ROOT, install, make_venv, run

HOOKS = ("fastapi_overflow.pth", "fastapi_overflow.start")

PATCHED = "import fastapi, fastapi_overflow; print(fastapi_overflow.patched())"


@pytest.fixture(scope="module")
def editable_wheel(tmp_path_factory) -> Path:
    """The wheel that an editable installation of this checkout makes."""
    folder = tmp_path_factory.mktemp("editable")
    code = """
    import sys
    from build import ProjectBuilder
    from build.env import DefaultIsolatedEnv
    with DefaultIsolatedEnv() as isolated:
        builder = ProjectBuilder.from_isolated_env(isolated, ".")
        isolated.install(builder.build_system_requires)
        isolated.install(builder.get_requires_for_build("editable"))
        builder.build("editable", sys.argv[1])
    """
    run(sys.executable, "-c", dedent(code), folder, timeout=300, cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def sdist(wheel) -> Path:
    """The source distribution that the wheel was built from."""
    (built,) = wheel.parent.glob("*.tar.gz")
    return built


@pytest.fixture(params=["wheel", "editable_wheel"])
def archive(request):
    """Each kind of wheel, opened."""
    with zipfile.ZipFile(request.getfixturevalue(request.param)) as opened:
        yield opened


def dist_info(archive, name):
    (path,) = (n for n in archive.namelist() if n.endswith(f".dist-info/{name}"))
    return archive.read(path).decode()


class TestWheel:
    @pytest.mark.parametrize("name", HOOKS)
    def test_has_the_hook_at_its_root(self, archive, name):
        """Both kinds of wheel carry the .pth and the .start file at the root."""
        assert archive.read(name) == (ROOT / name).read_bytes()

    @pytest.mark.parametrize("name", HOOKS)
    def test_records_the_hook(self, archive, name):
        """RECORD lists them with their SHA-256, so that an uninstall removes them."""
        rows = {row[0]: row[1] for row in csv.reader(dist_info(archive, "RECORD").splitlines())}
        digest = hashlib.sha256(archive.read(name)).digest()
        assert rows[name] == f"sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')}"

    def test_requires_three_packages(self, archive):
        """Starlette, anyio and wrapt, each with a lower bound, are all that it needs at runtime."""
        found = Parser().parsestr(dist_info(archive, "METADATA")).get_all("Requires-Dist")
        runtime = [requirement for requirement in found if "extra ==" not in requirement]
        assert sorted(re.split(r"[^a-z]", r, maxsplit=1)[0] for r in runtime) == [
            "anyio",
            "starlette",
            "wrapt",
        ]
        assert all(re.fullmatch(r"[a-z]+>=[\d.]+", requirement) for requirement in runtime)

    def test_has_nothing_else_at_its_root(self, wheel):
        """The package, its metadata and the two files are all that an installation adds."""
        with zipfile.ZipFile(wheel) as archive:
            roots = {name.partition("/")[0] for name in archive.namelist()}
        version = wheel.name.split("-")[1]
        assert roots == {*HOOKS, "fastapi_overflow", f"fastapi_overflow-{version}.dist-info"}

    def test_is_typed(self, wheel):
        """The marker for type checkers is in it, and the stub of the public names."""
        with zipfile.ZipFile(wheel) as archive:
            assert {"fastapi_overflow/py.typed", "fastapi_overflow/__init__.pyi"} <= set(
                archive.namelist()
            )


class TestHookFiles:
    def test_pth_is_one_line(self):
        """The .pth file is one import line: `site` would take anything else for a path."""
        text = (ROOT / "fastapi_overflow.pth").read_text()
        assert text == "import fastapi_overflow._startup; fastapi_overflow._startup.arm()\n"

    def test_start_names_the_same_function(self):
        """The .start file names that function as an entry point."""
        assert (ROOT / "fastapi_overflow.start").read_text() == "fastapi_overflow._startup:arm\n"


class TestInstallation:
    def test_from_the_sdist_and_back(self, sdist, tmp_path):
        """From the sdist pip alone can build, the hook works, and an uninstall leaves nothing."""
        python = make_venv(tmp_path / "venv")
        before = _files(site_packages(python))
        pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(*pip, "install", "--no-deps", sdist, timeout=300, check=True)
        armed = "from fastapi_overflow import _startup; print(_startup.armed_by)"
        done = run(python, "-c", armed, timeout=TIMEOUT, check=True)
        assert done.stdout.strip() in (".pth", ".start")
        run(*pip, "uninstall", "--yes", "fastapi-overflow", timeout=TIMEOUT, check=True)
        assert _files(site_packages(python)) == before

    def test_editable(self, editable_wheel, dependencies, tmp_path):
        """An editable installation protects the app as well."""
        python = make_venv(tmp_path / "venv")
        install(python, "--no-deps", editable_wheel)
        (site_packages(python) / "zz_borrowed.pth").write_text(f"{dependencies}\n")
        assert run(python, "-c", PATCHED, timeout=TIMEOUT, check=True).stdout == "True\n"

    def test_sdist_has_what_a_build_needs(self, sdist):
        """The sdist carries hook, package, tests, licence and changelog."""
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        needed = {*HOOKS, "src/fastapi_overflow/py.typed", "tests/conftest.py", "pyproject.toml"}
        assert needed | {"LICENSE", "README.md", "CHANGELOG.md"} <= names

    def test_sdist_has_what_the_readme_links_to(self, sdist):
        """Whoever reads the README in the sdist finds the pages that it links to."""
        linked = re.findall(r"\]\(([^):#]+)[^):]*\)", (ROOT / "README.md").read_text())
        assert "tests/README.md" in linked
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        assert set(linked) - names == set()


def _files(folder):
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


class TestOptionsOfPython:
    @pytest.mark.parametrize(
        "options",
        [(), ("-I",), ("-E",), ("-s",), ("-B",), ("-O",), ("-W", "error"), ("-X", "dev")],
        ids=" ".join,
    )
    def test_hook_works(self, environment, options):
        """The hook works, and says nothing, however Python is started."""
        done = environment.run(PATCHED, options=options, check=True)
        assert (done.stdout, done.stderr) == ("True\n", "")

    def test_without_site(self, environment, dependencies):
        """With -S no hook runs; an explicit patch() protects."""
        paths = (
            f"import sys; sys.path += [{str(environment.site_packages)!r}, {str(dependencies)!r}]"
        )
        code = f"{paths}\nimport fastapi_overflow; print(fastapi_overflow.patched())\n{{}}{PATCHED}"
        for call, expected in (("", "False"), ("fastapi_overflow.patch(); ", "True")):
            done = environment.run(code.format(call), options=("-S",), check=True)
            assert done.stdout.split() == ["False", expected]


class TestWaysToRun:
    """Once Starlette is patched its modules are loaded through wrapt's loader: all must go on."""

    def test_module_of_starlette_as_main(self, environment):
        """`python -m` runs a module of Starlette's as the main program."""
        done = run(environment.python, "-m", "starlette.status", timeout=TIMEOUT)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_module_of_fastapi_as_main(self, environment):
        """`python -m fastapi` is FastAPI's own command line, and ends as it does without us."""
        command = (environment.python, "-m", "fastapi", "--version")
        done, stock = (
            run(*command, timeout=TIMEOUT, env={"FASTAPI_OVERFLOW_DISABLE": value})
            for value in (None, "1")
        )
        # FastAPI asks for `fastapi[standard]` where its command isn't installed.
        assert "fastapi" in stock.stdout + stock.stderr
        assert (done.returncode, done.stdout, done.stderr.splitlines()[-1:]) == (
            stock.returncode,
            stock.stdout,
            stock.stderr.splitlines()[-1:],
        )

    def test_specs_are_intact(self, environment):
        """Loader, origin, source and resources of the patched modules are available as ever."""
        code = """
        import importlib, importlib.resources, inspect, pkgutil
        for name in ("starlette", "starlette.concurrency", "starlette.applications"):
            module = importlib.import_module(name)
            assert module.__spec__.origin == module.__file__
            assert inspect.getsource(module)
            assert pkgutil.get_data(name, module.__file__.replace("\\\\", "/").rpartition("/")[2])
            assert module.__spec__.loader.get_source(name)
        import starlette
        assert importlib.resources.files(starlette).joinpath("py.typed").is_file()
        """
        environment.run(dedent(code), check=True)

    def test_app_in_a_zip_file(self, environment, tmp_path):
        """An app in a zip file (zipapp), Starlette installed, is patched."""
        app = tmp_path / "app.pyz"
        with zipfile.ZipFile(app, "w") as archive:
            archive.writestr("__main__.py", PATCHED)
        done = run(environment.python, app, timeout=TIMEOUT, check=True)
        assert done.stdout == "True\n"

    def test_starlette_in_a_zip_file(self, environment, dependencies, tmp_path):
        """A Starlette that is imported from within a zip file is patched as well."""
        folder = tmp_path / "content"
        shutil.copytree(dependencies / "starlette", folder / "starlette")
        (folder / "__main__.py").write_text(
            "import starlette.applications, fastapi_overflow\n"
            "assert '.pyz' in starlette.__file__\n"
            "print(fastapi_overflow.patched())\n"
        )
        app = shutil.make_archive(str(tmp_path / "app"), "zip", folder)
        app = Path(app).rename(tmp_path / "app.pyz")
        assert run(environment.python, app, timeout=TIMEOUT, check=True).stdout == "True\n"

    def test_package_in_a_zip_file(self, environment, dependencies, tmp_path):
        """With everything in one zip file, which has no .pth, patch() still protects."""
        folder = tmp_path / "content"
        shutil.copytree(environment.package, folder / "fastapi_overflow")
        libraries = ("anyio", "exceptiongroup", "idna", "sniffio", "starlette", "typing_", "wrapt")
        for entry in dependencies.iterdir():
            if entry.name.startswith(libraries):
                copy = shutil.copytree if entry.is_dir() else shutil.copy
                copy(entry, folder / entry.name)
        (folder / "__main__.py").write_text(
            "import fastapi_overflow\n"
            "assert '.pyz' in fastapi_overflow.__file__\n"
            "fastapi_overflow.patch()\n"
            "print(fastapi_overflow.patched())\n"
        )
        app = Path(shutil.make_archive(str(tmp_path / "app"), "zip", folder))
        app = app.rename(tmp_path / "app.pyz")
        done = run(environment.python, "-I", "-S", app, timeout=TIMEOUT, check=True)
        assert (done.stdout, done.stderr) == ("True\n", "")
