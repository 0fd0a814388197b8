"""The demo's load: so many requests at once, each timed, none without a limit.

Called by the runner with the address of a server in another process. It must never retry: a
request that fails has failed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import anyio
import httpx

# Longer than a SQLAlchemy pool lets a request wait for a connection (30 s), so that what is seen
# is the server's failure and not the client's impatience.
REQUEST_SECONDS = 60
SAMPLE_SECONDS = 0.02

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
        """The failed ones count too: their users have waited as well."""
        return median(self.latencies)

    @property
    def worst_latency(self) -> float:
        return max(self.latencies)


async def send(
    url: str, requests: int, *, on_sample: Callable[[], None], on_answer: Callable[[Load], None]
) -> Load:
    """Send the requests at once and wait until each is answered, has failed or has hung.

    :param on_sample: called every SAMPLE_SECONDS meanwhile
    :param on_answer: called after each request, with what became of all so far
    """
    load = Load()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    # trust_env: a proxy of the environment isn't meant for a server on this machine.
    async with httpx.AsyncClient(limits=limits, timeout=None, trust_env=False) as client:  # noqa: S113

        async def one() -> None:
            begin = time.perf_counter()
            failure: str | None = NO_ANSWER
            with anyio.move_on_after(REQUEST_SECONDS):
                failure = await _get(client, url)
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


async def _get(client: httpx.AsyncClient, url: str) -> str | None:
    """Send one request and return why it failed, None when it didn't."""
    try:
        response = await client.get(url)
    except httpx.HTTPError as exc:
        return type(exc).__name__
    return None if response.status_code == 200 else f"HTTP {response.status_code}"
