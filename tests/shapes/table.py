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
    :ivar late: nothing tells in time that a request will need a connection where it can't wait: the
        first ones fail at once
    """

    app: str
    path: str
    kind: str = "http"
    slow: bool = False
    control: bool = False
    grows: bool = False
    late: bool = False


CLASSIC = "classic:app"
BARE = "layered:bare"
CONNECTIONS = "connections:app"
INSPECTED = "connections:inspected"

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

# They stall, or fail, for want of a connection rather than of a thread.
CONNECTION_SHAPES = {
    # queries on the event loop
    "on the loop": Shape(CONNECTIONS, "/loop/dependency"),
    "on the loop, across an await": Shape(CONNECTIONS, "/loop/dependency/await"),
    "on the loop, async dependency": Shape(CONNECTIONS, "/loop/async-dependency", slow=True),
    "on the loop, async dependency, across an await": Shape(
        CONNECTIONS, "/loop/async-dependency/await"
    ),
    "on the loop, own session, briefly": Shape(CONNECTIONS, "/loop/own", control=True),
    "on the loop, own session, across an await": Shape(CONNECTIONS, "/loop/own/await"),
    "on the loop, in an async dependency": Shape(CONNECTIONS, "/loop/user"),
    "on the loop, then in a hop": Shape(CONNECTIONS, "/loop/hop"),
    "on the loop, WebSocket": Shape(CONNECTIONS, "/websocket", kind="websocket"),
    "on the loop, after a second": Shape(CONNECTIONS, "/loop/late", late=True),
    # asyncio's threads
    "to_thread, twice": Shape(CONNECTIONS, "/to-thread"),
    # a second one
    "second session in the endpoint": Shape(CONNECTIONS, "/second"),
    "second session on the loop": Shape(CONNECTIONS, "/second/loop"),
    "second session in a background task": Shape(CONNECTIONS, "/second/task"),
    "second session in a dependency": Shape(CONNECTIONS, "/second/dependency"),
    "second session in a computed field": Shape(CONNECTIONS, "/second/field"),
    "second session, BaseHTTPMiddleware": Shape("connections:per_request", "/own/"),
    "second session, middleware": Shape("connections:inside", "/own/"),
    "second session, around the app": Shape("connections:around", "/own/"),
    # a middleware on the loop
    "middleware's session": Shape("connections:on_loop", "/sync"),
    "middleware's session, on the loop": Shape("connections:on_loop", "/async"),
    "middleware inspects on the loop": Shape(INSPECTED, "/session"),
    "middleware inspects on the loop, eager connection": Shape(INSPECTED, "/eager"),
    "middleware's connection of the loop": Shape("connections:whole", "/shared"),
    "middleware's connection of the loop, and a session": Shape("connections:whole", "/session"),
}

# Several shapes at once, their requests in turn.
MIXTURES = {
    "mixed": tuple(SHAPES),
    "on the loop beside threads": ("on the loop", "auth dependency that queries"),
    "briefly on the loop beside threads": (
        "on the loop, own session, briefly",
        "session dependency",
        "async endpoint",
    ),
    "on the loop beside hops in hops": (
        "on the loop, across an await",
        "second session in the endpoint",
        "nested, one deep",
        "hops side by side",
    ),
    "middleware on the loop beside threads": (
        "middleware inspects on the loop",
        "middleware's connection of the loop",
        "eager connection",
        "WebSocket",
    ),
}


def shapes_of(name: str) -> list[Shape]:
    """Return the shapes that a name stands for."""
    both = {**SHAPES, **CONNECTION_SHAPES}
    return [both[each] for each in MIXTURES.get(name, (name,))]
