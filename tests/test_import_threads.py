"""Importing in several threads at once: nobody waits for ever, as without this package.

Run in children, as a program fails by hanging.
"""

from __future__ import annotations

import pytest

from child_tools import run_child

# The import system calls finders while it holds the lock of all imports. Who waits there for
# another import, which needs that lock to go on, waits for ever.
PROGRAM = """
import os
import sys
import threading

module = sys.argv[1]
import fastapi_overflow._startup as startup
startup.arm()
for name in [name for name in sys.modules if name == module or name.startswith(module + ".")]:
    del sys.modules[name]
in_the_middle = threading.Event()


def trace(frame, event, arg):
    if frame.f_code.co_name == "<module>" and frame.f_globals["__name__"] == module:
        in_the_middle.set()
        threading.Event().wait(0.5)  # for Starlette to be looked up meanwhile
        sys.settrace(None)


def first():
    sys.settrace(trace)
    __import__(module)
    import wave  # any other module


def second():
    in_the_middle.wait(10)
    import starlette.applications


threads = [threading.Thread(target=each, daemon=True) for each in (first, second)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(15)
print("false" if any(thread.is_alive() for thread in threads) else "true", flush=True)
os._exit(0)
"""


class TestThreads:
    @pytest.mark.parametrize("module", ["typing"])
    def test_import_while_starlette_is_looked_up(self, module):
        """A thread may import what another one needs to find Starlette."""
        assert run_child(PROGRAM, module)
