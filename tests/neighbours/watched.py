"""Have neighbours watch both apps; print what they saw and how the apps answered, as JSON.

A process of its own, started by test_neighbours.py: watched.py ORDER NEIGHBOUR...
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module

LIMIT = 3
REQUESTS = 12

order, *names = sys.argv[1:]

if order == "theirs first":  # as where no .pth is run: ours come with patch()
    from fastapi_overflow import _startup

    if _startup.finder in sys.meta_path:
        sys.meta_path.remove(_startup.finder)

if order in ("ours first", "theirs first"):  # else what is imported is patched in its import
    import fastapi  # noqa: F401

neighbours = [import_module(f"with_{name}") for name in names]
if order != "launcher":
    for neighbour in neighbours:
        neighbour.install()

import fastapi_overflow  # noqa: E402

if order == "theirs first":
    fastapi_overflow.patch()

import httpx  # noqa: E402
from anyio import to_thread  # noqa: E402

import served  # noqa: E402


async def statuses(app, path, requests):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = await asyncio.gather(*(client.get(path) for _ in range(requests)))
    return [answer.status_code for answer in answers]


def tree(spans):
    """Return the names of spans, each with its parent's: the same in every run."""
    by_id = {me: name for _, me, _, name, _ in spans}
    return sorted([name, by_id.get(parent), error] for _, _, parent, name, error in spans)


async def watch(neighbour, app):
    to_thread.current_default_thread_limiter().total_tokens = LIMIT
    served.inside = neighbour.inside
    neighbour.take()
    await statuses(app, "/work", 1)
    work = neighbour.take()
    await statuses(app, "/error", 1)
    error = neighbour.take()
    answered = await statuses(app, "/work", REQUESTS)
    busy = neighbour.take()
    return {
        "work": tree(work),
        "error": tree(error),
        "answered": answered,
        "requests with their own trace": len({s[0] for s in busy if s[3] == "inside"}),
    }


seen = {}
for neighbour in neighbours:
    neighbour.listen()
    for make in (served.make_fastapi, served.make_starlette):
        seen[f"{neighbour.__name__} {make.__name__}"] = asyncio.run(watch(neighbour, make()))
print(json.dumps({"patched": fastapi_overflow.patched(), "seen": seen}))
