"""What annotations say: whether a parameter, or what a function gives, is a session.

Used by who looks for sessions. A string is parsed and looked up, never evaluated: that would run
whatever it says.
"""

from __future__ import annotations

import ast
import contextlib
import sys
import types
import typing
from collections import abc
from types import FunctionType
from typing import Any

from .kinds import MAKER, OTHER, SCOPED, Value, first, kind_of_class
from .names import UNKNOWN, Names

# What is given is in the first brackets.
_GIVERS = (
    abc.Generator,
    abc.Iterator,
    abc.Iterable,
    abc.AsyncGenerator,
    abc.AsyncIterator,
    abc.AsyncIterable,
    abc.Awaitable,
    contextlib.AbstractContextManager,
    contextlib.AbstractAsyncContextManager,
    typing.Annotated,
)
_UNIONS = (typing.Union, typing.Optional, getattr(types, "UnionType", typing.Union))

_DEEPEST = 20  # annotations within annotations; an alias may name itself


def annotations_of(function: FunctionType) -> dict[str, Any]:
    """Return a function's annotations, as strings or objects."""
    if sys.version_info >= (3, 14):
        import annotationlib  # they are made when asked for, and may name what isn't imported

        return annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
    return dict(function.__annotations__)


def meaning(annotation: Any, names: Names, depth: int = 0) -> Value | None:
    """Return what an annotation says, None if it says nothing of sessions or others.

    :param annotation: an object, a string, or a piece of a parsed string
    """
    if depth > _DEEPEST:
        return None
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        try:
            annotation = ast.parse(annotation, mode="eval").body
        except (SyntaxError, ValueError):
            return None
    if isinstance(annotation, ast.AST):
        return _of_node(annotation, names, depth + 1)
    return _of_object(annotation, names, depth + 1)


def _of_node(node: ast.AST, names: Names, depth: int) -> Value | None:
    if isinstance(node, ast.Constant):
        return meaning(node.value, names, depth) if isinstance(node.value, str) else None
    if isinstance(node, ast.BinOp):
        return first([meaning(side, names, depth) for side in (node.left, node.right)])
    if isinstance(node, ast.Subscript):
        inner = node.slice
        arguments = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        return _of_brackets(names.find_node(node.value), tuple(arguments), names, depth)
    found = names.find_node(node)
    return None if found is UNKNOWN else meaning(found, names, depth)


def _of_object(found: Any, names: Names, depth: int) -> Value | None:
    if type(found).__name__ == "TypeAliasType":  # `type Name = ...`
        return meaning(found.__value__, names, depth)
    if isinstance(found, typing.NewType):
        return meaning(found.__supertype__, names, depth)
    if arguments := typing.get_args(found):
        return _of_brackets(typing.get_origin(found), arguments, names, depth)
    if not issubclass(type(found), type) or found in _GIVERS:
        return None
    return _of_class(found)


def _of_brackets(base: Any, arguments: tuple[Any, ...], names: Names, depth: int) -> Value | None:
    base = typing.get_origin(base) or base  # typing.Generator is an alias itself
    if base in _UNIONS:
        return first([meaning(each, names, depth) for each in arguments])
    if base in _GIVERS:
        return meaning(arguments[0], names, depth) if arguments else None
    if not issubclass(type(base), type):
        return None
    said = _of_class(base)
    if said is not None and said.kind in (MAKER, SCOPED) and arguments:
        made = meaning(arguments[0], names, depth)  # sessionmaker[AsyncSession]
        if made is not None and made.kind == "async":
            return made
    return said


def _of_class(cls: Any) -> Value | None:
    if cls in (object, type(None)) or getattr(cls, "_is_protocol", False):
        return None
    kind = kind_of_class(cls)
    return Value(kind, what=cls if kind == OTHER else None)
