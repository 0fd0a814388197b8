"""Beside others that patch Starlette, FastAPI and anyio: theirs still works, and so does ours.

Run by pytest. Each claim is about processes of their own (neighbours/watched.py), in a virtual
environment with the built wheel: one with the package, and the same with it switched off.
"""

from __future__ import annotations

import json
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

from support import ChildFailed, install, make_venv, run

WATCHED = Path(__file__).parent / "neighbours" / "watched.py"

# What each comes with; nothing for wrappers of our own, made with what is there anyway.
DISTRIBUTIONS = {
    "otel": (
        "opentelemetry-instrumentation-fastapi",
        "opentelemetry-instrumentation-starlette",
        "opentelemetry-sdk",
    ),
    "sentry": ("sentry-sdk",),
    "ddtrace": ("ddtrace",),
    "wrapt": (),
    "closures": (),
}
LAUNCHERS = {"otel": "opentelemetry-instrument", "ddtrace": "ddtrace-run"}

# In which order theirs and ours are put in place: "at import" is both by hooks, within the import.
CASES = [
    *((order, name) for name in DISTRIBUTIONS for order in ("ours first", "theirs first")),
    *(("at import", name) for name in ("otel", "sentry", "ddtrace", "wrapt")),
    *(("launcher", name) for name in LAUNCHERS),
    ("at import", "sentry", "otel"),  # ddtrace and OpenTelemetry don't go together
]

ENVIRONMENT = {
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "0",
    "DD_REMOTE_CONFIGURATION_ENABLED": "0",
    "DD_TRACE_AGENT_URL": "unix:///nowhere",
}


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A Python with the wheel and FastAPI."""
    python = make_venv(tmp_path_factory.mktemp("neighbours") / "venv")
    install(python, wheel, "fastapi", "httpx", *_versions())
    return python


@pytest.fixture(scope="module")
def refused(python):
    """Install the neighbours; return the reason for each that isn't to be had for this Python."""
    wanted = [part for parts in DISTRIBUTIONS.values() for part in parts]
    if _cannot_install(python, wanted) is None:
        return {}
    reasons = {name: _cannot_install(python, parts) for name, parts in DISTRIBUTIONS.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _cannot_install(python, distributions):
    try:
        if distributions:
            install(python, *distributions, *_versions())
    except ChildFailed as exc:
        if any(words in str(exc) for words in ("matching distribution", "unsatisfiable")):
            return str(exc)
        raise  # no network, a full disk: no reason to skip
    return None


def _versions():
    """What all patch, in the versions that run the tests."""
    return [f"{name}=={version(name)}" for name in ("fastapi", "starlette", "anyio", "wrapt")]


@pytest.fixture(scope="module")
def watch(python):
    """Run both apps with neighbours, and return what they saw and how the apps answered."""

    @cache
    def watch(order, *names, stock):
        launcher = [python.parent / LAUNCHERS[names[0]]] if order == "launcher" else []
        env = {
            **ENVIRONMENT,
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "FASTAPI_OVERFLOW_DISABLE": "1" if stock else None,
            # How long a request waits for its connection: in a deadlock all wait in vain.
            "PATIENCE": "0.1" if stock else "60",
        }
        command = (*launcher, python, WATCHED, order, *names)
        return json.loads(run(*command, timeout=300, env=env, check=True).stdout)

    return watch


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def case(request, refused, watch):
    """What was seen with us, and without."""
    order, *names = request.param
    for name in names:
        if name in refused:
            pytest.skip(f"{name} can't be installed here: {refused[name]}")
    # What real tracers see is the same in whatever order; but not what mere wrappers see.
    order_of_stock = "at import" if DISTRIBUTIONS[names[0]] else order
    return watch(order, *names, stock=False), watch(order_of_stock, *names, stock=True)


class TestTheirs:
    def test_sees_what_it_sees_without_us(self, case):
        """Spans and errors of a request are the same, in the same tree, as without us."""
        ours, stock = case
        for who, expected in stock["seen"].items():
            for path in ("work", "error"):
                assert ours["seen"][who][path] == expected[path]

    def test_works_at_all(self, case):
        """What it sees is the request, what the endpoint does in its thread, and the error."""
        for who in case[0]["seen"].values():
            for path, fails in (("work", False), ("error", True)):
                names = {name for name, _, _ in who[path]}
                parents = {parent for name, parent, _ in who[path] if name == "inside"}
                assert len(names) > 1
                assert parents & names  # it is part of the request, not a trace of its own
                assert any(error for *_, error in who[path]) is fails

    def test_tells_requests_apart(self, case):
        """Requests that share the threads each have their own trace, down to the endpoint."""
        for who in case[0]["seen"].values():
            assert who["requests with their own trace"] == len(who["answered"])


class TestOurs:
    def test_all_are_answered(self, case):
        """With more requests than threads and a single connection, every request is answered."""
        for who in case[0]["seen"].values():
            assert set(who["answered"]) == {200}

    def test_deadlocks_without_us(self, case):
        """Without us that is a deadlock: most requests get no connection in time."""
        for who in case[1]["seen"].values():
            assert who["answered"].count(500) > len(who["answered"]) / 2

    def test_patched(self, case):
        """patched() says that the app is protected, whoever has wrapped our functions."""
        ours, stock = case
        assert (ours["patched"], stock["patched"]) == (True, False)
