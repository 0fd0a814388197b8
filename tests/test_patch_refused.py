"""Where patching must give way: to a changed upstream, and to others who wrap it too.

Every claim is made of a new process. What upstream might become is simulated by an import hook that
runs just before ours.
"""

from __future__ import annotations

from textwrap import dedent

import pytest

from fastapi_overflow._patching.table import TABLE

# Registered before ours, so it runs before ours. `damage` gets the module whose import patches.
BEFORE_OURS = """
import asyncio, functools, logging, sys
import wrapt
def before_ours(module):
    def register(function):
        assert module not in sys.modules
        wrapt.register_post_import_hook(function, module)
        return function
    return register
"""

# What is wrapped in the modules loaded, and an app with a sync endpoint.
CHECKS = """
def wrapped_anywhere():
    owners = [m for name, m in sys.modules.items() if m and not name.startswith("fastapi_overflow")]
    if "starlette.applications" in sys.modules:
        owners.append(sys.modules["starlette.applications"].Starlette)
    return [
        f"{owner.__name__}.{name}"
        for owner in owners
        for name, value in vars(owner).items()
        if type(value) is wrapt.FunctionWrapper
    ]
async def call(app):
    bodies = []
    async def receive():
        return {"type": "http.request"}
    async def send(message):
        bodies.append(message.get("body", b""))
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return b"".join(bodies).decode()
def answer():
    import anyio
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    endpoint = lambda request: PlainTextResponse("fine")
    return anyio.run(call, Starlette(routes=[Route("/", endpoint)]))
"""

# How upstream may have changed: gone, of another kind, with other parameters. The last two work.
CHANGES = {
    "gone": "delattr(owner, name)",
    "of another kind": "setattr(owner, name, OtherKind(original))",
    "with other parameters": "setattr(owner, name, OTHER_PARAMETERS)",
}

OTHER_KIND = """
class OtherKind:
    def __init__(self, function):
        self.function = function
    def __get__(self, instance, owner):
        return self if instance is None else functools.partial(self.function, instance)
    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)
"""

OTHER_PARAMETERS = {
    "run_sync": """
async def other(function, *arguments, **more):
    return await original(function, *arguments, **more)
""",
    "iterate_in_threadpool": """
async def other(items):
    async for item in original(items):
        yield item
""",
    "Starlette.__call__": """
async def other(self, event, get, put):
    return await original(self, event, get, put)
""",
}
OTHER_METHOD = """
async def other(this):
    return await original(this)
"""
OTHER_PARAMETERS["Route.handle"] = OTHER_PARAMETERS["Starlette.__call__"]
OTHER_PARAMETERS["WebSocketRoute.handle"] = OTHER_PARAMETERS["Starlette.__call__"]
OTHER_PARAMETERS["APIRoute.handle"] = OTHER_PARAMETERS["Starlette.__call__"]
OTHER_PARAMETERS["run_in_threadpool"] = OTHER_PARAMETERS["run_sync"]


def _cases():
    for point in TABLE:
        if point.is_optional:
            continue
        # anyio's limiter function may be any callable and takes no parameters.
        wrong = list(CHANGES) if point.parameters else ["gone"]
        if point.attribute.endswith(".handle"):
            wrong.remove("gone")  # the class inherits one as good
        for change in wrong:
            yield pytest.param(point, change, id=f"{point.module}-{point.attribute}-{change}")


@pytest.fixture
def child(environment):
    """Run code in a new process, and fail where it does."""

    def run(*codes):
        return environment.run("\n".join(map(dedent, codes)), check=True)

    return run


class TestUnknownShape:
    @pytest.mark.parametrize(("point", "change"), list(_cases()))
    def test_one_warning_and_nothing_patched(self, child, point, change):
        """One warning names module and attribute; nothing is patched, and the app answers."""
        owner, _, name = point.attribute.rpartition(".")
        place = f"{point.target or point.module}.{point.attribute}"
        works = change != "gone"  # else the rest of Starlette or FastAPI can't even be imported
        damage = f"""
        @before_ours({point.module!r})
        def damage(module):
            global original
            owner = sys.modules[{point.target or point.module!r}]
            owner = getattr(owner, {owner!r}) if {owner!r} else owner
            name = {name!r}
            original = getattr(owner, name)
            {CHANGES[change].replace("OTHER_PARAMETERS", "other")}
        """
        check = f"""
        class Records(logging.Handler):
            def emit(self, record):
                records.append(record)
        records = []
        logger = logging.getLogger("fastapi_overflow")
        logger.addHandler(Records())
        logger.propagate = False
        import {"fastapi.concurrency" if works else point.module}, fastapi_overflow
        if {works}:
            fastapi_overflow.patch()  # doesn't help, nor say it again
        assert not fastapi_overflow.patched()
        (record,) = records
        assert record.levelname == "WARNING"
        assert {place!r} in record.getMessage(), record.getMessage()
        assert "unprotected" in record.getMessage()
        assert not wrapped_anywhere(), wrapped_anywhere()
        """
        answers = 'assert answer() == "fine"' if works else ""
        other = OTHER_PARAMETERS.get(point.attribute, "")
        child(BEFORE_OURS, OTHER_KIND, other, damage, CHECKS, check, answers)


class TestOptional:
    @pytest.mark.parametrize("change", [*CHANGES, "module gone"])
    def test_all_others_are_patched(self, child, change):
        """Where a row is not as expected that an app doesn't need, the others are in place."""
        (point,) = [point for point in TABLE if point.is_optional]
        changed = CHANGES.get(change, "delattr(module, 'BackgroundTask')")
        damage = f"""
        @before_ours({point.module!r})
        def damage(module):
            global original
            owner, name = module.BackgroundTask, "__call__"
            original = owner.__call__
            {changed.replace("OTHER_PARAMETERS", "other")}
        """
        check = f"""
        class Records(logging.Handler):
            def emit(self, record):
                records.append(record)
        records = []
        logging.getLogger("fastapi_overflow").addHandler(Records())
        from fastapi_overflow._patching import points, table
        import starlette.{"background" if change == "module gone" else "applications"}
        import fastapi_overflow
        if {change != "module gone"}:
            assert fastapi_overflow.patched()
            assert answer() == "fine"
        assert points.failure() is None
        assert not any(points.in_place(point) for point in table.TABLE if point.is_optional)
        assert not records, records
        """
        child(BEFORE_OURS, OTHER_KIND, OTHER_METHOD, damage, CHECKS, check)


# Somebody else's wrapper, as functools.wraps makes it.
THEIRS = """
calls = []
def wrapped(original):
    @functools.wraps(original)
    async def theirs(*args, **kwargs):
        calls.append(original.__name__)
        return await original(*args, **kwargs)
    return theirs
"""

OURS = """
import anyio
from anyio import to_thread
async def borrowed():
    from starlette.concurrency import run_in_threadpool
    limiter = to_thread.current_default_thread_limiter()
    assert type(limiter).__module__.startswith("fastapi_overflow")
    return await run_in_threadpool(lambda: limiter.borrowed_tokens)
"""


class TestOthers:
    def test_who_wraps_before_us_is_called(self, child):
        """A wrapper that was there before ours still runs, and its hop takes our token."""
        code = """
        @before_ours("starlette.concurrency")
        def wrap(module):
            module.run_in_threadpool = wrapped(module.run_in_threadpool)
        import starlette.applications, fastapi_overflow
        assert fastapi_overflow.patched()
        assert anyio.run(borrowed) == 1
        assert calls == ["run_in_threadpool"]
        """
        child(BEFORE_OURS, THEIRS, OURS, code)

    def test_who_wraps_after_us_is_called(self, child):
        """A wrapper put around ours runs, its hop takes our token, and we still count as on."""
        code = """
        import starlette.applications, starlette.concurrency, fastapi_overflow
        starlette.concurrency.run_in_threadpool = wrapped(starlette.concurrency.run_in_threadpool)
        starlette.applications.Starlette.__call__ = wrapped(
            starlette.applications.Starlette.__call__
        )
        assert fastapi_overflow.patched()
        fastapi_overflow.patch()
        assert anyio.run(borrowed) == 1
        assert calls == ["run_in_threadpool"]
        assert answer() == "fine"
        """
        child(BEFORE_OURS, THEIRS, OURS, CHECKS, code)

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_who_wraps_anyio_is_called(self, child, moment):
        """A wrapper around anyio's run_sync, put there before us or after, sees all hops."""
        code = f"""
        def wrap():
            to_thread.run_sync = wrapped(to_thread.run_sync)
        if {moment!r} == "before":
            wrap()
        import starlette.applications, fastapi_overflow
        if {moment!r} == "after":
            wrap()
        assert fastapi_overflow.patched()
        assert anyio.run(borrowed) == 1
        assert calls == ["run_sync"], calls
        """
        child(BEFORE_OURS, THEIRS, OURS, code)

    def test_who_replaces_ours_is_told(self, child):
        """If somebody replaces our function with another one, patched() says so."""
        code = """
        import starlette.applications, starlette.concurrency, fastapi_overflow
        async def another(func, *args, **kwargs):
            return func(*args, **kwargs)
        starlette.concurrency.run_in_threadpool = another
        assert not fastapi_overflow.patched()
        """
        child(code)

    def test_who_puts_a_mock_there_is_told(self, child):
        """So it does for a mock, which has every attribute it is asked for."""
        code = """
        import starlette.applications, starlette.concurrency, fastapi_overflow
        from unittest.mock import patch, Mock, AsyncMock
        for mock in (Mock(), AsyncMock()):
            with patch("starlette.concurrency.run_in_threadpool", mock):
                assert not fastapi_overflow.patched()
            assert fastapi_overflow.patched()
        """
        child(code)
