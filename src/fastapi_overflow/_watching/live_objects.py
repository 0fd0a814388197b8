"""The search for objects of a class among all objects of this process.

Called by `advise()` and `doctor --app`, and once at the first stall, in a thread of its own. It
must never call code of the objects that it meets.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

# Like `vars()`, but without reading an attribute: that would import a lazy module.
_names_of: Callable[[Any], dict[str, Any]] = vars(ModuleType)["__dict__"].__get__


def instances_of(*classes: Any) -> list[Any]:
    """Return all instances of classes; what isn't a class has none."""
    kinds = tuple(kind for kind in classes if issubclass(type(kind), type))
    found = {}
    # gc.freeze() hides objects from gc.get_objects(), but not from the modules that name them.
    candidates = [
        value
        for module in list(sys.modules.values())
        if issubclass(type(module), ModuleType)
        for value in list(_names_of(module).values())
    ]
    candidates += gc.get_objects()
    for candidate in candidates:
        # Not isinstance(): it reads `__class__`, which a proxy computes, or fails to.
        if issubclass(type(candidate), kinds):
            found[id(candidate)] = candidate
    return list(found.values())
