"""What all tests share: the built wheel, a Python that has it, a PostgreSQL server, the loops.

Called by pytest. Everything here is made once per run, in temporary directories, and is gone
afterwards.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

import pytest

from environments import Environment, borrowed
from support import ROOT, install, make_venv, run, started, tail

# What the apps in the tests use, beside the wheel's own extra `demo`.
REQUIREMENTS = (
    "httpx",
    "jinja2",
    "opentelemetry-sdk",
    "psycopg[binary]",
    "python-multipart",
    "trio",
    "uvloop; sys_platform != 'win32'",
    "websockets",
)


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request):
    """Each event loop in turn, for tests marked `anyio`."""
    return request.param


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the sdist of this checkout: only what is shipped gets tested."""
    dist = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ROOT)
    run(*build, timeout=120, check=True)
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def wheel_python(wheel, tmp_path_factory) -> Path:
    """A Python that has the built wheel installed and what the apps in the tests use.

    In the versions that run the tests, so that a matrix over versions holds here too.
    """
    folder = tmp_path_factory.mktemp("wheel")
    constraints = folder / "constraints.txt"
    constraints.write_text(
        "".join(
            f"{found.name}=={found.version}\n"
            for found in distributions()
            if found.name not in ("fastapi-overflow", "pip", "setuptools")
        )
    )
    python = make_venv(folder / "venv")
    install(python, f"{wheel}[demo,otel,prometheus]", *REQUIREMENTS, "-c", constraints)
    return python


@pytest.fixture(scope="session")
def dependencies(wheel_python, tmp_path_factory) -> Path:
    """A folder with what `wheel_python` has installed, but for this package."""
    return borrowed(wheel_python, tmp_path_factory.mktemp("dependencies"))


@pytest.fixture(scope="session")
def environment(wheel, dependencies, tmp_path_factory) -> Environment:
    """A healthy environment, for tests that change nothing in it."""
    return Environment(tmp_path_factory.mktemp("healthy") / "venv", wheel, dependencies)


@pytest.fixture
def own_environment(wheel, dependencies, tmp_path) -> Environment:
    """An environment of the test's own, to damage."""
    return Environment(tmp_path / "venv", wheel, dependencies)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The SQLAlchemy URL of a PostgreSQL server of this run's own."""
    binaries = _postgres_binaries()
    if binaries is None:
        reason = "no PostgreSQL server found: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # Not in pytest's own directory: the server's user couldn't enter it.
    folder = tempfile.mkdtemp(prefix="overflow-postgres-")
    user = {}
    if os.getuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        user = {"user": "postgres", "group": "postgres", "extra_groups": ()}
    try:
        data = f"{folder}/data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
            timeout=120,
            **user,
        )
        port = _free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "max_connections": 300,
            "fsync": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with started(binaries / "postgres", "-D", data, *options, cwd=folder, **user) as server:
            _wait_until_ready(binaries, port, server)
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
            server.terminate()  # waits for clients to leave, and there may be some
            with suppress(subprocess.TimeoutExpired):  # then it is killed
                server.wait(5)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_binaries() -> Path | None:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:  # Debian, which puts none of them on the path
        return max(found, key=lambda path: float(path.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _wait_until_ready(binaries: Path, port: int, server) -> None:
    deadline = time.monotonic() + 60
    ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, check=False, timeout=30).returncode:
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the PostgreSQL server did not start:\n{tail(server.output)}")
        time.sleep(0.05)
