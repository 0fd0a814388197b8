"""Both acts on their servers: warmed up, then under load, with `/health` asked beside it.

Called by the runner, once without the package and once with it. It must treat both alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import anyio

from . import DemoError
from .acts import ACTS, Act
from .client import REQUEST_SECONDS, Load, send
from .health import PATH, Health, ask_until
from .report import Run
from .server import Server

# An act in which nothing was answered for so long stands: it takes no processor time from another.
STANDS_SECONDS = 2

Show = Callable[[Act, Load], None]


async def play(
    servers: Sequence[Server], requests: int, show: Show, *, side_by_side: bool
) -> list[Run]:
    """Play the acts, one on each server, and return what came out.

    One begins when the one before is over. Two that stand would take two minutes so, in which
    nothing happens: the next one may begin beside one that stands.

    :param requests: how many each gets at once
    :param show: called when an act begins, and after each request
    :param side_by_side: whether an act may begin beside one that stands
    :raises DemoError: if the app doesn't work at all
    """
    for act, server in zip(ACTS, servers, strict=True):
        await _warm_up(act, server)
    runs: list[_Running] = []
    async with anyio.create_task_group() as playing:
        for act, server in zip(ACTS, servers, strict=True):
            runs.append(running := _Running(act, server, requests, show))
            playing.start_soon(running.play)
            if side_by_side:
                await running.over_or_standing()
            else:
                await running.over.wait()
    return [running.result() for running in runs]


async def _warm_up(act: Act, server: Server) -> None:
    # A process's first request imports and compiles: that isn't what is compared here.
    for path in (PATH, act.path):
        for failure in (await send(server.port, path, 1)).failures:
            raise DemoError(f"the app doesn't work: {failure}: {server.last_words()}")


class _Running:
    """One act on one server."""

    def __init__(self, act: Act, server: Server, requests: int, show: Show) -> None:
        self.over = anyio.Event()
        self._act = act
        self._server = server
        self._requests = requests
        self._show = show
        self._load = Load()
        self._health = Health()
        self._load_over = anyio.Event()
        self._last_answer = time.perf_counter()

    async def play(self) -> None:
        self._show(self._act, self._load)
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._ask_health)
            self._load = await send(
                self._server.port,
                self._act.path,
                self._requests,
                on_sample=self._server.sample,
                on_answer=self._answered,
            )
            self._load_over.set()
        self.over.set()

    async def over_or_standing(self) -> None:
        """Wait until the act is over, or no request has been answered for STANDS_SECONDS."""
        while not self.over.is_set():
            left = self._last_answer + STANDS_SECONDS - time.perf_counter()
            if left <= 0:
                return
            with anyio.move_on_after(left):
                await self.over.wait()

    def result(self) -> Run:
        return Run(self._load, self._health, self._server.peak_threads)

    async def _ask_health(self) -> None:
        with anyio.move_on_after(REQUEST_SECONDS):
            await ask_until(self._load_over, self._server.port, self._health)

    def _answered(self, load: Load) -> None:
        self._last_answer = time.perf_counter()
        self._show(self._act, load)
