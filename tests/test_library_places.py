"""Libraries are recognised wherever they are installed: beside the app, or in a zip.

`pip install --target`, `uv run --with` and PYTHONPATH put them outside of site-packages.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from child_tools import run_child
from observed import needs_stacks

PROGRAM = """
import json, sqlite3, sys
import anyio
import sqlalchemy
from child_tools import Door, request, told, until
from sqlalchemy.pool import QueuePool
from fastapi_overflow import advise, run_in_threadpool, set_thread_limit, stats

assert sqlalchemy.__file__.startswith(sys.argv[1]), sqlalchemy.__file__
records = told()
pool = QueuePool(lambda: sqlite3.connect(":memory:", check_same_thread=False), pool_size=1,
                 max_overflow=0, timeout=25)


def stalls():
    return [record for record in records if getattr(record, "event", "") == "stall_begin"]


def query():
    pool.connect().close()


async def main():
    set_thread_limit(3)
    connection = pool.connect()  # as a WebSocket keeps one
    try:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(request, lambda: run_in_threadpool(query))
            try:
                await until(stalls, "the warning of the stall")
                advice = advise()
            finally:
                connection.close()
    finally:
        pool.dispose()
    (record,) = stalls()
    print(json.dumps([record.getMessage(), record.pinned, advice]))

anyio.run(main)
"""


def copied(folder: Path) -> Path:
    """Put SQLAlchemy into a folder as `pip install --target` does."""
    import sqlalchemy

    shutil.copytree(Path(sqlalchemy.__file__).parent, folder / "sqlalchemy")
    return folder


@pytest.fixture(params=["target", "zip"])
def place(request, tmp_path):
    """Where SQLAlchemy is, outside of site-packages."""
    if request.param == "target":
        return copied(tmp_path / "target")
    source = copied(tmp_path / "source")
    archive = tmp_path / "libraries.zip"
    with zipfile.ZipFile(archive, "w") as zipped:  # without its extensions: they aren't needed
        for file in source.rglob("*.py"):
            zipped.write(file, file.relative_to(source))
    return archive


@needs_stacks
class TestSQLAlchemyElsewhere:
    @pytest.mark.parametrize(
        ("connections", "where"),
        [
            pytest.param("0", "sqlalchemy/pool/impl.py _do_get", id="pool"),
            pytest.param("1", "fastapi_overflow/_connections/checkout.py wait", id="ours"),
        ],
    )
    def test_stall(self, place, connections, where):
        """The warning of a stall names the queue for connections as the place, SQLAlchemy's or
        ours, and who called it, and the advice is the one for connections that are kept.
        """
        path = {"PYTHONPATH": f"{Path(__file__).parent}:{place}"}
        if sys.platform == "win32":
            path = {"PYTHONPATH": f"{Path(__file__).parent};{place}"}
        env = {**path, "FASTAPI_OVERFLOW_CONNECTIONS": connections}
        text, pinned, advice = run_child(PROGRAM, str(place), env=env)
        assert f"3 in {where} (called from " in text
        assert " query)" in text
        assert pinned
        assert any("all threads wait for a connection" in line for line in advice)
