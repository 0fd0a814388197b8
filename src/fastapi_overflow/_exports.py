"""What users import from the package, and where it is.

Imported when somebody asks the package for a name. It must import no other module until then.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

HOME = {
    "Connection": "_watching.connections_out",
    "Overloaded": "_requests.overloaded",
    "SettingsError": "_settings",
    "RouteStats": "_watching.route_stats",
    "Stats": "_watching.stats",
    "advise": "_watching.advice",
    "connections": "_watching.connections_out",
    "is_saturated": "_watching.stats",
    "iterate_in_threadpool": "_requests.hops",
    "patch": "_patching.points",
    "patched": "_patching.points",
    "patched_by": "_patching.points",
    "run_in_threadpool": "_requests.hops",
    "set_thread_limit": "_requests.thread_limit",
    "stats": "_watching.stats",
}

# Their modules import Starlette, and with that the settings are decided: not for `import *`.
NOT_BY_STAR = {"Overloaded"}


def find(package: str, name: str) -> Any:
    """Return what `package` has under `name`.

    :raises AttributeError: for a name that isn't in the table
    """
    if name == "__all__":
        return sorted(HOME.keys() - NOT_BY_STAR)
    if name not in HOME:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    # Whoever uses the package without a patch is told of stalls too.
    import_module(f"{package}._watching.observer").install()
    return getattr(import_module(f"{package}.{HOME[name]}"), name)
