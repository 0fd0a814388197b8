"""What a name in a function of the app stands for, found without running anything.

Used by who reads annotations and code. It must never read an attribute by way of the app's code.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from types import FunctionType, ModuleType
from typing import Any

from .source import Sources

UNKNOWN: Any = type("Unknown", (), {})()

_names_of = vars(ModuleType)["__dict__"].__get__  # unlike `vars()`, imports no lazy module


def attribute(owner: Any, name: str) -> Any:
    """Return an attribute as it is stored, UNKNOWN where only code of the app's can tell."""
    if owner is UNKNOWN:
        return UNKNOWN
    if issubclass(type(owner), ModuleType):
        return _names_of(owner).get(name, UNKNOWN)
    found = inspect.getattr_static(owner, name, UNKNOWN)
    return UNKNOWN if type(found) is property else found


class Names:
    """The names that a function's code can see: of its closure, its module, and builtins."""

    def __init__(self, function: FunctionType, sources: Sources) -> None:
        self._function = function
        self._sources = sources
        self._seen = dict(function.__globals__)
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=False
        ):
            try:
                self._seen[name] = cell.cell_contents
            except ValueError:  # not set yet
                continue

    def find(self, name: str) -> Any:
        """Return what a name stands for, UNKNOWN if it can't be told."""
        if name in self._seen:
            return self._seen[name]
        found = self._imported(name)
        return getattr(builtins, name, UNKNOWN) if found is UNKNOWN else found

    def find_node(self, node: ast.AST) -> Any:
        """Return what a name with dots stands for."""
        if isinstance(node, ast.Name):
            return self.find(node.id)
        if isinstance(node, ast.Attribute):
            return attribute(self.find_node(node.value), node.attr)
        return UNKNOWN

    def _imported(self, name: str) -> Any:
        """Look for an import that didn't run here: `if TYPE_CHECKING`, or inside a function."""
        module = self._sources.module(self._function)
        for node in ast.walk(module) if module else ():
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            for alias in node.names:
                if (alias.asname or alias.name) != name:
                    continue
                if isinstance(node, ast.Import):
                    return sys.modules.get(alias.name, UNKNOWN)
                home = sys.modules.get(self._absolute(node))
                submodule = sys.modules.get(f"{self._absolute(node)}.{alias.name}", UNKNOWN)
                found = UNKNOWN if home is None else attribute(home, alias.name)
                return submodule if found is UNKNOWN else found
        return UNKNOWN

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = str(self._function.__globals__.get("__package__") or "").split(".")
        above = package[: len(package) - node.level + 1]
        return ".".join([*above, *filter(None, [node.module])])
