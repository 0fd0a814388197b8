"""The load generator: so many connections, each sending its next request when it has its answer.

Run by `cells.py` in a process of its own, for one measurement; prints it as JSON. It must never be
what limits the throughput, so it speaks just enough HTTP/1.1 for the servers measured, over sockets
that stay open.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import time
from typing import Any

clock = time.perf_counter


class Connection(asyncio.Protocol):
    """One connection: a request at a time, until the load is over."""

    def __init__(self, load: Load, paths: Any) -> None:
        self.load = load
        self.paths = paths
        self.buffer = b""
        self.sent_at = 0.0
        self.busy = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.load.connected(self)

    def send(self) -> None:
        self.busy = True
        self.buffer = b""
        self.sent_at = clock()
        self.transport.write(next(self.paths))

    def data_received(self, data: bytes) -> None:
        self.buffer = buffer = self.buffer + data if self.buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = buffer[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(buffer) < end + 4 + length:
                return
        elif not buffer.endswith(b"\r\n0\r\n\r\n"):  # chunked
            return
        self.busy = False
        self.load.answered(self, buffer[9:12] == b"200", b"connection: close" in head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self.busy = False
            self.load.failed(self)


class Load:
    """The closed loop, and what came of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.latencies: list[float] = []
        self.done_at: list[float] = []
        self.failures = 0
        self.sending = False
        self.connections: list[Connection] = []
        self.in_flight = 0
        self.last_answer = 0.0
        self.health: list[float] = []
        self.asked: list[asyncio.Task[None]] = []

    def connected(self, connection: Connection) -> None:
        if connection not in self.connections[-1:]:
            self.connections.append(connection)

    def answered(self, connection: Connection, ok: bool, closing: bool) -> None:
        now = clock()
        self.last_answer = now
        self.in_flight -= 1
        self.latencies.append(now - connection.sent_at)
        if ok:
            self.done_at.append(now)
        else:
            self.failures += 1
        if self.sending and not closing:
            self.in_flight += 1
            connection.send()
        elif self.sending:
            self.reconnect(connection)

    def failed(self, connection: Connection) -> None:
        self.in_flight -= 1
        self.failures += 1
        self.last_answer = clock()
        self.latencies.append(self.last_answer - connection.sent_at)
        if self.sending:
            self.reconnect(connection)

    def reconnect(self, connection: Connection) -> None:
        task = asyncio.ensure_future(self.open(connection.paths))
        task.add_done_callback(self.reopened)

    def reopened(self, task: asyncio.Task[Connection]) -> None:
        if not task.cancelled() and task.exception() is None and self.sending:
            self.in_flight += 1
            task.result().send()

    async def open(self, paths: Any) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(self, paths), "127.0.0.1", self.args.port
        )
        return connection

    async def probe(self) -> None:
        """Ask a quiet route at fixed times beside the load, whether it has answered or not."""
        while self.sending:
            self.asked.append(asyncio.ensure_future(self.ask()))
            await asyncio.sleep(self.args.probe)

    async def ask(self) -> None:
        """GET /healthz on a connection of its own."""
        start = clock()
        took = -1.0  # refused, or unanswered at the end
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.args.port)
            try:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n")
                if (await reader.readexactly(12)).endswith(b"200"):
                    took = clock() - start
            finally:
                writer.close()
        except (OSError, EOFError):
            pass
        finally:
            self.health.append(took)

    async def run(self) -> dict[str, Any]:
        args = self.args
        requests = [
            f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode() for path in args.paths.split(",")
        ]
        for at in range(0, args.connections, 100):  # not more than a listen queue takes
            await asyncio.gather(
                *(
                    self.open(
                        itertools.cycle(
                            requests[n % len(requests) :] + requests[: n % len(requests)]
                        )
                    )
                    for n in range(at, min(at + 100, args.connections))
                )
            )
        self.sending = True
        start = self.last_answer = clock()
        self.in_flight = len(self.connections)
        for connection in list(self.connections):
            connection.send()
        probe = asyncio.ensure_future(self.probe()) if args.probe else None
        # Closed for new requests after `seconds`; what is under way may take until `cap`, unless
        # nothing at all is answered for `silence`: that is a deadlock, however it ends.
        while True:
            await asyncio.sleep(0.02)
            now = clock()
            if now - start >= args.seconds:
                self.sending = False
            if not self.sending and self.in_flight <= 0 and all(t.done() for t in self.asked):
                break
            if now - start >= args.cap or now - self.last_answer >= args.silence:
                break
        self.sending = False
        for task in (*self.asked, *((probe,) if probe else ())):
            task.cancel()
        end = clock()
        await asyncio.gather(*self.asked, return_exceptions=True)
        unanswered = max(self.in_flight, 0)
        # What was never answered has waited until now, and longer.
        self.latencies += [end - c.sent_at for c in self.connections if c.busy]
        self.latencies.sort()
        count = len(self.latencies)
        succeeded = len(self.done_at)
        return {
            "succeeded": succeeded,
            "failed": self.failures,
            "unanswered": unanswered,
            "success_rate": succeeded / max(1, succeeded + self.failures + unanswered),
            # All that was answered, until the last of it was.
            "throughput": succeeded / (self.done_at[-1] - start) if succeeded else 0.0,
            "p50": self.latencies[count // 2] if count else None,
            "p99": self.latencies[min(count - 1, int(count * 0.99))] if count else None,
            "max": self.latencies[-1] if count else None,
            "health": self.health,
            "wall": end - start,
            **(
                {"done_at": [t - start for t in self.done_at], "started": time.time() - end + start}
                if args.timeline
                else {}
            ),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--paths", required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--cap", type=float, required=True)
    parser.add_argument("--silence", type=float, required=True)
    parser.add_argument("--probe", type=float, default=0)
    parser.add_argument("--timeline", action="store_true")
    args = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    try:
        import uvloop
    except ImportError:
        result = asyncio.run(Load(args).run())
    else:
        result = uvloop.run(Load(args).run())
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
