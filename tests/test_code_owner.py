"""Whose code a thread runs: told by its module, wherever the library is installed."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from importlib.metadata import distribution
from pathlib import Path

import pytest

from fastapi_overflow._requests import code_owner as _code_owner
from support import run_python

ROUTES = """
import sqlite3

from sqlalchemy.pool import QueuePool

pool = QueuePool(lambda: sqlite3.connect(":memory:", check_same_thread=False), 1, max_overflow=0)


def orders():
    pool.connect().close()
"""

PROGRAM = """
import asyncio, json, time
import anyio.to_thread
import sqlalchemy
from shop.routes import orders, pool
from fastapi_overflow._watching import stacks
from fastapi_overflow._watching.advice import is_pinned


async def main():
    if not stacks.can_be_read():
        print("{}")
        return
    loop = asyncio.get_running_loop()
    held = pool.connect()
    waits = asyncio.ensure_future(anyio.to_thread.run_sync(orders))
    deadline = time.monotonic() + 20
    while not any(map(stacks.waits_for_thread, stacks.hop_frames(loop))):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    frames = stacks.hop_frames(loop)
    groups = stacks.grouped(frames)
    print(json.dumps({
        "sqlalchemy": sqlalchemy.__file__,
        "blocked": [stacks.waits_for_thread(frame) for frame in frames],
        "groups": [[g.threads, g.where, g.called_from] for g in groups],
        "pinned": is_pinned(groups, 0),
    }))
    held.close()
    await waits


asyncio.run(main())
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A folder as `pip install --target .` leaves it: SQLAlchemy beside an app's own package."""
    folder = tmp_path_factory.mktemp("app") / "all"
    installed = distribution("sqlalchemy")
    names = {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}
    # Without what is compiled, which no zip can hold.
    leave_out = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "dialects", "testing")
    for name in names:
        source = Path(str(installed.locate_file(name)))
        shutil.copytree(source, folder / name, ignore=leave_out)
        for dialects in source.glob("dialects"):
            shutil.copytree(dialects, folder / name / "dialects", ignore=leave_out)
    (folder / "shop").mkdir()
    (folder / "shop" / "routes.py").write_text(ROUTES)
    return folder


@pytest.fixture(params=["folder", "zip"])
def path(request, target, tmp_path):
    """The same, on the path as a folder or as a zip."""
    if request.param == "folder":
        return target
    return Path(shutil.make_archive(str(tmp_path / "all"), "zip", target))


class TestLibrariesOutsideSitePackages:
    @pytest.fixture
    def seen(self, path):
        env = {"PYTHONPATH": str(path)}
        done = run_python(sys.executable, PROGRAM, timeout=60, env=env, check=True)
        found = json.loads(done.stdout)
        if not found:
            pytest.skip("stacks aren't read here")
        assert found["sqlalchemy"].startswith(str(path))
        return found

    def test_stacks(self, seen):
        """A thread that waits for a connection is seen as that, and told as ever."""
        assert seen["blocked"] == [True]
        line = 1 + ROUTES.splitlines().index("    pool.connect().close()")
        expected = [1, "sqlalchemy/pool/impl.py _do_get", f"shop/routes.py:{line} orders"]
        assert seen["groups"] == [expected]
        assert seen["pinned"] is True


def described(path: str, module: str) -> tuple[str, str]:
    return _code_owner.described(path, module)


class TestDescribed:
    def test_package(self):
        """A package's file is told as it is imported, whatever the environment's folder."""
        assert described(pytest.__file__, "pytest") == ("pytest/__init__.py", "package")

    def test_standard_library(self):
        """So is a file of the standard library."""
        assert described(threading.__file__, "threading") == ("threading.py", "stdlib")

    def test_standard_library_that_runs_as_a_program(self):
        """`python -m` gives it another name, which it isn't known by."""
        assert described(threading.__file__, "__main__") == ("threading.py", "stdlib")

    @pytest.mark.parametrize("folder", ["", "."])
    def test_app_in_the_current_folder(self, folder, monkeypatch, tmp_path):
        """A script of the app's is told from the folder that it was started in."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.path", [folder])
        assert described(f"{tmp_path}/shop/run.py", "__main__") == ("shop/run.py", "app")

    def test_app_by_its_module(self, tmp_path):
        """A module of the app's is told as it is imported, on whatever path it was found."""
        path = f"{tmp_path}/src/shop/routes.py"
        assert described(path, "shop.routes") == ("shop/routes.py", "app")
        assert described(path.replace("/", "\\"), "shop.routes") == ("shop/routes.py", "app")

    def test_current_folder_gone(self, monkeypatch, tmp_path):
        """Where the current folder has been deleted, paths are told in full."""
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        monkeypatch.setattr("sys.path", [""])
        assert described("/srv/shop/run.py", "__main__") == ("/srv/shop/run.py", "app")

    @pytest.mark.parametrize("module", ["sqlalchemy.engine.default", ""])
    def test_generated_code_is_not_the_app(self, module):
        """What a package has generated isn't told as code of the app."""
        assert described("<sqlalchemy generated _go()>", module)[1] == "stdlib"
        assert described("<string>", module)[1] == "stdlib"

    def test_program_on_the_command_line(self):
        """`python -c` and an interactive session are the app."""
        assert described("<string>", "__main__") == ("<string>", "app")

    def test_editable_installation_is_the_app(self, tmp_path, monkeypatch):
        """Metadata of a source folder (egg-info) is no sign of an installed package."""
        (tmp_path / "shop.egg-info").mkdir()
        (tmp_path / "shop.egg-info" / "PKG-INFO").write_text("Name: shop\n")
        (tmp_path / "shop.egg-info" / "SOURCES.txt").write_text("shop/routes.py\n")
        monkeypatch.setattr("sys.path", [str(tmp_path)])
        assert described(f"{tmp_path}/shop/routes.py", "shop.routes")[1] == "app"

    def test_broken_metadata(self, tmp_path, monkeypatch):
        """Metadata that can't be read names nothing."""
        (tmp_path / "odd-1.dist-info").mkdir()
        (tmp_path / "odd-1.dist-info" / "WHEEL").write_bytes(b"\xff")
        monkeypatch.setattr("sys.path", [str(tmp_path)])
        assert described(f"{tmp_path}/odd/a.py", "odd.a")[1] == "app"
