"""What counts as work in the background: what a background task does, and nothing else.

Run by pytest, with apps called in the test's own process.
"""

from __future__ import annotations

import asyncio
from functools import partial

import anyio
import pytest
from anyio.lowlevel import checkpoint
from fastapi import BackgroundTasks, Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import fastapi_overflow
from child_tools import call
from fastapi_overflow._requests.lease_of_request import current_lease

fastapi_overflow.patch()  # for installations without the hook


def in_background():
    return current_lease.get().in_background > 0


def served(endpoint):
    """Call an app with this one endpoint."""
    app = Starlette(routes=[Route("/", endpoint)])
    anyio.run(call, app, "/")


class TestBackgroundTask:
    def test_dependencies(self):
        """A background task is such work; the exit of a dependency after it is none."""
        app, found = FastAPI(), []

        def get_db():
            found.append(("enter", in_background()))
            yield
            found.append(("leave", in_background()))

        @app.get("/")
        def endpoint(tasks: BackgroundTasks, _=Depends(get_db)):  # noqa: B008 - as FastAPI has it
            tasks.add_task(lambda: found.append(("task", in_background())))
            found.append(("endpoint", in_background()))

        anyio.run(call, app, "/")
        assert sorted(found) == [
            ("endpoint", False),
            ("enter", False),
            ("leave", False),
            ("task", True),
        ]

    @pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
    def test_that_fails(self, error):
        """What a request does after a background task that has failed is none."""
        found = []

        async def endpoint(request):
            async def fail():
                raise error

            with pytest.raises(error):
                await BackgroundTask(fail)()
            found.append(in_background())
            return PlainTextResponse("fine")

        served(endpoint)
        assert found == [False]

    def test_several(self):
        """Of background tasks side by side, in each other, each is one until its own end."""
        found = []

        async def work(turns):
            for _ in range(turns):
                await checkpoint()
            found.append(in_background())

        async def endpoint(request):
            tasks = [BackgroundTask(work, turns) for turns in (5, 1, 3)]
            async with anyio.create_task_group() as group:
                for task in tasks:
                    group.start_soon(BackgroundTask(task))
            found.append(in_background())
            return PlainTextResponse("fine")

        served(endpoint)
        assert found == [True, True, True, False]

    def test_that_outlives_its_request(self):
        """One that goes on after its request, or begins then, runs as ever."""
        found = []

        async def main():
            go = anyio.Event()

            async def work(name):
                if name == "begun before":
                    await go.wait()
                found.append(name)

            async def later():
                await go.wait()
                await BackgroundTask(work, "begun after")()

            async with anyio.create_task_group() as group:

                async def endpoint(request):
                    group.start_soon(BackgroundTask(work, "begun before"))
                    group.start_soon(later)
                    await checkpoint()
                    return PlainTextResponse("fine")

                await call(Starlette(routes=[Route("/", endpoint)]), "/")
                go.set()

        anyio.run(main)
        assert sorted(found) == ["begun after", "begun before"]

    def test_outside_of_requests(self):
        """One that is run without any request runs as ever, and raises what it raises."""
        ran = []
        anyio.run(BackgroundTask(ran.append, 1))
        assert ran == [1]
        with pytest.raises(TypeError):
            BackgroundTask(partial(ran.append))("an argument too many")
