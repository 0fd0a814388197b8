"""The search for objects of a class in this process.

Called when somebody asks for advice, and once at the first stall, in a thread of its own: it goes
through all objects of the process. It must never call code of the objects that it meets.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

# What `vars()` reads, but without asking the module: a lazy one would then be imported.
_names_of: Callable[[Any], dict[str, Any]] = vars(ModuleType)["__dict__"].__get__


def instances_of(*classes: Any) -> list[Any]:
    """Return the instances of classes in this process; what isn't a class has none."""
    kinds = tuple(kind for kind in classes if issubclass(type(kind), type))
    found = {}
    # What a module has by name is found even where gc.freeze() hides it.
    candidates = [
        value
        for module in list(sys.modules.values())
        if issubclass(type(module), ModuleType)
        for value in list(_names_of(module).values())
    ]
    candidates += gc.get_objects()
    for candidate in candidates:
        # Not isinstance: it asks proxies what they stand for, and some then fail.
        if issubclass(type(candidate), kinds):
            found[id(candidate)] = candidate
    return list(found.values())
