# ruff: noqa: B008 - Depends is how FastAPI is told
"""What of an app runs in threads, and what is said of health checks and WebSockets."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from fastapi_overflow._watching.routes import health_routes, pinning_routes, routes


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
