"""The classic app under every server and in every kind of process, with nothing but the hook.

Each server is a real process of a Python that has the built wheel; each claim is first shown not
to hold without the package.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from support import answers, free_port, install, make_venv, run_python, started, wait_until

SERVED = Path(__file__).parent / "served"
DISABLED = {"FASTAPI_OVERFLOW_DISABLE": "1"}
REQUESTS = 150
TIMEOUT = 90  # seconds for all requests, or for a server's start

GUNICORN = ("gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-w", "2", "-b", "127.0.0.1:{port}")
HYPERCORN = ("hypercorn", "-b", "127.0.0.1:{port}", "-k")
UVICORN = ("uvicorn", "--port", "{port}", "--log-level", "warning")

# Command line, event loop, processes that serve.
SERVERS = {
    "uvicorn-asyncio": ((*UVICORN, "--loop", "asyncio"), "asyncio", 1),
    "uvicorn-uvloop": ((*UVICORN, "--loop", "uvloop"), "uvloop", 1),
    "uvicorn-workers": ((*UVICORN, "--workers", "2"), "uvloop", 2),
    "uvicorn-reload": ((*UVICORN, "--reload"), "uvloop", 1),
    "gunicorn": (GUNICORN, "uvloop", 2),
    "gunicorn-preload": ((*GUNICORN, "--preload"), "uvloop", 2),
    "hypercorn-asyncio": ((*HYPERCORN, "asyncio"), "asyncio", 1),
    "hypercorn-uvloop": ((*HYPERCORN, "uvloop"), "uvloop", 1),
    "hypercorn-trio": ((*HYPERCORN, "trio"), "trio", 1),
    "granian": (("granian", "--interface", "asgi", "--port", "{port}"), "uvloop", 1),
}
SCENARIOS = (
    "asgi_transport",
    "test_client",
    "loops_in_turn",
    "loops_side_by_side",
    "fork",
    "spawn",
)


@pytest.fixture(scope="module")
def servers_python(wheel, tmp_path_factory) -> Path:
    """A Python that has the built wheel and all the servers."""
    python = make_venv(tmp_path_factory.mktemp("servers") / "venv")
    servers = ("uvicorn", "gunicorn", "uvicorn-worker", "hypercorn[trio]", "granian")
    app = ("fastapi", "sqlalchemy", "httpx", "uvloop", "watchfiles", "trio")
    install(python, wheel, *servers, *app)
    return python


@pytest.fixture
def app_dir(tmp_path) -> Path:
    """A copy of the app that a test may change, beside its database."""
    shutil.copytree(SERVED, tmp_path / "app")
    return tmp_path / "app"


@contextmanager
def serving(name: str, python: Path, app_dir: Path, env: dict[str, str]) -> Iterator[str]:
    """Serve the app; the value is its address once it answers."""
    command, _, _ = SERVERS[name]
    port = free_port()
    arguments = [part.format(port=port) for part in command[1:]]
    environ = {"DATABASE_URL": f"sqlite:///{app_dir}/app.db", **env}
    server_command = (python.parent / command[0], *arguments, "app:app")
    with started(*server_command, env=environ, cwd=app_dir) as server:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/where"), f"the answer of {name}", server)
        yield url


def send(
    url: str, path: str = "/", requests: int = REQUESTS, stop_at_failure: bool = False
) -> list[httpx.Response | str]:
    """Send requests at once; return the responses, and the names of errors.

    :param stop_at_failure: wait for no more than the first response with status 500
    """
    outcomes: list[httpx.Response | str] = []

    async def one(client: httpx.AsyncClient, everything: anyio.CancelScope) -> None:
        try:
            outcomes.append(await client.get(path))
            if stop_at_failure and outcomes[-1].status_code == 500:
                everything.cancel()
        except httpx.HTTPError as exc:
            outcomes.append(type(exc).__name__)

    async def all_of_them() -> None:
        limits = httpx.Limits(max_connections=requests)
        with anyio.move_on_after(TIMEOUT) as everything:
            async with (
                httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client,
                anyio.create_task_group() as group,
            ):
                for _ in range(requests):
                    group.start_soon(one, client, everything)

    anyio.run(all_of_them)
    return outcomes + ["hangs"] * (requests - len(outcomes))


def pid(url: str) -> int | None:
    """Return the id of the process that answers, None if none does."""
    try:
        return httpx.get(f"{url}/where", timeout=TIMEOUT).json()["pid"]
    except httpx.HTTPError:
        return None


def statuses(url: str, **options: bool) -> Counter[object]:
    return Counter(getattr(outcome, "status_code", outcome) for outcome in send(url, **options))


@pytest.mark.parametrize("name", SERVERS)
class TestServer:
    def test_deadlocks_without(self, name, servers_python, app_dir):
        """Without the package requests of the classic app fail under this server."""
        # Several processes share the load as it comes: now and then none gets enough to deadlock.
        with serving(name, servers_python, app_dir, DISABLED) as url:
            # 500: the pool's timeout
            assert any(statuses(url, stop_at_failure=True)[500] for _ in range(3))

    def test_answers_every_request(self, name, servers_python, app_dir):
        """With the package just installed, every request is answered with 200."""
        with serving(name, servers_python, app_dir, {}) as url:
            assert statuses(url) == {200: REQUESTS}

    def test_serves_as_its_name_says(self, name, servers_python, app_dir):
        """The event loop and the number of processes are the ones in the test's name."""
        _, loop, processes = SERVERS[name]
        with serving(name, servers_python, app_dir, {}) as url:
            pids, loops = set(), set()
            deadline = time.monotonic() + TIMEOUT
            while len(pids) < processes and time.monotonic() < deadline:
                for outcome in send(url, "/where", 20):
                    where = outcome.json()
                    pids.add(where["pid"])
                    loops.add(where["loop"])
            assert (loops, len(pids)) == ({loop}, processes)


class TestReload:
    def test_protects_what_was_reloaded(self, servers_python, app_dir):
        """After uvicorn has reloaded a changed app, the new process is protected too."""
        with serving("uvicorn-reload", servers_python, app_dir, {}) as url:
            before = pid(url)
            (app_dir / "app.py").write_text((app_dir / "app.py").read_text() + "\n# changed\n")
            wait_until(lambda: pid(url) not in (None, before), "the reload")
            assert statuses(url) == {200: REQUESTS}


@pytest.mark.parametrize("scenario", SCENARIOS)
class TestInProcess:
    def run(self, scenario, python, app_dir, env):
        environ = {"DATABASE_URL": f"sqlite:///{app_dir}/app.db", **env}
        program = app_dir / "in_process.py"
        return run_python(python, program, scenario, timeout=200, env=environ, cwd=app_dir)

    def test_deadlocks_without(self, scenario, servers_python, app_dir):
        """Without the package requests fail in such a process."""
        result = self.run(scenario, servers_python, app_dir, DISABLED)
        assert "answered, others: {500}" in result.stderr, result.stderr  # the pool's timeout

    def test_answers_every_request(self, scenario, servers_python, app_dir):
        """With the package just installed, every request is answered with 200."""
        result = self.run(scenario, servers_python, app_dir, {})
        assert result.returncode == 0, result.stderr
