"""Figures at will for the status page, a server that serves them as its own, and looks at it.

Used by the tests of the page and of the verdict.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from fastapi_overflow import asgi
from fastapi_overflow._watching.stats import Stats
from fastapi_overflow._watching.verdict import verdict
from support import PATIENCE, free_port, wait_until

POOL = "postgresql+psycopg://app@db/shop"


def figures(**changes: Any) -> dict[str, Any]:
    """Return what an idle process tells, with changes."""
    calm = Stats(limit=40, reserve=1, loops=1).as_dict()
    rest = {"saturated": False, "stalled_for": 0.0, "pid": 4711}
    return {**calm, **rest, "routes": {}, "pools": [], "connections": [], **changes}


def pool(**changes: Any) -> dict[str, Any]:
    calm = {"pool": POOL, "capacity": 15, "out": 0, "idle": 0, "waiting": 0, "longest_wait": 0.0}
    return {**calm, **changes}


def route(**changes: Any) -> dict[str, Any]:
    names = ("running", "waiting_for_thread", "waiting_for_connection", "connections")
    numbers = dict.fromkeys((*names, "connections_idle", "requests"), 0)
    times = ("waited_for_thread", "waited_for_connection", "held", "idle")
    return {**numbers, **{f"seconds_{time}": 0.0 for time in times}, **changes}


def connection(**changes: Any) -> dict[str, Any]:
    one = {"pool": POOL, "method": "GET", "route": "/stream", "line": "app/stream.py:12"}
    return {**one, "seconds": 12.3, "doing": "idle", "is_async": False, **changes}


def short_of_connections(**changes: Any) -> dict[str, Any]:
    """Return the figures of an app whose streams keep what others wait for."""
    streams = [connection(seconds=30.0 - n) for n in range(11)]
    orders = [
        connection(route="/orders/{id}", line="shop/orders.py:41", seconds=0.4, doing=doing)
        for doing in ("running in a thread",) * 3 + ("on the event loop",)
    ]
    waiting = route(
        running=3,
        waiting_for_connection=22,
        connections=4,
        requests=811,
        seconds_waited_for_connection=8.2,
        seconds_held=40.3,
        seconds_idle=3.0,
    )
    kept = route(
        running=0,
        connections=11,
        connections_idle=11,
        requests=11,
        seconds_held=300.0,
        seconds_idle=291.0,
    )
    told = figures(
        threads_in_use=7,
        hops=4312,
        waits=12,
        pools=[pool(out=15, idle=11, waiting=22, longest_wait=1.3)],
        routes={"GET /orders/{id}": waiting, "GET /stream": kept, "GET /health": route(requests=9)},
        connections=[*streams, *orders],
    )
    return {**told, **changes}


class Page:
    """The status page, with figures that the test decides on.

    :ivar url: of the page
    :ivar figures: what it tells from now on; an exception is raised instead
    """

    def __init__(self) -> None:
        self.figures: Any = figures()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.asked = threading.Event()  # set whenever the figures have been asked for
        self._may_answer = threading.Event()
        self._may_answer.set()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def status(self) -> dict[str, Any]:
        assert self._may_answer.wait(2 * PATIENCE)  # the event loop stands still meanwhile
        self.asked.set()
        if isinstance(self.figures, Exception):
            raise self.figures
        told = self.figures
        return {**told, "verdict": verdict(told)} if told["pools"] is not None else told

    def hold(self) -> None:
        """Have the server take questions and answer none until `let_go`."""
        self._may_answer.clear()

    def let_go(self) -> None:
        self._may_answer.set()

    def start(self) -> None:
        """Serve the page, and return once it is served."""
        config = uvicorn.Config(asgi.StatusApp(), "127.0.0.1", self.port, log_level="critical")
        self._server = server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: server.started, "the server of the page")

    def stop(self) -> None:
        """Stop serving it."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive(), "the server of the page doesn't end"


@contextmanager
def served(monkeypatch: Any) -> Iterator[Page]:
    """Serve the status page with figures of the test's own."""
    page = Page()
    monkeypatch.setattr(asgi, "status", page.status)
    page.start()
    try:
        yield page
    finally:
        page.stop()


def look(window: Any, page: Page, **how: Any) -> None:
    """Open the page, and wait for what it shows first."""
    window.show(page.url, **how)
    window.until(f"document.getElementById('whose')?.textContent === 'process {4711}'", "figures")


def until_state(window: Any, state: str) -> None:
    """Wait until the page shows a state."""
    window.until(f"document.getElementById('verdict').dataset.state === '{state}'", state)
