"""Where a function has got to: who holds it, and who has wrapped it.

Called by the patch, and whenever somebody asks whether the app is protected. It must never touch
what it finds in a module or a variable, unless that is a function: it is anybody's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import wrapt

MOST_LAYERS = 100  # a mock has another attribute in each of its attributes, without end
PYTHON = os.path.dirname(os.__file__)  # where the standard library is


def is_pristine(function: Any) -> bool:
    """Tell whether a function is Starlette's own, not somebody's wrapper around it."""
    where = _attribute(function, "__globals__")
    starlettes = vars(sys.modules["starlette.concurrency"])
    # wrapt's wrappers pass for what they wrap.
    return where is starlettes and not hasattr(function, "__wrapped__")


def leads_to(function: Any, targets: set[int]) -> bool:
    """Tell whether a function is one of `targets`, by id, or wrapped around one."""
    layers = [function]
    seen: dict[int, Any] = {}  # and kept, for the id
    while layers and len(seen) < MOST_LAYERS:
        layer = layers.pop()
        if id(layer) in targets:
            return True
        if layer is not None and id(layer) not in seen:
            seen[id(layer)] = layer
            layers += _wrapped_by(layer)
    return False


def _wrapped_by(layer: Any) -> Iterator[Any]:
    """Yield what a layer may call: the next layer is among that."""
    yield _attribute(layer, "__wrapped__")
    # Whoever takes our function from its class gets it bound, by an object made for that.
    yield _attribute(layer, "_self_parent")
    yield _attribute(layer, "__func__")
    # Not all say what they wrap: sentry-sdk has it in a variable of the function around.
    functions = (FunctionType, MethodType, wrapt.FunctionWrapper, wrapt.BoundFunctionWrapper)
    for cell in _attribute(layer, "__closure__") or ():
        try:
            value = cell.cell_contents
        except ValueError:
            continue  # no value yet
        if issubclass(type(value), functions):
            yield value


def _attribute(layer: Any, name: str) -> Any:
    try:
        return getattr(layer, name, None)
    except Exception:
        return None  # whatever somebody has put in a function's place


def rebind(moved: dict[int, Any]) -> None:
    """Replace functions in all modules that have `from`-imported them by now.

    :param moved: what takes the place of each, by the id of the function replaced
    """
    for name, module in list(sys.modules.items()):
        package = name.partition(".")[0]
        if package == "fastapi_overflow" or not issubclass(type(module), ModuleType):
            continue
        # Not `vars()`: a lazy module would be loaded by that.
        names = object.__getattribute__(module, "__dict__")
        if package in sys.stdlib_module_names and _is_of_python(names.get("__file__")):
            continue  # nine out of ten names that there are
        # These are all names of all modules: no bytecode for each of them.
        if not moved.keys().isdisjoint(map(id, list(names.values()))):
            for attribute, value in list(names.items()):
                if id(value) in moved:
                    names[attribute] = moved[id(value)]


def _is_of_python(file: object) -> bool:
    """Tell whether a file that is named like one of the standard library is none of the app's."""
    return file is None or (type(file) is str and file.startswith(PYTHON))
