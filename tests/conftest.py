"""What all tests share: the built wheel, a Python that has it, a PostgreSQL server, the loops.

Called by pytest. Everything here is made once per run, in temporary directories, and is gone
afterwards.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

import postgres
from environments import Environment, borrowed
from support import build_wheel, install, make_venv

# What the apps in the tests use, beside the wheel's own extra `demo`.
REQUIREMENTS = ("httpx", "jinja2", "opentelemetry-sdk", "python-multipart", "trio", "websockets")
# Those too, where they can be had: some are not made for Windows, or for a free-threaded Python.
WHERE_THERE_IS = ("greenlet", "psycopg", "psycopg-binary", "uvloop")


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request):
    """Each event loop in turn, for tests marked `anyio`."""
    if request.param[1].get("use_uvloop"):
        pytest.importorskip("uvloop")
    return request.param


@pytest.fixture(autouse=True)
def nobody_held_back(monkeypatch):
    """Let the requests of this process begin at once, for as long as a test.

    Engines that other tests have made would have the first requests of each new app wait for one
    another. What is tested of requests that wait for connections is in processes of its own.
    """
    requests = sys.modules.get("fastapi_overflow._requests.lease_of_request")
    if requests is not None:
        monkeypatch.setattr(requests, "connections", None)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, with the sdist beside it."""
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def wheel_python(wheel, tmp_path_factory) -> Path:
    """A Python that has the built wheel installed and what the apps in the tests use.

    In the versions that run the tests, so that a matrix over versions holds here too.
    """
    folder = tmp_path_factory.mktemp("wheel")
    versions = {canonicalize_name(found.name): found.version for found in distributions()}
    constraints = folder / "constraints.txt"
    constraints.write_text(
        "".join(
            f"{name}=={version}\n"
            for name, version in versions.items()
            if name not in ("fastapi-overflow", "pip", "setuptools")
        )
    )
    requirements = [*REQUIREMENTS, *(name for name in WHERE_THERE_IS if name in versions)]
    python = make_venv(folder / "venv")
    install(python, f"{wheel}[demo,otel,prometheus]", *requirements, "-c", constraints)
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
    if postgres.binaries() is None:
        if os.environ.get("CI"):
            pytest.fail(postgres.MISSING)
        pytest.skip(postgres.MISSING)
    with postgres.postgres() as server:
        yield server.url


@pytest.fixture(scope="module")
def window():
    """A browser whose clocks stand still: nothing is late because the machine is slow."""
    from browser import browser

    with browser() as found:
        found.stop_clocks()
        yield found


@pytest.fixture
def page(monkeypatch):
    """The status page, with figures of the test's own."""
    from status_tools import served

    with served(monkeypatch) as found:
        yield found
