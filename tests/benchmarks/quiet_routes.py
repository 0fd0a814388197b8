"""Measure how long quiet routes wait beside busy ones.

Run by itself, in an environment with the tests' packages; each load is sent to a uvicorn of its
own. It reports what it has found and judges nothing: a machine may be slow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from support import answers, free_port, started, wait_until

APPS = Path(__file__).parent / "apps"
HEALTH_EVERY = 0.1  # seconds

# Name: path, clients, whether each sends its next request when it has its answer.
LOADS = {
    "sleeps 1 s": ("/sleep", 200, True),
    "database": ("/database", 200, True),
    "sleeps 30 s": ("/sleep?seconds=30", 40, False),
    "1,000 background tasks": ("/background", 1000, False),
}


async def get(port: int, path: str, patience: float = 120) -> tuple[int, float, bytes]:
    """Send a request on a connection of its own; return status, seconds and body."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
        status, body = int(answer[9:12]), answer.partition(b"\r\n\r\n")[2]
    except (OSError, ValueError, TimeoutError):
        status, body = 0, b""
    return status, time.perf_counter() - began, body


async def send_load(port: int, load: str) -> None:
    """Send a load until killed, and print each second how many requests were answered.

    In a process of its own, so that what it costs isn't taken for the server's.
    """
    path, clients, again = LOADS[load]
    request = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    served = 0

    async def client() -> None:
        nonlocal served
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            served += 1
            if not again:
                await asyncio.sleep(3600)

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    while tasks:
        await asyncio.sleep(0.25)
        print(served, flush=True)


async def beside(port: int, load: str, seconds: float, routes: list[str]) -> dict[str, Any]:
    """Send a load, and beside it requests to quiet routes and to an async one now and then."""
    args = (__file__, "--send", load, str(port))
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, *args, stdout=pipe)
    assert child.stdout is not None
    served: list[tuple[float, int]] = []

    async def count() -> None:
        async for line in child.stdout:
            served.append((time.perf_counter(), int(line)))

    counting = asyncio.create_task(count())
    while not served or (LOADS[load][2] and served[-1][1] < 1):  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.05)
    await asyncio.sleep(1 if LOADS[load][2] else 0)
    # Of the first request that a process ever gets for a route nothing is known yet.
    firsts = [(await get(port, route))[1] for route in routes]
    began = time.perf_counter()
    first = served[-1]
    await get(port, "/async")
    found: dict[str, list[Any]] = {route: [] for route in (*routes, "/async")}
    while time.perf_counter() - began < seconds:
        for route, tasks in found.items():
            tasks.append(asyncio.create_task(get(port, route)))
        await asyncio.sleep(HEALTH_EVERY)
    last = served[-1]
    answers_ = {route: await asyncio.gather(*tasks) for route, tasks in found.items()}
    now = json.loads((await get(port, "/stats"))[2])
    child.kill()
    await child.wait()
    counting.cancel()

    def told(routes: list[str]) -> dict[str, float]:
        waits = sorted(wait for route in routes for _, wait, _ in answers_[route])
        return {"worst": round(waits[-1], 4), "median": round(waits[len(waits) // 2], 4)}

    return {
        **told(routes),
        "first": round(max(firsts), 4),
        "async route": told(["/async"]),
        "failed": sum(status != 200 for route in routes for status, _, _ in answers_[route]),
        "busy route/s": round((last[1] - first[1]) / (last[0] - first[0]), 1),
        "quiet_used": now.get("quiet_used"),
        "peak_threads": now["peak_threads"],
    }


def serve(env: dict[str, str | None], measure: Any) -> Any:
    """Return what `measure`, given a server's port and process, finds."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = ("-m", "uvicorn", "quiet_app:app", "--port", str(port), "--log-level", "warning")
        env = {"QUIET_DATABASE": f"{folder}/db", **env}
        with started(
            sys.executable, *command, "--backlog", "4096", "--no-access-log", env=env, cwd=APPS
        ) as server:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/stats"), "the server", server)
            return asyncio.run(measure(port, server.pid))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--loads", nargs="*", default=[*LOADS, "three quiet", "tuned"])
    parser.add_argument("--send", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.send:
        asyncio.run(send_load(int(args.send[1]), args.send[0]))
        return
    python_path = {"PYTHONPATH": os.environ.get("PYTHONPATH")}

    def report(name: str, env: dict[str, str | None], measure: Any) -> None:
        print(f"{name:26} {json.dumps(serve({**python_path, **env}, measure))}", flush=True)

    for load in LOADS:
        if load in args.loads:
            report(
                load, {}, lambda port, _, load=load: beside(port, load, args.seconds, ["/health"])
            )
    three = ["/health", "/health2", "/health3"]
    if "three quiet" in args.loads:
        report(
            "three quiet, sleeps 1 s",
            {},
            lambda port, _: beside(port, "sleeps 1 s", args.seconds, three),
        )
    if "tuned" in args.loads:
        off: dict[str, str | None] = {"FASTAPI_OVERFLOW_DISABLE": "1", "QUIET_TUNED": "1"}
        report(
            "database, hand-tuned",
            off,
            lambda port, _: beside(port, "database", args.seconds, ["/health"]),
        )


if __name__ == "__main__":
    main()
