# ruff: noqa: B008 - Depends is how FastAPI is told
"""What of an app runs in threads, and what is said of health checks and WebSockets."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.routing import BaseRoute, Host, Mount, Route, WebSocketRoute

from fastapi_overflow._watching import health_advice, session_advice
from fastapi_overflow._watching.reading.dependencies import Dependencies
from fastapi_overflow._watching.reading.source import Sources
from fastapi_overflow._watching.routes import found_routes, routes


def health_routes(app):
    return health_advice.health_routes(found_routes(app), Sources())


def pinning_routes(app):
    return session_advice.kept_by_websockets(found_routes(app), Dependencies())


class TestHealthRoutes:
    def test_sync_endpoint(self):
        """A sync health route is named, and what to do instead."""
        app = FastAPI()

        @app.get("/healthz")
        def alive(): ...

        (text,) = health_routes(app)
        assert text.startswith("/healthz looks like a health check and needs a thread")
        assert "alive is sync" in text

    def test_sync_dependency(self):
        """An async one with a sync dependency needs a thread too."""
        app = FastAPI()

        def get_db(): ...

        @app.get("/api/ready")
        async def ready(db=Depends(get_db)): ...

        (text,) = health_routes(app)
        assert "it has sync dependencies" in text

    def test_place(self):
        """It says where the function is."""
        app = FastAPI()

        @app.get("/healthz")
        def alive(): ...

        line = alive.__code__.co_firstlineno + 1  # that of the decorator is the function's first
        (text,) = health_routes(app)
        assert f"tests/test_routes.py:{line})" in text

    @pytest.mark.parametrize("path", ["/health", "/users/status-report", "/readings"])
    def test_none(self, path):
        """An async health route is fine, and so is any other that is sync."""
        app = FastAPI()
        if path == "/health":

            @app.get(path)
            async def fine(): ...

        else:

            @app.get(path)
            def no_probe(): ...

        assert health_routes(app) == []


class TestPinningRoutes:
    def test_websocket(self):
        """A WebSocket that keeps a dependency's connection while it is open is named."""
        app = FastAPI()

        def get_db():
            yield

        @app.websocket("/feed")
        async def feed(db=Depends(get_db)): ...

        @app.get("/feed")
        async def once(db=Depends(get_db)): ...

        (text,) = pinning_routes(app)
        assert text.startswith("/feed keeps what ")
        assert "get_db yields for as long as the WebSocket is open" in text


class TestRoutes:
    def app(self):
        def get_db():
            yield

        async def user(db=Depends(get_db)): ...

        router = APIRouter(prefix="/in")

        @router.get("/a")
        def sync_endpoint(u=Depends(user)): ...

        @router.get("/b")
        async def async_endpoint(): ...

        @router.websocket("/ws")
        async def socket(db=Depends(get_db)): ...

        app = FastAPI(openapi_url=None)
        app.include_router(router, prefix="/api")

        def plain(request): ...

        app.mount("/old", Starlette(routes=[Mount("/sub", routes=[Route("/x", plain)])]))
        return app

    def test_all(self):
        """Routes of included routers and mounted apps, each with what of it runs in threads."""
        found = {route.path: route for route in routes(self.app())}
        assert list(found) == ["/api/in/a", "/api/in/b", "/api/in/ws", "/old/sub/x"]
        assert found["/api/in/a"].endpoint.endswith("sync_endpoint")
        assert [name.rpartition(".")[2] for name in found["/api/in/a"].dependencies] == [
            "get_db (yield)"
        ]
        assert found["/api/in/b"].endpoint is None
        assert found["/api/in/ws"].endpoint is None
        assert found["/api/in/ws"].dependencies
        assert found["/old/sub/x"].endpoint.endswith("plain")

    def test_mounted_twice(self):
        """An app that is mounted at two paths is told with both."""
        mounted = Starlette(routes=[Route("/x", fine)])
        app = Starlette(routes=[Mount("/v1", mounted), Mount("/v2", mounted)])
        assert [route.path for route in routes(app)] == ["/v1/x", "/v2/x"]

    def test_class_of_handlers(self):
        """The sync handlers of an HTTPEndpoint run in threads, and it is no WebSocket."""

        class Orders(HTTPEndpoint):
            def get(self, request): ...
            async def post(self, request): ...

        class About(HTTPEndpoint):
            async def get(self, request): ...

        orders, about = routes(Starlette(routes=[Route("/orders", Orders), Route("/about", About)]))
        assert (orders.methods, about.methods) == (("GET", "POST"), ("GET",))
        assert (orders.endpoint or "").endswith("Orders.get")
        assert about.endpoint is None

    def test_asgi_app_as_endpoint(self):
        """An ASGI app as a route takes all methods, and no thread."""

        class Answers:
            async def __call__(self, scope, receive, send): ...

        (found,) = routes(Starlette(routes=[Route("/all", Answers())]))
        assert (found.methods, found.endpoint) == (("ANY",), None)


class Unbound:
    """A proxy outside of a request: it fails whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError("working outside of request context")

    @property
    def __class__(self):
        raise RuntimeError("working outside of request context")

    def __call__(self): ...


async def fine(request): ...


class TestWhatCannotBeExamined:
    """It is left out; the rest is told."""

    def paths(self, *odd: BaseRoute) -> list[str]:
        return [route.path for route in routes(Starlette(routes=[*odd, Route("/fine", fine)]))]

    def test_endpoint(self):
        """An endpoint that raises when it is asked for an attribute."""
        odd = Route("/odd", fine)
        odd.endpoint = Unbound()
        assert self.paths(odd) == ["/fine"]

    def test_dependency(self):
        """A dependency that does."""
        app = FastAPI(openapi_url=None)

        @app.get("/odd")
        async def endpoint(db=Depends(lambda: None)): ...

        app.add_route("/fine", fine)
        app.routes[0].dependant.dependencies[0].call = Unbound()
        assert [route.path for route in routes(app)] == ["/fine"]

    def test_route(self):
        """A route of a class of the app's that raises itself."""

        class Odd(BaseRoute):
            @property
            def routes(self):
                raise KeyError("tenant")

        assert self.paths(Odd()) == ["/fine"]

    def test_path(self):
        """A route whose path isn't text."""
        odd = Route("/odd", fine)
        odd.path = 7
        assert self.paths(odd) == ["/fine"]

    def test_mounted(self):
        """A mounted app of another framework, which has something else named `routes`."""

        class Other:
            def routes(self): ...
            async def __call__(self, scope, receive, send): ...

        assert self.paths(Mount("/other", Other())) == ["/fine"]

    def test_app(self):
        """An app that isn't made yet, or is none."""
        assert routes(FastAPI.__new__(FastAPI)) == []
        assert routes(Unbound()) == []
        assert routes(7) == []

    def test_app_mounted_in_itself(self):
        """An app that can be reached by itself is told once."""
        app = Starlette(routes=[Route("/fine", fine)])
        app.mount("/again", app)
        app.routes.append(Host("again.example", app))
        assert [route.path for route in routes(app)] == ["/fine"]

    def test_websocket_stays_one(self):
        """A WebSocket of bare Starlette is one."""
        (found,) = routes(Starlette(routes=[WebSocketRoute("/ws", fine)]))
        assert found.methods == ("WEBSOCKET",)
