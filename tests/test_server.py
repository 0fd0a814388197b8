"""The tutorial's app under a real uvicorn, with real requests, on real databases; and uninstalling.

The server runs in a process of its own with the built wheel installed, the hook its only way in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from support import install, make_venv, run, run_python, started, tail, wait_until

APP_DIR = Path(__file__).parent / "shapes"

REQUESTS = 200
TIMEOUT = 60  # seconds for all requests


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/app.db"
    return request.getfixturevalue("postgres_url")


@contextmanager
def uvicorn(python: Path, database_url: str, *options: str, **env: str) -> Iterator[str]:
    """Serve the app on a port of the system's choice; the value is its address."""
    command = (python, "-m", "uvicorn", "tutorial:app", "--app-dir", APP_DIR, "--port", "0")
    with started(*command, *options, env={"DATABASE_URL": database_url, **env}) as server:
        started_on = re.compile(r"running on (http://\S+)")
        yield wait_until(
            lambda: started_on.search(tail(server.output)), "the start of uvicorn", server
        )[1]


def send(url: str, *, stop_at_failure: bool = False) -> Counter[str]:
    """Send `REQUESTS` requests at once and return how many ended how: "200" is a list of items."""

    outcomes = Counter[str]()

    async def one(client: httpx.AsyncClient, everything: anyio.CancelScope) -> None:
        try:
            response = await client.get(f"{url}/items")
            outcome = str(response.status_code)
            if outcome == "200" and len(response.json()) != 10:
                outcome = "200, but not the items"
        except httpx.HTTPError as exc:
            outcome = type(exc).__name__
        outcomes[outcome] += 1
        if stop_at_failure and outcome != "200":
            everything.cancel()

    async def main() -> None:
        limits = httpx.Limits(max_connections=None)
        with anyio.move_on_after(TIMEOUT) as everything:
            async with (
                httpx.AsyncClient(limits=limits, timeout=TIMEOUT) as client,
                anyio.create_task_group() as tasks,
            ):
                for _ in range(REQUESTS):
                    tasks.start_soon(one, client, everything)

    anyio.run(main)
    return outcomes


class TestUvicorn:
    def test_requests_fail_without_the_package(self, wheel_python, database_url):
        """Switched off by FASTAPI_OVERFLOW_DISABLE=1, requests time out: FastAPI as it comes."""
        with uvicorn(wheel_python, database_url, FASTAPI_OVERFLOW_DISABLE="1") as url:
            outcomes = send(url, stop_at_failure=True)
        assert outcomes["500"]  # the pool's timeout
        assert set(outcomes) <= {"200", "500"}

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def test_all_requests_are_answered(self, wheel_python, database_url, loop):
        """With the package installed, and app and command unchanged, every request is answered."""
        with uvicorn(wheel_python, database_url, "--loop", loop) as url:
            assert send(url) == {"200": REQUESTS}


class TestUninstall:
    @pytest.fixture(scope="class")
    @classmethod
    def environment(cls, wheel, tmp_path_factory):
        """A Python with the wheel and what it needs, and the files it had before the wheel."""
        folder = tmp_path_factory.mktemp("uninstall") / "venv"
        python = make_venv(folder)
        install(python, "starlette", "anyio", "wrapt", "typing_extensions")
        before = files(folder)
        run(python, "-m", "pip", "install", "--no-deps", wheel, timeout=120, check=True)
        run_python(python, "import starlette.applications", timeout=60, check=True)
        return python, folder, before

    def test_nothing_remains(self, environment):
        """`pip uninstall` removes every file that the wheel brought, and Python still starts."""
        python, folder, before = environment
        assert any("fastapi_overflow.pth" in name for name in files(folder))
        pip = (python, "-m", "pip", "uninstall", "--yes", "fastapi-overflow")
        run(*pip, timeout=120, check=True)
        assert files(folder) <= before
        child = run_python(python, "import starlette.applications", timeout=60)
        assert (child.returncode, child.stdout, child.stderr) == (0, "", "")


def files(folder: Path) -> set[str]:
    """Return all files and directories, less the bytecode of others that a run may have written."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {n for n in found if "__pycache__" not in n or "overflow" in n}
