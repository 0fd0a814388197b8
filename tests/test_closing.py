"""Loops and servers that end while requests run and wait.

Run by pytest; each case in a child process, where a hang is noticed and noise seen.
"""

import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress

import pytest

from support import PATIENCE, free_port, run_python, started, tail, wait_until

# Tasks that hold tokens and wait for them; the loop ends under them, at a moment of the test's.
CLOSED = """
import asyncio, gc, sys
import fastapi_overflow
fastapi_overflow.patch()
from anyio import to_thread
from fastapi_overflow._requests.lease_of_request import current_lease

async def request(limiter, held):
    lease = limiter.pool.open_lease()
    current_lease.set(lease)
    try:
        for _ in range(3):
            async with limiter:
                await held.wait()
    finally:
        limiter.pool.close_lease(lease)

async def start(turns):
    limiter = to_thread.current_default_thread_limiter()
    limiter.total_tokens = 3
    held = asyncio.Event()
    tasks = [asyncio.create_task(request(limiter, held)) for _ in range(10)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert limiter.borrowed_tokens and limiter.statistics().tasks_waiting
    if turns is not None:
        held.set()
        for _ in range(turns):
            await asyncio.sleep(0)
    return tasks

how, turns = sys.argv[1], None if sys.argv[2] == "None" else int(sys.argv[2])
if how == "run":
    asyncio.run(start(turns))  # cancels what is left
else:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"
    tasks = loop.run_until_complete(start(turns))
    if how == "close first":
        loop.close()
    tasks.clear()
    gc.collect()
    if how == "drop first":
        loop.close()
    del loop
    gc.collect()
print("ended")
"""

SERVED = """
import time
import fastapi_overflow
fastapi_overflow.patch()
assert fastapi_overflow.patched()
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

def slow(request):
    time.sleep(0.05)
    return PlainTextResponse("done")

app = Starlette(routes=[Route("/", slow)])
"""


class TestLoopClosed:
    @pytest.mark.parametrize("turns", [None, *range(8)])
    @pytest.mark.parametrize("how", ["run", "close first", "drop first"])
    def test_quiet(self, how, turns):
        """A loop that ends with hops running and waiting ends, without a word on stderr."""
        env = {"FASTAPI_OVERFLOW_STALL_SECONDS": "60"}  # a stall is logged
        child = run_python(sys.executable, CLOSED, how, str(turns), timeout=PATIENCE, env=env)
        assert (child.stdout.strip(), child.stderr) == ("ended", "")


class TestServerStopped:
    @pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
    def test_under_load(self, tmp_path, sign):
        """A server told to stop under load answers what it has begun, and is gone."""
        (tmp_path / "served.py").write_text(SERVED)
        port = free_port()
        command = (sys.executable, "-m", "uvicorn", "served:app", "--port", str(port))
        with started(*command, cwd=tmp_path) as server, ExitStack() as closed:
            clients = [closed.enter_context(connect(port, server)) for _ in range(120)]
            for client in clients:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert clients[0].recv(12) == b"HTTP/1.1 200", tail(server.output)
            server.send_signal(sign)
            try:
                server.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                pytest.fail(f"still running {PATIENCE} s after {sign.name}:\n{tail(server.output)}")
            answers = {answer(client) for client in clients[1:]}
            # None: of a request that the server hadn't read yet.
            assert answers <= {b"HTTP/1.1 200", None}
            assert "Traceback" not in tail(server.output)


def answer(client):
    """Return the beginning of what a client is answered, None if nothing; close it."""
    with client:
        try:
            return client.recv(12) or None
        except ConnectionError:
            return None


def connect(port, server):
    """Connect to the server, once it listens."""

    def connection():
        with suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    return wait_until(connection, "the start of the server", server)
