"""Event loops without a server: test clients, many loops, forked and spawned processes.

Run by test_servers.py as `in_process.py NAME` in a Python that has the built wheel; ends with 0
where every request was answered with 200. The hook is the only way in.
"""

import asyncio
import gc
import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx
from app import app
from fastapi.testclient import TestClient

REQUESTS = 100


def must_be_answered(statuses):
    wrong = [status for status in statuses if status != 200]
    if wrong or len(statuses) != REQUESTS:
        sys.exit(f"{len(statuses) - len(wrong)} of {REQUESTS} answered, others: {set(wrong)}")


async def requests():
    """Send all requests straight into the app."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        responses = await asyncio.gather(*(client.get("/") for _ in range(REQUESTS)))
    must_be_answered([response.status_code for response in responses])


def asgi_transport():
    asyncio.run(requests())


def test_client():
    """Many threads share one client, and so one event loop."""
    with (
        TestClient(app, raise_server_exceptions=False) as client,
        ThreadPoolExecutor(REQUESTS) as threads,
    ):
        responses = list(threads.map(lambda _: client.get("/"), range(REQUESTS)))
    must_be_answered([response.status_code for response in responses])


def loops_in_turn():
    """One loop after another, of all kinds; each is gone when the next begins."""
    for _ in range(5):
        asyncio.run(requests())
        gc.collect()
        anyio.run(requests, backend_options={"use_uvloop": True})
        gc.collect()
        anyio.run(trio_requests, backend="trio")
        gc.collect()


async def trio_requests():
    statuses = []

    async def get(client):
        statuses.append((await client.get("/")).status_code)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
        anyio.create_task_group() as group,
    ):
        for _ in range(REQUESTS):
            group.start_soon(get, client)
    must_be_answered(statuses)


def loops_side_by_side():
    """Four loops in four threads, one pool of connections for all."""
    failures = []

    def run_loop():
        try:
            asyncio.run(requests())
        except SystemExit as exc:
            failures.append(str(exc))

    threads = [threading.Thread(target=run_loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(str(failures))


def child():
    from app import engine

    # Connections don't survive a fork: what SQLAlchemy's manual says to do.
    engine.dispose(close=False)
    asyncio.run(requests())


def in_child(method):
    asyncio.run(requests())  # the parent has a loop, a limiter and worker threads behind it
    process = multiprocessing.get_context(method).Process(target=child)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"child ended with {process.exitcode}")


def fork():
    in_child("fork")


def spawn():
    in_child("spawn")


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        asgi_transport,
        test_client,
        loops_in_turn,
        loops_side_by_side,
        fork,
        spawn,
    )
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]]()
