"""What happens when Starlette is looked for, imported or patched, and by two threads at once."""

from __future__ import annotations

from child_tools import run_child

LOOKED_FOR = """
import importlib.util, json, sys
before = set(sys.modules)
specs = [importlib.util.find_spec("starlette") for _ in range(2)]
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
import starlette.applications
import fastapi_overflow
print(json.dumps([
    [spec.name for spec in specs],
    sorted(loaded & {"wrapt", "anyio", "starlette"}),
    fastapi_overflow.patched(),
]))
"""


class TestLookedFor:
    def test_loads_nothing(self):
        """A mere look whether Starlette is installed loads nothing, and an import still patches."""
        names, loaded, patched = run_child(LOOKED_FOR)
        assert (names, patched) == (["starlette"] * 2, True)
        assert loaded == []

    def test_executes_starlette_once(self):
        """The loader of what was found can be used: it yields Starlette, and patches it."""
        program = """
import importlib.util, json, sys
spec = importlib.util.find_spec("starlette")
module = importlib.util.module_from_spec(spec)
sys.modules["starlette"] = module
spec.loader.exec_module(module)
import starlette.applications, fastapi_overflow
print(json.dumps([starlette is module, fastapi_overflow.patched()]))
"""
        assert run_child(program) == [True, True]


TWO_THREADS = """
import os
# Not armed, as where no .pth file is run; the app patches by itself.
os.environ.pop("FASTAPI_OVERFLOW_DISABLE", None)
import faulthandler, json, sys, threading, time
import fastapi_overflow
from fastapi_overflow import patch

faulthandler.dump_traceback_later(15, exit=True)
importing, other = threading.Event(), None


def is_blocked(thread):
    # Whether it waits for a module that another thread imports.
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and (
        frame.f_code.co_filename == "<frozen importlib._bootstrap>"
    )


class Finder:
    # Whoever imports Starlette comes through here, and holds the locks of its modules.
    def find_spec(self, name, path=None, target=None):
        if name == "starlette._utils" and threading.current_thread() is first:
            sys.meta_path.remove(self)
            importing.set()
            deadline = time.monotonic() + 5
            blocked = 0  # looks in a row: many a module's lock is held for a moment
            while second.is_alive() and blocked < 100 and time.monotonic() < deadline:
                blocked = blocked + 1 if is_blocked(second) else 0
                time.sleep(0.001)
            # Somebody's import hook, such as one that sitecustomize has registered.
            done.append(in_hook())
        return None


def in_hook():
    thread = threading.current_thread()
    fastapi_overflow.patch()
    return thread is first


def imports():
    import starlette.applications


def patches():
    assert importing.wait(5)
    patch()


done = []
first = threading.Thread(target=imports)
second = threading.Thread(target=patches)
sys.meta_path.insert(0, Finder())
second.start()
first.start()
first.join()
second.join()
print(json.dumps(done))
"""


class TestTwoThreads:
    def test_import_and_patch(self):
        """A thread that calls patch() and one that is in the middle of importing Starlette, and
        calls patch() from an import hook there, don't wait for each other.
        """
        assert run_child(TWO_THREADS, timeout=60, env={"FASTAPI_OVERFLOW_DISABLE": "1"}) == [True]
