"""What is released: anybody can build it again, to the byte, and it is checked before.

Called by pytest. Nothing here waits for the clock: times and modes of the sources are set.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pytest

from support import ROOT, run

COMMITTED = 1_750_000_002  # SOURCE_DATE_EPOCH; a zip file tells even seconds only
TIMEOUT = 120

# It is for a whole process, so each build's sets its own.
BUILD_WITH_UMASK = """
import os, runpy, sys
os.umask(int(sys.argv.pop(1), 8))
runpy.run_module("build", run_name="__main__")
"""


def build(tree: Path, out: Path, *options: str, umask: str = "022", **env: str) -> dict[str, bytes]:
    """Return the files that are built from the sources in `tree`, by name."""
    command = (sys.executable, "-c", BUILD_WITH_UMASK, umask, "--no-isolation", "--outdir", out)
    env["SOURCE_DATE_EPOCH"] = str(COMMITTED)
    run(*command, *options, tree, timeout=TIMEOUT, env=env, check=True)
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the files of the first build are."""
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="module")
def built(folder) -> dict[str, bytes]:
    """The files that this checkout gives."""
    return build(ROOT, folder, TZ="UTC", PYTHONHASHSEED="1")


@pytest.fixture
def other_tree(built, folder, tmp_path) -> Path:
    """The same sources elsewhere: what is in the sdist, with other times and modes."""
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    for path in tree.rglob("*"):
        if path.is_file():
            path.chmod(0o660)
            os.utime(path, (1_600_000_000, 1_600_000_000))
    return tree


class TestTwoBuilds:
    def test_give_the_same_bytes(self, built, other_tree, tmp_path):
        """Folder, umask, time zone, hash seed, and times and modes of the sources don't show."""
        elsewhere = {"umask": "077", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}
        again = build(other_tree, tmp_path / "dist", **elsewhere)
        assert sorted(again) == sorted(built)
        assert [name for name in built if again[name] != built[name]] == []

    def test_of_the_wheel_alone(self, built, tmp_path):
        """The wheel is the same whether it is built from the sdist or from the checkout."""
        ((name, content),) = build(ROOT, tmp_path / "dist", "--wheel").items()
        assert content == built[name]


class TestTimes:
    def test_of_the_wheel_s_files(self, built, folder):
        """All files in the wheel are as old as the commit that SOURCE_DATE_EPOCH is of."""
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            found = {entry.date_time for entry in archive.infolist()}
        assert found == {datetime.fromtimestamp(COMMITTED, timezone.utc).timetuple()[:6]}

    def test_of_the_sdist_s_files(self, built, folder):
        """So are those in the sdist."""
        (sdist,) = folder.glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            assert {entry.mtime for entry in archive.getmembers()} == {COMMITTED}


class TestCheckBeforeRelease:
    """`.ci/built_files.py` looks at what `.ci/build` has built, and stops a release."""

    CHECK = ROOT / ".ci" / "built_files.py"

    def check(self, *arguments: str | Path) -> tuple[int, str]:
        done = run(sys.executable, self.CHECK, *arguments, timeout=TIMEOUT)
        return done.returncode, done.stderr

    def test_passes_what_is_as_it_should_be(self, built, folder):
        """A wheel and an sdist of the tag's version pass."""
        (wheel,) = folder.glob("*.whl")
        assert self.check(folder, wheel.name.split("-")[1]) == (0, "")

    def test_stops_another_version(self, built, folder):
        """A tag whose version isn't the one in the files is not released."""
        code, said = self.check(folder, "9.9.9")
        assert (code, said.count("is not of version 9.9.9")) == (1, 2)

    def test_stops_a_third_file(self, built, folder, tmp_path):
        """Nothing gets published beside the wheel and the sdist."""
        for name, content in {**built, "more-1.0.tar.gz": b""}.items():
            (tmp_path / name).write_bytes(content)
        code, said = self.check(tmp_path)
        assert (code, said.startswith("not one wheel and one sdist")) == (1, True)

    @pytest.mark.parametrize("hook", ["fastapi_overflow.pth", "fastapi_overflow.start"])
    def test_stops_a_wheel_without_its_hook(self, built, folder, tmp_path, hook):
        """A wheel that would protect nobody is not released."""
        for name, content in built.items():
            (tmp_path / name).write_bytes(content)
        (wheel,) = tmp_path.glob("*.whl")
        with zipfile.ZipFile(folder / wheel.name) as whole, zipfile.ZipFile(wheel, "w") as less:
            for entry in whole.infolist():
                if entry.filename != hook:
                    less.writestr(entry, whole.read(entry))
        assert self.check(tmp_path) == (1, f"{hook} is not at the root of the wheel\n")


class TestReadmeOnThePackageIndex:
    """`.ci/absolute_links.py`, called by `.ci/build` for a release, makes its links work there."""

    ADDRESS = "https://example.org/some/fastapi-overflow/blob/v1.2.3"

    def made(self, tmp_path: Path, address: str) -> tuple[int, str, str]:
        """Return exit code, last line of the errors, and the README that came of it."""
        copy = tmp_path / "README.md"
        shutil.copy(ROOT / "README.md", copy)
        script = ROOT / ".ci" / "absolute_links.py"
        done = run(sys.executable, script, copy, address, timeout=TIMEOUT)
        return done.returncode, "".join(done.stderr.splitlines()[-1:]), copy.read_text()

    def test_all_links_are_absolute(self, tmp_path):
        """Each relative link becomes one below the address of the tag; nothing else changes."""
        before = (ROOT / "README.md").read_text()
        code, said, after = self.made(tmp_path, self.ADDRESS)
        assert (code, said) == (0, "")
        links = re.findall(r"\]\((.*?)\)", after)
        assert f"{self.ADDRESS}/tests/README.md#what-is-patched" in links
        assert [link for link in links if not link.startswith("https://")] == []
        assert after.replace(f"]({self.ADDRESS}/", "](") == before

    def test_refuses_what_is_no_address(self, tmp_path):
        """A release with a wrong address is stopped, with the value and the rule."""
        code, said, after = self.made(tmp_path, "main")
        assert code == 1
        assert said == "ValueError: ADDRESS is 'main'; it must begin with https:// and a host"
        assert after == (ROOT / "README.md").read_text()

    @pytest.mark.parametrize("page", ["README.md", "tests/README.md", ".github/CONTRIBUTING.md"])
    def test_links_lead_to_headings(self, page):
        """What a link names behind the # is a heading of the page that it leads to."""
        source = ROOT / page
        missing = []
        for link in re.findall(r"\]\((?!https?:)(.*?)\)", source.read_text()):
            file, _, heading = link.partition("#")
            target = (source.parent / file).resolve() if file else source
            if not target.exists() or (heading and heading not in headings(target)):
                missing.append(link)
        assert missing == []


def headings(page: Path) -> set[str]:
    """Return the names by which links find the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
