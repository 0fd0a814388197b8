"""The demo's load: many requests at once, each timed, each with a deadline.

Called by stage with the port of a server in another process. It must never retry: a request
that fails has failed.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import anyio

# Longer than SQLAlchemy's pool lets a request wait for a connection (30 s): what the demo counts
# are the server's failures, not the client's impatience.
REQUEST_SECONDS = 60
SAMPLE_SECONDS = 0.02

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
NO_ANSWER = f"no answer within {REQUEST_SECONDS} s"


@dataclass
class Load:
    """What became of the requests; times in seconds."""

    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)  # reason: requests
    wall_time: float = 0

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def succeeded(self) -> int:
        return len(self.latencies) - self.failed

    @property
    def median_latency(self) -> float:
        """Failed requests count too: their users have waited as well."""
        return median(self.latencies)

    @property
    def worst_latency(self) -> float:
        return max(self.latencies)


async def send(
    port: int,
    path: str,
    requests: int,
    *,
    on_sample: Callable[[], None] = lambda: None,
    on_answer: Callable[[Load], None] = lambda _: None,
) -> Load:
    """Send the requests at once and wait until each one is answered, has failed or has timed out.

    :param port: the port of a server on this machine
    :param path: what all of them ask for
    :param on_sample: called every SAMPLE_SECONDS meanwhile
    :param on_answer: called after each request, with the results so far
    """
    load = Load()

    async def one() -> None:
        begin = time.perf_counter()
        failure: str | None = NO_ANSWER
        with anyio.move_on_after(REQUEST_SECONDS):
            failure = await get(port, path)
        load.latencies.append(time.perf_counter() - begin)
        if failure:
            load.failures[failure] += 1
        on_answer(load)

    async def sample() -> None:
        while True:
            on_sample()
            await anyio.sleep(SAMPLE_SECONDS)

    begin = time.perf_counter()
    async with anyio.create_task_group() as sampling:
        sampling.start_soon(sample)
        async with anyio.create_task_group() as sending:
            for _ in range(requests):
                sending.start_soon(one)
        load.wall_time = time.perf_counter() - begin
        on_sample()
        sampling.cancel_scope.cancel()
    return load


async def get(port: int, path: str) -> str | None:
    """Send one request and return why it failed, or None if it succeeded. Waits without a limit.

    Without httpx: with thousands of connections, its pool searches the list of all of them for each
    request. That takes more processor time from the server than the requests themselves.
    """
    answer = b""
    try:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            await stream.send(head.encode())
            async for part in stream:
                answer += part
    except (OSError, anyio.BrokenResourceError) as exc:
        return f"connection lost: {type(exc).__name__}"
    status_and_headers, _, body = answer.partition(b"\r\n\r\n")
    if not (status := STATUS.match(status_and_headers)):
        return "no HTTP answer"
    if status[1] != b"200":
        return f"HTTP {status[1].decode()}"
    try:
        json.loads(body)
    except ValueError:
        return "answer cut short"
    return None
