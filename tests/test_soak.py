"""A short run of soak.py with the built wheel; the long one is run by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import postgres
from support import install, run_python

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def soak_python(wheel_python) -> Path:
    install(wheel_python, "fastapi", "sqlalchemy", "uvicorn", "httpx")
    return wheel_python


@pytest.mark.skipif(
    postgres.binaries() is None and not os.environ.get("CI"), reason=postgres.MISSING
)
class TestSoak:
    def test_requests_fail_without(self, soak_python):
        """Without the package requests fail although the database is up."""
        options = ("--without", "--minutes", "0.2", "--rounds", "2")
        result = run_python(soak_python, HERE / "soak.py", *options, timeout=240)
        wrong = json.loads(result.stdout[result.stdout.index("{\n") :])["wrong"]
        assert any(finding.startswith("classic 500") for finding in wrong), wrong

    def test_nothing_is_stuck_lost_or_left(self, soak_python):
        """Random shapes, disconnects, resizes and a database restart leave a server as it was."""
        options = ("--minutes", "0.4", "--rounds", "2")
        result = run_python(soak_python, HERE / "soak.py", *options, timeout=240)
        assert result.returncode == 0, result.stdout + result.stderr
