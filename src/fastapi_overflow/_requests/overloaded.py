"""What a request gets that has waited for its first thread for FASTAPI_OVERFLOW_MAX_WAIT seconds.

Called for each request where that is set; the exception is also what apps name. A request is turned
away only while it holds nothing and none of the app's sync code has run for it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException, WebSocketException
from starlette.responses import PlainTextResponse

from .._threads.lease import NONE, Lease

TRY_AGAIN_LATER = 1013  # what a WebSocket is closed with

# What an app sends first of its answer: from then on it is too late for another one.
ANSWERS = {"http.response.start", "websocket.close", "websocket.http.response.start"}


class Overloaded(HTTPException):
    """Answer requests yourself that have waited for a thread for too long.

    Where FASTAPI_OVERFLOW_MAX_WAIT is set, a request that has waited so many seconds for its first
    thread gets this exception where it waits: in the dependency, endpoint or middleware that calls
    sync code. It is a 503 with a `Retry-After` of as many seconds, and goes through the app's
    handlers and middleware like any other. A WebSocket is closed with code 1013.

    It is Starlette's HTTPException, not FastAPI's: `except fastapi.HTTPException` lets it pass. Its
    handler should be async, as a sync one waits for a thread in its turn.
    """

    def __init__(self, seconds: float) -> None:
        HTTPException.__init__(
            self,
            503,
            "The server is overloaded. Please try again later.",
            {"Retry-After": str(max(math.ceil(seconds), 1))},
        )


class OverloadedWebSocket(WebSocketException, Overloaded):
    """`Overloaded` for a WebSocket: it is closed as by any WebSocketException.

    Without the status of an answer: the app's handler of 503 would be called with a WebSocket.
    """

    def __init__(self, seconds: float) -> None:
        Overloaded.__init__(self, seconds)
        self.status_code = TRY_AGAIN_LATER
        WebSocketException.__init__(self, TRY_AGAIN_LATER, "overloaded")


def turning_away(
    app: Callable[..., Awaitable[None]], lease: Lease, seconds: float
) -> Callable[..., Awaitable[None]]:
    """Return the method of an app for a request which may be turned away.

    Its lease says so from now on.
    """
    lease.refusal = refusal = _Refusal(lease, seconds)

    async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            refusal.is_websocket = True
            receive, send = _until_closed(receive, refusal), _until_closed(send, refusal)
        answer = _Answer(refusal, send)
        try:
            await app(self, scope, receive, answer)
        except Exception as exc:
            # Else raised in a middleware, outside of what handles an HTTPException.
            if not refusal.is_all_of(exc):
                raise
            if refusal.is_websocket:
                if answer.begun:
                    raise
                message = {"type": "websocket.close", "code": TRY_AGAIN_LATER}
                await send({**message, "reason": "overloaded"})
            elif not answer.begun:
                # What handles all errors needed a thread itself: a sync handler, the debug page.
                error = refusal.raised[0]
                response = PlainTextResponse(error.detail, error.status_code, error.headers)
                await response(scope, receive, answer)
        finally:
            refusal.raised.clear()  # their tracebacks lead here: a circle

    return call


def noting_answer(lease: Lease, send: Any) -> Any:
    """Wrap `send` of a route, whose request isn't turned away any more once it has answered.

    The server may be told later: GZipMiddleware keeps the beginning back until there is a body.
    """

    def send_and_note(message: Any) -> Any:
        if message["type"] in ANSWERS:
            lease.refusal = None
        return send(message)

    return send_and_note


def _until_closed(call: Any, refusal: _Refusal) -> Any:
    """Wrap `receive` or `send` of a WebSocket, to see when the client has closed it.

    What the app does then is to clean up, which must not fail.
    """

    async def until_closed(*message: Any) -> Any:
        try:
            received = await call(*message)
        except OSError:  # what `send` raises then
            refusal.withdraw()
            raise
        if received is not None and received["type"] == "websocket.disconnect":
            refusal.withdraw()
        return received

    return until_closed


class _Refusal:
    """What `_threads` asks before it turns a request away, and what is raised then."""

    def __init__(self, lease: Lease, seconds: float) -> None:
        self._lease = lease
        self._seconds = seconds
        self.is_websocket = False
        self.raised: list[Overloaded] = []  # several, where hops are made side by side

    def holds_nothing(self) -> bool:
        """Tell whether the request has no thread, as far as is known, and has had none."""
        return self._lease.hops == 0 and self._lease.token == NONE

    def withdraw(self) -> None:
        """Have the request wait for as long as it takes from now on, one that waits already too."""
        self._lease.refusal = None

    def error(self) -> Exception:
        kind = OverloadedWebSocket if self.is_websocket else Overloaded
        error = kind(self._seconds)
        self.raised.append(error)
        return error

    def is_all_of(self, exc: BaseException | None) -> bool:
        """Tell whether an error is what was raised here, or a group of nothing else."""
        if not self.raised:
            return False
        if any(exc is error for error in self.raised):
            return True
        group = getattr(exc, "exceptions", None)  # not by class: Python 3.10 has none for it
        return isinstance(group, tuple) and all(map(self.is_all_of, group))


class _Answer:
    """The server's `send`: a middleware's hop that was turned away is a 503 too.

    An HTTPException raised in a middleware reaches no handler of the app but that of all errors,
    which answers 500 and raises it again. An answer that is sent while anything else is handled,
    or nothing, is the app's own.
    """

    def __init__(self, refusal: _Refusal, send: Any) -> None:
        self._refusal = refusal
        self._send = send
        self.begun = False

    def __call__(self, message: Any) -> Any:
        if message["type"] in ANSWERS and not self.begun:
            self.begun = True
            self._refusal.withdraw()  # a response that has begun would only be cut off
            if message.get("status") == 500 and self._refusal.is_all_of(sys.exc_info()[1]):
                raised = self._refusal.raised[0]
                retry = [(name.lower(), value) for name, value in (raised.headers or {}).items()]
                added = [(name.encode(), value.encode()) for name, value in retry]
                headers = [*message.get("headers", ()), *added]
                message = {**message, "status": raised.status_code, "headers": headers}
        return self._send(message)
