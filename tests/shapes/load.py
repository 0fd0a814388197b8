"""Sends many requests at once to an app in this very process, and reports as JSON.

Run as a script, by the Python under test, in an empty directory:
`load.py [--stop-at-failure] [--loop LOOP] REQUESTS SHAPE...`, or "mixed" for all shapes at once; a
line per shape. It never imports fastapi_overflow: only the hook may do that. Nobody waits for ever:
at the deadline the report says how many requests were never answered, and the process ends.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
import threading
import time
from collections import Counter
from importlib import import_module
from typing import Any

import anyio
from table import SHAPES, Shape

DEADLINE = 60  # seconds for the requests of one shape

BODY = (
    b'--x\r\nContent-Disposition: form-data; name="data"; filename="a.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\n" + b"y" * 20_000 + b"\r\n--x--\r\n"
)
PAUSE = 0.005  # seconds that a slow client takes for a piece of the answer


async def send_request(shape: Shape, app: Any) -> str:
    """Send one request and return what became of it: "200", or another status or error."""
    client = websocket_client if shape.kind == "websocket" else http_client
    try:
        return await client(shape, app)
    except Exception as exc:
        return type(exc).__name__


def scope(shape: Shape, kind: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "method": "POST" if shape.kind == "upload" else "GET",
        "path": shape.path,
        "raw_path": shape.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), *headers],
        "client": ("127.0.0.1", 12345),
        "server": ("testserver", 80),
        "subprotocols": [],
    }


async def http_client(shape: Shape, app: Any) -> str:
    upload = shape.kind == "upload"
    status, complete, body_sent = "no answer", False, False
    disconnected = anyio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal body_sent
        if body_sent:
            await disconnected.wait()
            return {"type": "http.disconnect"}
        body_sent = True
        return {"type": "http.request", "body": BODY if upload else b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, complete
        if message["type"] == "http.response.start":
            status = str(message["status"])
        elif message["type"] == "http.response.body":
            if shape.slow:
                await anyio.sleep(PAUSE)
            complete = not message.get("more_body", False)

    headers = [(b"content-type", b"multipart/form-data; boundary=x")] if upload else []
    headers.append((b"content-length", str(len(BODY) if upload else 0).encode()))
    await app(scope(shape, "http", headers), receive, send)
    disconnected.set()
    return status if complete else f"{status}, cut off"


async def websocket_client(shape: Shape, app: Any) -> str:
    """Three questions, each sent when the answer to the one before is there."""
    to_app, from_client = anyio.create_memory_object_stream[dict[str, Any]](10)
    answers = 0
    question = {"type": "websocket.receive", "text": "name?"}
    to_app.send_nowait({"type": "websocket.connect"})
    to_app.send_nowait(question)

    async def send(message: dict[str, Any]) -> None:
        nonlocal answers
        if message["type"] == "websocket.send":
            answers += 1
            leave = {"type": "websocket.disconnect", "code": 1000}
            to_app.send_nowait(question if answers < 3 else leave)

    async with to_app, from_client:
        await app(scope(shape, "websocket", []), from_client.receive, send)
    return "200" if answers == 3 else f"{answers} answers"


class Gauge:
    """The most threads at once, exactly: seen at every moment at which their number can grow.

    Worker threads are kept when idle, so `threads` may be above what ever ran at the same time,
    never below. FastAPI runs the exit code of a dependency with a limiter of its own for each, of
    one token: those hops are in no limit, and counted apart, from before they ask for a thread
    until after they have given it back. Everything else runs under the default limiter.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.baseline = threading.active_count()
        self.running = Counter[str]()
        self.peak = Counter[str]()

    def count(self, what: str, change: int) -> None:
        with self.lock:
            self.running[what] += change
            self.peak[what] = max(self.peak[what], self.running[what])

    def install(self) -> None:
        start = threading.Thread.start

        def counted_start(thread: threading.Thread) -> None:
            start(thread)
            with self.lock:
                alive = threading.active_count() - self.baseline
                self.peak["threads"] = max(self.peak["threads"], alive)

        threading.Thread.start = counted_start  # type: ignore[method-assign]
        for name in ("anyio._backends._asyncio", "anyio._backends._trio"):
            module = import_module(name)
            backend = getattr(module, f"{name.rpartition('_')[2].capitalize()}Backend", None)
            backend = backend or getattr(module, "AsyncIOBackend", module)  # anyio 3: the module
            self.instrument(backend)

    def instrument(self, backend: Any) -> None:
        """Wrap the function that every hop, of whatever limiter, goes through."""
        original = backend.run_sync_in_worker_thread

        async def run_sync_in_worker_thread(func: Any, *args: Any, **kwargs: Any) -> Any:
            limiter = kwargs.get("limiter")
            if limiter is not None and limiter.total_tokens == 1:
                self.count("exits", +1)
                try:
                    return await original(func, *args, **kwargs)
                finally:
                    self.count("exits", -1)

            def counted(*args: Any) -> Any:
                self.count("hops", +1)
                try:
                    return func(*args)
                finally:
                    self.count("hops", -1)

            return await original(counted, *args, **kwargs)

        backend.run_sync_in_worker_thread = run_sync_in_worker_thread


async def run(name: str, shapes: list[Shape], count: int, stop: bool) -> None:
    """Send `count` requests at once, of the shapes in turn, and print the report."""
    apps = {shape.app: load_app(shape.app) for shape in shapes}
    gauge.peak.clear()
    outcomes = Counter[str]()
    began = time.perf_counter()

    def report() -> None:
        line = {
            "shape": name,
            "requests": count,
            "outcomes": {**outcomes, "never answered": count - outcomes.total()},
            "seconds": round(time.perf_counter() - began, 2),
            **{what: gauge.peak[what] for what in ("threads", "hops", "exits")},
        }
        print(json.dumps(line), flush=True)

    def give_up() -> None:
        if args.stacks:
            faulthandler.dump_traceback()
        report()
        os._exit(0)

    watchdog = threading.Timer(args.deadline, give_up)
    watchdog.daemon = True
    watchdog.start()
    gauge.baseline = threading.active_count()

    async def one(shape: Shape) -> None:
        outcome = await send_request(shape, apps[shape.app])
        outcomes[outcome] += 1
        if stop and outcome != "200":
            report()
            os._exit(0)  # its threads are blocked: nothing else would end it soon

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(one, shapes[number % len(shapes)])
    watchdog.cancel()
    watchdog.join()
    report()


def load_app(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def main() -> None:
    # A small upload then takes the way of a large one: its file is read in a thread.
    from starlette.formparsers import MultiPartParser

    MultiPartParser.spool_max_size = MultiPartParser.max_file_size = 1024
    gauge.install()
    every = list(SHAPES.values())
    options = {"use_uvloop": args.loop == "uvloop"} if args.loop != "trio" else {}
    backend = "trio" if args.loop == "trio" else "asyncio"
    for name in args.shapes:
        for count in args.requests:
            anyio.run(
                run,
                name,
                every if name == "mixed" else [SHAPES[name]],
                count,
                args.stop_at_failure,
                backend=backend,
                backend_options=options,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stop-at-failure", action="store_true")
    parser.add_argument("--stacks", action="store_true")
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    parser.add_argument("--deadline", type=float, default=DEADLINE)
    parser.add_argument("--requests", type=int, nargs="+", default=[200])
    parser.add_argument("shapes", nargs="+")
    args = parser.parse_args()
    if "fastapi_overflow" in sys.modules and "fastapi_overflow._patch" in sys.modules:
        raise SystemExit("the patch came before any app")
    gauge = Gauge()
    main()
