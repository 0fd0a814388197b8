"""Which requests make up a shape: read by load.py, which sends them, and by the tests.

It must not import an app: the tests only want the names.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Requests of one kind.

    :ivar app: module:attribute
    :ivar kind: "http", "websocket" or "upload"
    :ivar slow: the client takes its time with each piece of the answer
    :ivar control: works without the package too
    :ivar grows: the pool stalls by itself and must grow beyond the limit: hops wait for hops of the
        same request, more of them than the reserve has threads, or requests that take a connection
        at their second hop get the reserve while all that have one are away
    """

    app: str
    path: str
    kind: str = "http"
    slow: bool = False
    control: bool = False
    grows: bool = False


CLASSIC = "classic:app"
BARE = "layered:bare"

SHAPES = {
    # FastAPI, sync
    "session dependency": Shape(CLASSIC, "/session"),
    "eager connection": Shape(CLASSIC, "/eager"),
    "auth dependency that queries": Shape(CLASSIC, "/auth"),
    "chain of dependencies": Shape(CLASSIC, "/chain"),
    "dependency of the router": Shape(CLASSIC, "/router"),
    "one hop": Shape(CLASSIC, "/control/one-hop", control=True),
    # async with sync hops
    "async endpoint": Shape(CLASSIC, "/async"),
    "async endpoint with pauses": Shape(CLASSIC, "/async/pauses", grows=True),
    "async endpoint, anyio's run_sync": Shape(CLASSIC, "/async/anyio"),
    "async dependency with a pause": Shape(CLASSIC, "/async/dependency"),
    "hops side by side": Shape(CLASSIC, "/async/gather"),
    # after the endpoint
    "sync stream, fast client": Shape(CLASSIC, "/stream"),
    "sync stream, slow client": Shape(CLASSIC, "/stream", slow=True),
    "background task": Shape(CLASSIC, "/background"),
    "file": Shape(CLASSIC, "/file"),
    "upload": Shape(CLASSIC, "/upload", kind="upload"),
    "upload, async": Shape(CLASSIC, "/upload/async", kind="upload"),
    # from_thread.run
    "nested, one deep": Shape(CLASSIC, "/nested/one"),
    "nested, two deep": Shape(CLASSIC, "/nested/two", grows=True),
    "WebSocket": Shape(CLASSIC, "/websocket", kind="websocket"),
    # no database
    "semaphore": Shape(CLASSIC, "/semaphore"),
    "semaphore, async": Shape(CLASSIC, "/semaphore/async"),
    "semaphore, then a session": Shape(CLASSIC, "/semaphore/session"),
    # apps in apps, layers around
    "mounted app": Shape("classic:outer", "/mounted/auth"),
    "BaseHTTPMiddleware": Shape("layered:timed", "/auth"),
    "BaseHTTPMiddleware, stream": Shape("layered:timed", "/stream"),
    "BaseHTTPMiddleware with a connection": Shape("layered:per_request", "/"),
    "middleware with a connection": Shape("layered:inside", "/sync"),
    "middleware with a connection, async": Shape("layered:inside", "/async"),
    "middleware with a connection, files": Shape("layered:inside", "/files/report.bin"),
    "around the app": Shape("layered:around", "/sync"),
    "around the app, async": Shape("layered:around", "/async"),
    "around the app, files": Shape("layered:around", "/files/report.bin"),
    # Starlette alone
    "bare Starlette, one hop": Shape(BARE, "/one-hop", control=True),
    "bare Starlette": Shape(BARE, "/own"),
    "bare Starlette, stream": Shape(BARE, "/stream"),
    "bare Starlette, background task": Shape(BARE, "/task"),
    "bare Starlette, WebSocket": Shape(BARE, "/websocket", kind="websocket"),
    "bare Starlette, mounted FastAPI": Shape(BARE, "/mounted/session"),
}
