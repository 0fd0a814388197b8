"""The search for objects of a class in this process.

Called when somebody asks for advice, and once at the first stall, in a thread of its own: it goes
through all objects of the process. It must never call code of the objects that it meets.
"""

from __future__ import annotations

import gc
import sys
from types import ModuleType
from typing import Any


def instances_of(*classes: Any) -> list[Any]:
    """Return the instances of classes in this process (of those that are not None or False)."""
    kinds = tuple(kind for kind in classes if kind)
    found = {}
    # What a module has by name is found even where gc.freeze() hides it.
    candidates = [
        value
        for module in list(sys.modules.values())
        if isinstance(module, ModuleType)
        for value in list(vars(module).values())
    ]
    candidates += gc.get_objects()
    for candidate in candidates:
        # Not isinstance: it asks proxies what they stand for, and some then fail.
        if issubclass(type(candidate), kinds):
            found[id(candidate)] = candidate
    return list(found.values())
