"""Under a real uvicorn: a quiet route answers while another one has all threads, or work to do.

Run by pytest. Nothing is fast or slow here: the busy route's threads end when the test says so, and
what is told is whether the quiet one was answered before.
"""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support import PATIENCE, answers, free_port, started, wait_until

APP = """
from child_tools import Door
from fastapi import BackgroundTasks, FastAPI

import fastapi_overflow

door = Door()
app = FastAPI()


@app.get("/busy")
def busy():
    door()


@app.get("/background")
async def background(tasks: BackgroundTasks):
    tasks.add_task(door)


@app.get("/sync-background")
def sync_background(tasks: BackgroundTasks):
    tasks.add_task(door)


for name in ("health", "health2", "health3"):
    app.get(f"/{name}")(eval(f"lambda: '{name}'"))


@app.get("/now")
async def now():
    from anyio.to_thread import current_default_thread_limiter

    return {
        **fastapi_overflow.stats().as_dict(),
        "running": current_default_thread_limiter().borrowed_tokens,
    }


@app.get("/open")
async def open_door():
    door.open()
"""

HANGS = 2  # seconds without an answer from a server that is busy for ever; nothing is slow by it


@contextmanager
def served(folder: Path, **env: str):
    (folder / "quiet_app.py").write_text(APP)
    port = free_port()
    command = ("-m", "uvicorn", "quiet_app:app", "--port", str(port), "--log-level", "warning")
    path = {"PYTHONPATH": str(Path(__file__).parent), "FASTAPI_OVERFLOW_STALL_SECONDS": "3600"}
    with started(sys.executable, *command, env={**path, **env}, cwd=folder) as server:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/now"), "the server", server)
        yield port


def get(port: int, path: str, timeout: float = PATIENCE):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=timeout) as answer:
        return json.loads(answer.read())


def send(stack: ExitStack, port: int, path: str, number: int) -> None:
    """Send requests without waiting for answers."""
    for _ in range(number):
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
        connection.sendall(f"GET /{path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())


def is_answered(port: int, path: str) -> bool:
    try:
        return bool(get(port, path, HANGS))
    except TimeoutError:
        return False


def waits(now, load: str, number: int) -> bool:
    """Tell whether all requests of a load have come to where they wait."""
    came = now["waiting_first"] + now["waiting_later"] >= number - 40
    return came and (load != "sync-background" or not now["waiting_first"])


LOADS = [("busy", 60), ("background", 1000), ("sync-background", 60)]


class TestQuietRoute:
    @pytest.mark.parametrize(("load", "number"), LOADS[:2])
    def test_waits_without_the_package(self, tmp_path, load, number):
        """Without the package a sync health check isn't answered while others have all threads."""
        with ExitStack() as stack:
            port = stack.enter_context(served(tmp_path, FASTAPI_OVERFLOW_DISABLE="1"))
            send(stack, port, load, number)
            wait_until(lambda: get(port, "now")["running"] == 40, "all threads busy")
            assert not is_answered(port, "health")

    @pytest.mark.parametrize(("load", "number"), LOADS)
    def test_answers(self, tmp_path, load, number):
        """With it each of three is answered, without having waited, and there is no stall."""
        with ExitStack() as stack:
            port = stack.enter_context(served(tmp_path))
            send(stack, port, load, number)
            wait_until(lambda: get(port, "now")["running"] >= 39, "all threads busy")
            wait_until(lambda: waits(get(port, "now"), load, number), "all others wait")
            before = get(port, "now")
            for path in ("health", "health2", "health3"):
                assert get(port, path) == path
            after = get(port, "now")
            get(port, "open")
        assert after["waits"] == before["waits"]
        assert after["quiet_used"] == 3
        assert after["peak_threads"] <= 42
