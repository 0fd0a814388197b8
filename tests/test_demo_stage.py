"""The demo's two acts: which endpoint is under load when. On servers in this process."""

from __future__ import annotations

import anyio
import anyio.abc
import pytest

from fastapi_overflow._cli.demo import stage
from support import PATIENCE


class TestTurns:
    """When the second endpoint gets its requests: the first one's figures are never its doing."""

    def test_beside_one_that_stands(self, monkeypatch):
        """The second begins while nothing is answered by the first, so that nobody waits twice."""
        monkeypatch.setattr(stage, "STANDS_SECONDS", 0.01)
        second = Endpoint()
        first = Endpoint(answers_after=second)
        play_both(first, second, side_by_side=True)
        assert first.log == ["asked", "answered"]

    @pytest.mark.parametrize(
        ("side_by_side", "stands_seconds"), [(False, 0), (True, PATIENCE)], ids=["never", "at work"]
    )
    def test_after_one_that_is_at_work(self, monkeypatch, side_by_side, stands_seconds):
        """The second waits for the end of the first, if that is at work or if it always has to."""
        monkeypatch.setattr(stage, "STANDS_SECONDS", stands_seconds)
        log = []
        play_both(Endpoint(log), Endpoint(log), side_by_side=side_by_side)
        assert log == ["asked", "answered"] * 2


class Endpoint:
    """A server in this process that answers `/health` always, and a load of one request.

    :ivar port: where it listens, once `serve` has begun
    :ivar log: what has become of the load, after the first request, which warms up
    """

    def __init__(self, log=None, answers_after=None):
        self.log = [] if log is None else log
        self.peak_threads = 1
        self.asked = anyio.Event()
        self._answers_after = answers_after
        self._warm = False

    def sample(self):
        pass

    async def serve(self, *, task_status):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
            task_status.started()
            await listener.serve(self._answer)

    async def _answer(self, stream):
        async with stream:
            request = await stream.receive()
            if not request.startswith(b"GET /health ") and self._warm:
                self.log.append("asked")
                self.asked.set()
                if self._answers_after is not None:
                    await self._answers_after.asked.wait()
                await anyio.wait_all_tasks_blocked()  # whoever wants to begin beside it has
                self.log.append("answered")
            elif not request.startswith(b"GET /health "):
                self._warm = True
            await stream.send(b"HTTP/1.1 200 OK\r\n\r\n{}")


def play_both(*endpoints, side_by_side):
    async def scenario():
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as serving:
                for endpoint in endpoints:
                    await serving.start(endpoint.serve)
                await stage.play(endpoints, 1, lambda *_: None, side_by_side=side_by_side)
                serving.cancel_scope.cancel()

    anyio.run(scenario)
