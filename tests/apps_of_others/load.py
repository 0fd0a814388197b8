"""Sends requests to a server on this machine: one, or many at once, a connection for each.

Called by `real_apps.py`. Nothing waits for ever: at the deadline the rest counts as not answered.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps_of_others.recipe import Ask

DEADLINE = 35.0  # seconds in which a burst must be answered: more than SQLAlchemy's pool_timeout
NO_ANSWER = f"no answer within {DEADLINE:g} s"


@dataclass(frozen=True)
class Burst:
    """What came of requests that were sent at once."""

    name: str
    outcomes: Mapping[str, int]  # status codes, errors
    seconds: float
    median: float  # seconds to an answer, as the next one
    worst: float
    cpu: float  # seconds that the server's processes have computed for

    @property
    def failed(self) -> int:
        """How many were not answered with 2xx or 3xx."""
        return sum(n for outcome, n in self.outcomes.items() if outcome[:1] not in ("2", "3"))


def encode(ask: Ask, port: int, headers: Mapping[str, str]) -> bytes:
    """Return a request as it goes over the wire."""
    body = b"" if ask.json is None else json.dumps(ask.json).encode()
    lines = {
        "Host": f"127.0.0.1:{port}",
        "Connection": "close",
        "Accept": "*/*",
        **({"Content-Type": "application/json"} if body else {}),
        **({"Content-Length": str(len(body))} if body or ask.method != "GET" else {}),
        **headers,
        **ask.headers,
    }
    head = [f"{ask.method} {ask.path} HTTP/1.1", *(f"{k}: {v}" for k, v in lines.items())]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def exchange(port: int, request: bytes) -> tuple[str, bytes]:
    """Send a request; return the status and all the rest of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        answer = await reader.read(-1)  # the server closes the connection
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head[9:12].decode(errors="replace")
    if b"transfer-encoding: chunked" in head.lower():
        body = join_chunks(body)
    return status or "connection closed", body


def join_chunks(body: bytes) -> bytes:
    """Return a body that came in chunks, in one piece."""
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        whole, body = whole + body[:length], body[length + 2 :]
    return whole


def ask_once(port: int, ask: Ask, headers: Mapping[str, str]) -> tuple[str, bytes]:
    """Send one request and return status and body."""

    async def once() -> tuple[str, bytes]:
        return await asyncio.wait_for(exchange(port, encode(ask, port, headers)), DEADLINE)

    return asyncio.run(once())


def send_burst(
    name: str,
    asks: Sequence[Ask],
    count: int,
    at_once: int,
    port: int,
    headers: Mapping[str, str],
    group: int,
) -> Burst:
    """Send `count` requests, of `asks` in turn, `at_once` of them at any time.

    :param group: the server's process group
    """
    requests = itertools.islice(itertools.cycle(encode(a, port, headers) for a in asks), count)
    outcomes: Counter[str] = Counter()
    latencies: list[float] = []
    computed = cpu_seconds(group)
    began = time.perf_counter()

    async def client() -> None:
        for request in requests:
            sent = time.perf_counter()
            try:
                outcome, _ = await exchange(port, request)
            except OSError as exc:
                outcome = type(exc).__name__
            finally:  # at the deadline too
                latencies.append(time.perf_counter() - sent)
            outcomes[outcome] += 1

    async def all_clients() -> None:
        tasks = [asyncio.ensure_future(client()) for _ in range(at_once)]
        _, pending = await asyncio.wait(tasks, timeout=DEADLINE)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        outcomes[NO_ANSWER] += count - sum(outcomes.values())

    asyncio.run(all_clients())
    seconds = time.perf_counter() - began
    latencies.sort()
    return Burst(
        name,
        {outcome: n for outcome, n in sorted(outcomes.items()) if n},
        *(round(s, 3) for s in (seconds, latencies[len(latencies) // 2], latencies[-1])),
        round(cpu_seconds(group) - computed, 2),
    )


def cpu_seconds(group: int) -> float:
    """Return for how long the processes of a group have computed; 0 where there is no /proc."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += sum(map(int, fields[11:15]))  # its own and its ended children's
    return ticks / os.sysconf("SC_CLK_TCK")


def told(body: bytes) -> Any:
    """Return the JSON of an answer, None where it isn't any."""
    try:
        return json.loads(body)
    except ValueError:
        return None
