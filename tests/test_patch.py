"""What is patched, when, and what others can see of it.

Patching happens once in a process, so each claim about it is made of a new one, with the built
wheel's hook, or with the hook taken off first (`LATE`).
"""

from __future__ import annotations

import inspect
import sys
import warnings
from textwrap import dedent

import fastapi.concurrency  # noqa: F401 - its rows are in the table
import pytest
import wrapt
from anyio import to_thread
from starlette.applications import Starlette

import fastapi_overflow
from environments import Environment
from fastapi_overflow._patching import points as _patch
from fastapi_overflow._patching.table import NEEDED, TABLE

fastapi_overflow.patch()  # for installations without the hook

# As where no .pth is run: everything is imported before patch() is called.
LATE = """
import sys
from fastapi_overflow import _startup
sys.meta_path.remove(_startup.finder)
import fastapi, fastapi.testclient, starlette.staticfiles, starlette.testclient
import fastapi_overflow
assert "wrapt" not in sys.modules
"""

# All functions of the table, and who has got which of them.
NAMES = """
import sys
def everywhere(originals):
    return sorted(
        f"{name}.{attribute}"
        for name, module in list(sys.modules.items())
        if not name.startswith("fastapi_overflow")
        for attribute, value in list(vars(module).items())
        if any(value is original for original in originals)
    )
def originals():
    from fastapi_overflow._patching import points as _patch
    return [original for original, _ in _patch._applied.values()]
def layers(function):
    return 0 if not hasattr(function, "__wrapped__") else 1 + layers(function.__wrapped__)
"""


def place(point):
    """Return what stands at a point of this process."""
    return wrapt.resolve_path(sys.modules[point.target or point.module], point.attribute)[2]


@pytest.fixture
def child(environment):
    """Run code in a new process, and fail where it does."""

    def run(*codes, **more):
        return environment.run("\n".join(map(dedent, codes)), check=True, **more).stdout

    return run


@pytest.mark.parametrize("point", TABLE, ids=lambda point: f"{point.module}-{point.attribute}")
class TestCanary:
    """Fails when a new version of Starlette, FastAPI or anyio has changed what is patched."""

    def test_upstream_has_the_shape_expected(self, point):
        """What the installed version has there is of the expected kind, with the parameters."""
        original = inspect.unwrap(place(point))
        assert point.is_kind(original)
        assert set(point.parameters) <= set(inspect.signature(original).parameters)

    def test_is_in_place(self, point):
        """The row is in place in this process."""
        assert _patch.in_place(point)

    def test_looks_like_the_original(self, point):
        """Name, signature, kind and docstring are the original's, which stays reachable."""
        found, original = place(point), inspect.unwrap(place(point))
        assert original is not found
        assert inspect.signature(found) == inspect.signature(original)
        assert point.is_kind(found)
        for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
            assert getattr(found, attribute) == getattr(original, attribute)


class TestAsked:
    def test_in_the_middle_of_an_import(self, monkeypatch):
        """`patched()` answers while another thread puts the functions of a module in place."""

        class Row:
            wrapper = "another"

        class Importing:
            @property
            def wrapper(self):
                applied[Row()] = None, None
                return "another"

        applied = {Importing(): (None, None), **_patch._applied}
        monkeypatch.setattr(_patch, "_applied", applied)
        assert fastapi_overflow.patched()

    def test_somebody_has_it_bound(self, monkeypatch):
        """`patched()` is true where somebody calls an app's own method, taken from the app."""
        method = Starlette().__call__

        async def call(self, scope, receive, send):
            await method(scope, receive, send)

        monkeypatch.setattr(Starlette, "__call__", call)
        assert fastapi_overflow.patched()


class TestHook:
    def test_patched_tells(self, child):
        """patched() is false before Starlette is imported and true once it has been."""
        code = """
        import fastapi_overflow
        assert not fastapi_overflow.patched()
        import starlette.applications
        assert fastapi_overflow.patched()
        """
        child(code)

    @pytest.mark.parametrize("module", ["fastapi", "starlette.applications", "starlette.routing"])
    def test_nobody_has_an_original(self, child, module):
        """Whatever is imported first, no module holds one of the functions unpatched."""
        code = "assert originals() and not everywhere(originals()), everywhere(originals())"
        child(NAMES, f"import {module}, fastapi, starlette.staticfiles", code)

    def test_names_imported_from_anyio_before(self, child):
        """Names imported from anyio before Starlette are the patched ones afterwards."""
        code = """
        from anyio.to_thread import run_sync, current_default_thread_limiter as limiter
        before = run_sync, limiter
        import starlette.concurrency
        assert layers(run_sync) == layers(limiter) == 1
        assert (run_sync.__wrapped__, limiter.__wrapped__) == before
        """
        child(NAMES, code)

    def test_a_process_without_starlette_is_left_alone(self, child):
        """A process that merely uses anyio keeps anyio's own functions."""
        child(NAMES, "from anyio.to_thread import run_sync; assert not layers(run_sync)")

    def test_patch_adds_nothing(self, child):
        """The hook and patch(), in any order and any number of times, patch once."""
        code = """
        from fastapi_overflow import patch
        patch(); patch()
        import fastapi.concurrency
        patch()
        from anyio import to_thread
        from starlette.applications import Starlette
        from starlette import concurrency as one
        other = fastapi.concurrency
        for function in (one.run_in_threadpool, one.iterate_in_threadpool, other.run_in_threadpool,
                         other.iterate_in_threadpool, to_thread.run_sync, Starlette.__call__,
                         to_thread.current_default_thread_limiter):
            assert layers(function) == 1, function
        """
        child(NAMES, code)

    def test_without_fastapi(self, wheel, dependencies, tmp_path):
        """With Starlette only, FastAPI not installed, the app is patched all the same."""
        lent = tmp_path / "lent"
        lent.mkdir()
        for entry in dependencies.iterdir():
            if not entry.name.startswith("fastapi"):
                (lent / entry.name).symlink_to(entry)
        environment = Environment(tmp_path / "venv", wheel, lent)
        code = """
        import importlib.util, starlette.applications, fastapi_overflow
        assert importlib.util.find_spec("fastapi") is None
        assert fastapi_overflow.patched()
        fastapi_overflow.patch()
        """
        environment.run(dedent(code), check=True)


class TestLate:
    def test_nobody_has_an_original(self, child):
        """patch() after everything was imported replaces the functions wherever they are."""
        code = """
        from fastapi.concurrency import run_in_threadpool as mine
        from anyio.to_thread import run_sync
        fastapi_overflow.patch()
        assert fastapi_overflow.patched()
        assert not everywhere(originals()), everywhere(originals())
        assert layers(mine) == layers(run_sync) == 1
        """
        child(LATE, NAMES, code)

    def test_twice(self, child):
        """Called twice it patches once."""
        code = """
        fastapi_overflow.patch()
        fastapi_overflow.patch()
        assert layers(fastapi.concurrency.run_in_threadpool) == 1
        assert layers(starlette.applications.Starlette.__call__) == 1
        """
        child(LATE, NAMES, code)

    def test_takes_over_the_limit_that_the_app_has_set(self, child):
        """What was set on anyio's own limiter before patch() stays in force after it."""
        code = """
        import anyio
        from anyio import to_thread
        async def main():
            to_thread.current_default_thread_limiter().total_tokens = 77
            fastapi_overflow.patch()
            limiter = to_thread.current_default_thread_limiter()
            assert type(limiter).__module__.startswith("fastapi_overflow")
            assert limiter.total_tokens == 77
            limiter.total_tokens = 88
            assert to_thread.current_default_thread_limiter().total_tokens == 88
        anyio.run(main)
        """
        child(LATE, code)

    def test_lazy_modules_stay_lazy(self, child):
        """Looking for the functions doesn't load lazy modules."""
        code = """
        import importlib.util
        spec = importlib.util.find_spec("this")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        sys.modules["this"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["this"])
        fastapi_overflow.patch()
        assert fastapi_overflow.patched()
        """
        assert child(LATE, code) == ""  # the Zen of Python is not printed

    def test_odd_objects_among_the_modules(self, child):
        """Whatever others have put among the loaded modules is not touched."""
        code = """
        class Odd:
            def __getattribute__(self, name):
                raise RuntimeError(name)
        sys.modules["odd"] = Odd()
        sys.modules["absent"] = None
        fastapi_overflow.patch()
        assert fastapi_overflow.patched()
        """
        child(LATE, code)

    def test_module_named_like_one_of_python(self, child):
        """Names are replaced in an app's module that is named like one of the standard library."""
        code = """
        import types
        from anyio.to_thread import run_sync
        platform = sys.modules["platform"] = types.ModuleType("platform")
        platform.__file__ = "/srv/app/platform.py"
        platform.run_sync = run_sync
        del run_sync
        fastapi_overflow.patch()
        assert layers(platform.run_sync) == 1
        """
        child(LATE, NAMES, code)

    def test_after_a_reload(self, child):
        """After importlib.reload() hops are still ours, and patch() puts all back in place."""
        code = """
        import importlib, anyio
        import starlette.applications, starlette.concurrency, fastapi_overflow
        from anyio import to_thread
        importlib.reload(starlette.concurrency)
        def borrowers():
            return limiter.borrowed_tokens
        async def main():
            global limiter
            limiter = to_thread.current_default_thread_limiter()
            assert await starlette.concurrency.run_in_threadpool(borrowers) == 1
        anyio.run(main)
        fastapi_overflow.patch()
        assert fastapi_overflow.patched()
        assert layers(starlette.concurrency.run_in_threadpool) == 1
        assert layers(to_thread.run_sync) == 1
        """
        child(NAMES, code)


class TestWarnings:
    @pytest.mark.anyio
    async def test_point_at_the_caller(self):
        """What anyio says of the old `cancellable=` names the caller's line, as without us."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await to_thread.run_sync(int, cancellable=True)
        (warning,) = caught
        assert (warning.category, warning.filename) == (DeprecationWarning, __file__)

    def test_none_by_us(self, environment):
        """With `python -W error` the import of FastAPI raises nothing."""
        environment.run("import fastapi", options=("-W", "error"), check=True)


def test_needed_rows():
    """A bare Starlette counts as patched without FastAPI's rows, and without the optional one."""
    assert {point.module for point in set(TABLE) - set(NEEDED)} == {
        "starlette.background",
        "fastapi.concurrency",
        "fastapi.routing",
    }
