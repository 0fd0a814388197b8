"""The start of Python with the package installed: what runs, what is loaded, what is left alone.

Every claim is about a new process in an environment with the built wheel's files.
"""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest

from environments import TIMEOUT
from support import run_python

LOADED = "import sys; print(*sys.modules)"

FINDERS = """
import sys
print(sum(getattr(f, "__name__", "") == "fastapi_overflow._startup" for f in sys.meta_path))
"""

PATCHED = """
import fastapi, fastapi_overflow
print(fastapi_overflow.patched())
"""


class TestStart:
    def test_loads_two_modules_and_nothing_else(self, own_environment):
        """Starting Python loads the package, its start-up module, and nothing else at all."""
        with_hook = set(own_environment.run(LOADED, check=True).stdout.split())
        own_environment.pth.unlink()
        # Not taken away: Python 3.15 itself loads 29 modules for any .start file there is.
        own_environment.start.write_text("sys:getrecursionlimit\n")
        without = set(own_environment.run(LOADED, check=True).stdout.split())
        assert with_hook - without == {"fastapi_overflow", "fastapi_overflow._startup"}

    @pytest.mark.parametrize(
        "module",
        [
            "wrapt",
            "anyio",
            "asyncio",
            "starlette",
            "logging",
            "re",
            "inspect",
            "importlib.metadata",
        ],
    )
    def test_does_not_load(self, environment, module):
        """None of the modules that make a start slow is loaded before Starlette is."""
        if module == "re" and sys.version_info >= (3, 15):
            pytest.skip("Python itself loads it, for any .start file there is")
        assert module not in environment.run(LOADED, check=True).stdout.split()

    def test_one_finder(self, environment):
        """A virtual environment runs the line twice; there is still only one finder."""
        assert environment.run(FINDERS, check=True).stdout == "1\n"

    def test_the_line_again_changes_nothing(self, environment):
        """Running the .pth file's line again by hand changes nothing."""
        line = environment.pth.read_text().strip()
        assert environment.run(f"{line}\n{FINDERS}", check=True).stdout == "1\n"

    def test_says_nothing(self, environment):
        """With an intact package, neither a start nor an import of FastAPI prints anything."""
        done = environment.run("import fastapi", check=True)
        assert (done.stdout, done.stderr) == ("", "")

    def test_tells_by_what_it_was_armed(self, environment):
        """It is known which file armed the hook."""
        code = "from fastapi_overflow import _startup; print(_startup.armed_by)"
        assert environment.run(code, check=True).stdout == f"{environment.hook.suffix}\n"


class TestDisabled:
    @pytest.mark.parametrize("value", ["1", "true", "yes", "on", " 1 ", "anything"])
    def test_nothing_is_left_on_the_path(self, environment, value):
        """FASTAPI_OVERFLOW_DISABLE leaves no finder."""
        done = environment.run(FINDERS, check=True, env={"FASTAPI_OVERFLOW_DISABLE": value})
        assert done.stdout == "0\n"

    @pytest.mark.parametrize("value", ["", "0", "false", "no", "off", "False", " OFF "])
    def test_values_that_do_not_disable(self, environment, value):
        """Empty, 0, false, no and off, in any case, don't disable."""
        done = environment.run(FINDERS, check=True, env={"FASTAPI_OVERFLOW_DISABLE": value})
        assert done.stdout == "1\n"

    def test_nothing_is_patched(self, environment):
        """With FASTAPI_OVERFLOW_DISABLE the app is stock, even after an explicit patch()."""
        code = f"import fastapi_overflow; fastapi_overflow.patch()\n{PATCHED}"
        done = environment.run(code, check=True, env={"FASTAPI_OVERFLOW_DISABLE": "1"})
        assert done.stdout == "False\n"


class TestFinder:
    def test_is_gone_after_first_use(self, environment):
        """Once Starlette is imported no look-up passes through the finder any more."""
        done = environment.run(f"import starlette\n{FINDERS}", check=True)
        assert done.stdout == "0\n"

    def test_stays_where_there_are_threads(self, environment):
        """A thread that is going through the finders misses none: none is removed meanwhile."""
        code = """
        import threading
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        thread.start()
        import starlette
        end.set()
        thread.join()
        """
        done = environment.run(dedent(code) + FINDERS, check=True)
        assert done.stdout == "1\n"

    def test_probing_for_fastapi_loads_nothing(self, environment):
        """Asking whether FastAPI is installed neither loads wrapt nor disarms the hook."""
        code = """
        import importlib.util, sys
        assert importlib.util.find_spec("fastapi")
        assert "wrapt" not in sys.modules
        """
        assert environment.run(dedent(code) + PATCHED, check=True).stdout == "True\n"

    @pytest.mark.parametrize("name", ["fastapi", "starlette"])
    def test_probing_works_with_wrong_settings(self, environment, name):
        """Asking whether they are installed doesn't raise, whatever the settings are."""
        code = f"import importlib.util; print(bool(importlib.util.find_spec({name!r})))"
        done = environment.run(code, check=True, env={"FASTAPI_OVERFLOW_LIMIT": "abc"})
        assert done.stdout == "True\n"

    def test_probing_for_starlette_does_not_lose_the_hook(self, environment):
        """After somebody has asked whether Starlette is installed, its import is still patched."""
        code = "import importlib.util; importlib.util.find_spec('starlette')\n"
        assert environment.run(code + PATCHED, check=True).stdout == "True\n"

    def test_skips_no_other_finder(self, environment):
        """Finders after ours see the look-up of Starlette, and the next ones, as ever."""
        code = """
        import sys
        from fastapi_overflow._startup import finder
        class Spy:
            def __init__(self):
                self.seen = []
            def find_spec(self, name, path=None, target=None):
                self.seen.append(name)
        ours = sys.meta_path.index(finder)
        spies = Spy(), Spy()
        sys.meta_path.insert(ours + 1, spies[0])
        sys.meta_path.insert(ours + 2, spies[1])
        import starlette.concurrency
        for spy in spies:
            assert spy.seen.count("starlette") == 1, spy.seen
            assert spy.seen.count("starlette.concurrency") == 1, spy.seen
        """
        environment.run(dedent(code), check=True)

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_other_hooks_on_starlette_run(self, environment, moment):
        """Somebody else's wrapt hook on Starlette runs once, registered before ours or after."""
        code = """
        import importlib.util, sys
        if sys.argv[1] == "after":
            importlib.util.find_spec("starlette")  # has ours registered
        import wrapt
        seen = []
        wrapt.register_post_import_hook(lambda module: seen.append(module.__name__), "starlette")
        wrapt.register_post_import_hook(
            lambda module: seen.append(module.__name__), "starlette.concurrency"
        )
        import fastapi, fastapi_overflow
        assert fastapi_overflow.patched()
        assert seen == ["starlette", "starlette.concurrency"], seen
        """
        run_python(environment.python, dedent(code), moment, timeout=TIMEOUT, check=True)


class TestThreads:
    def test_that_import_at_once(self, environment):
        """Threads that import parts of Starlette and FastAPI at once get patched ones, once."""
        code = """
        import importlib, sys, threading, traceback
        sys.setswitchinterval(1e-6)
        # Not parts of FastAPI: it imports itself in a circle, which threads can't share anyway.
        names = ["starlette", "fastapi", "starlette.applications", "starlette.concurrency"] * 2
        start, errors = threading.Barrier(len(names)), []
        def load(name):
            start.wait()
            try:
                importlib.import_module(name)
                import starlette.applications, fastapi_overflow
                assert fastapi_overflow.patched()
            except BaseException:
                errors.append(traceback.format_exc())
        threads = [threading.Thread(target=load, args=[name]) for name in names]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert not errors, errors[0]
        from starlette.concurrency import run_in_threadpool
        assert not hasattr(run_in_threadpool.__wrapped__, "__wrapped__")
        """
        for _ in range(3):
            environment.run(dedent(code), check=True)


class TestSubinterpreter:
    def test_starts_and_is_armed(self, environment):
        """A subinterpreter starts with a finder of its own and imports a patched Starlette."""
        code = """
        import os
        try:
            import _interpreters
        except ImportError:
            import _xxsubinterpreters as _interpreters
        inside = _interpreters.create()
        failed = _interpreters.run_string(inside, '''
        import starlette.applications, fastapi_overflow
        print(fastapi_overflow.patched(), flush=True)
        ''')
        assert not failed, failed
        os._exit(0)  # a subinterpreter that has loaded asyncio can't be ended: Python 3.12 crashes
        """
        done = environment.run(dedent(code), check=True)
        assert done.stdout == "True\n"
