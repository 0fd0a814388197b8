"""Run the app of a seed: each route's request alone, or all in company. Prints a JSON report.

    python load.py SEED alone|company

A process for each, so that those in company are the first requests that it ever gets. Where it
takes too long it ends itself, with the stacks of all threads on stderr.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx
from build import STREAM, build
from draw import App, draw

HARD_TIMEOUT = 60  # seconds

BURSTS = ("cold", "second")


async def send(client: httpx.AsyncClient, app: App, number: int) -> str:
    """Send a request to a route, and return "" for a whole answer, else what is wrong."""
    try:
        response = await client.get(f"/{number}")
    except Exception as exc:
        return f"/{number} {_shown(exc)}"
    if response.status_code != 200:
        return f"/{number} status {response.status_code}"
    if app.routes[number].tail.endswith("stream") and response.content != STREAM:
        return f"/{number} half an answer"
    return ""


def _shown(exc: BaseException) -> str:
    while getattr(exc, "exceptions", None):
        exc = exc.exceptions[0]  # type: ignore[attr-defined]
    notes = "; ".join(getattr(exc, "__notes__", ()))
    return f"{type(exc).__name__}: {str(exc).splitlines()[0][:60]} {notes}".strip()


async def alone(client: httpx.AsyncClient, app: App) -> list[dict[str, Any]]:
    return [
        _report(f"/{number}", [await send(client, app, number) for _ in range(2)], 0.0)
        for number in range(len(app.routes))
    ]


async def company(client: httpx.AsyncClient, app: App) -> list[dict[str, Any]]:
    numbers = [n % len(app.routes) for n in range(app.requests)]
    Random(app.seed).shuffle(numbers)
    reports = []
    for burst in BURSTS:
        since = time.monotonic()
        answers = await asyncio.gather(*(send(client, app, number) for number in numbers))
        reports.append(_report(burst, answers, time.monotonic() - since))
        print(json.dumps(reports), flush=True)  # what is known, should the next one hang
    return reports


def _report(what: str, answers: list[str], seconds: float) -> dict[str, Any]:
    lost = Counter(answer for answer in answers if answer)
    return {
        "what": what,
        "sent": len(answers),
        "answered": len(answers) - lost.total(),
        "lost": dict(lost.most_common(6)),
        "seconds": round(seconds, 2),
    }


async def main(app: App, how: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        transport = httpx.ASGITransport(build(app, Path(folder)))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://app", timeout=None
        ) as client:
            reports = await {"alone": alone, "company": company}[how](client, app)
    print(json.dumps(reports), flush=True)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(HARD_TIMEOUT, exit=True)
    asyncio.run(main(draw(int(sys.argv[1])), sys.argv[2]))
    faulthandler.cancel_dump_traceback_later()
