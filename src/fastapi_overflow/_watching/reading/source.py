"""A function of the app: the code behind whatever FastAPI calls, its text, and its file and line.

Used by everything that reads the app's code. It must never import what isn't loaded.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import os
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef

_MOST_WRAPPERS = 50  # around one another; more are a circle


def function_of(call: Any) -> FunctionType | None:
    """Return the Python function behind a callable, decorators and `partial` taken off."""
    for _ in range(_MOST_WRAPPERS):
        kind = type(call)
        if issubclass(kind, functools.partial):
            call = call.func
        elif issubclass(kind, MethodType):
            call = call.__func__
        elif (wrapped := inspect.getattr_static(call, "__wrapped__", None)) is not None:
            call = wrapped
        elif kind is FunctionType:
            return call  # type: ignore[no-any-return]
        elif kind in (staticmethod, classmethod):
            call = call.__func__
        elif issubclass(kind, type):
            call = inspect.getattr_static(call, "__init__", None)
        else:
            call = inspect.getattr_static(kind, "__call__", None)
    return None


def instance_of(call: Any) -> Any:
    """Return the object that a callable's `self` is, None if it has none or it isn't known."""
    while issubclass(type(call), functools.partial):
        call = call.func
    if issubclass(type(call), MethodType):
        return call.__self__
    if issubclass(type(call), (type, FunctionType)):
        return None
    return call


def name_of(call: Any) -> str:
    """Return the name of a callable as it is told."""
    while issubclass(type(call), functools.partial):
        call = call.func
    return getattr(call, "__qualname__", None) or type(call).__qualname__


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Go through a function's own code, without that of functions and classes inside."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, Function | ast.Lambda | ast.ClassDef):
            yield from own_nodes(child)


def body_nodes(node: Function) -> Iterator[ast.AST]:
    """Go through the body of a function, without its decorators, defaults and annotations."""
    for statement in node.body:
        yield statement
        if not isinstance(statement, Function | ast.ClassDef):
            yield from own_nodes(statement)


class Sources:
    """The app's files, each read and parsed once, for as long as one examination takes."""

    def __init__(self) -> None:
        self._modules: dict[str, ast.Module | None] = {}
        self._functions: dict[str, dict[tuple[str, int], Function]] = {}

    def module(self, function: FunctionType) -> ast.Module | None:
        """Return the text of the module that a function is in, None if there is none."""
        name = function.__code__.co_filename
        if name not in self._modules:
            lines = linecache.getlines(name, function.__globals__)
            try:
                self._modules[name] = ast.parse("".join(lines)) if lines else None
            except Exception:  # not Python, or changed since: any of several
                self._modules[name] = None
        return self._modules[name]

    def node(self, function: FunctionType) -> Function | None:
        """Return the text of a function, None if it isn't there or isn't its own any more."""
        module, code = self.module(function), function.__code__
        if module is None:
            return None
        known = self._functions.get(code.co_filename)
        if known is None:
            known = self._functions[code.co_filename] = {
                (node.name, min((d.lineno for d in node.decorator_list), default=node.lineno)): node
                for node in ast.walk(module)
                if isinstance(node, Function)
            }
        return known.get((code.co_name, code.co_firstlineno))

    def place(self, call: Any) -> str:
        """Return "file:line" of a callable, from the current folder if it is in there."""
        function = function_of(call)
        if function is None:
            return str(getattr(call, "__module__", None) or type(call).__module__)
        node = self.node(function)
        line = function.__code__.co_firstlineno if node is None else node.lineno
        file = function.__code__.co_filename
        inside = os.path.abspath(file).removeprefix(os.path.join(os.getcwd(), ""))
        return f"{inside}:{line}"

    def told(self, call: Any) -> str:
        """Return a callable's name, file and line, as they are told."""
        return f"{name_of(call)} ({self.place(call)})"
