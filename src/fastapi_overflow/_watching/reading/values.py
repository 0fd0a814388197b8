"""What a function of the app gives: a session, and of which engine, or something else.

Used by who looks for sessions among an app's dependencies. An annotation is believed; where there
is none, what the function's text yields or returns is followed to what makes it, a `sessionmaker`
say. That is a guess: it goes by names, and not by the order in which things happen.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import FunctionType, MethodType, ModuleType
from typing import Any

from . import kinds
from .annotations import annotations_of, meaning
from .frame import Frame
from .kinds import Value, first, value_of
from .names import UNKNOWN, Names, attribute
from .source import Sources, body_nodes, function_of, instance_of

_DEEPEST = 6  # functions that call one another

_CONNECTING = {"connect", "begin", "raw_connection"}  # of an engine
_ENTERING = {"enter_context", "enter_async_context", "closing", "next", "anext", "aclosing"}


@dataclass(frozen=True)
class Given:
    """What a function gives its caller.

    :ivar is_certain: whether an annotation says so
    """

    value: Value | None = None
    is_certain: bool = False

    @property
    def is_session(self) -> bool:
        return self.value is not None and self.value.is_session


class Values:
    """What the app's functions give, each looked at once."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self._given: dict[tuple[int, int], tuple[Any, Given]] = {}  # the callable is kept alive

    def given(self, call: Any, parameters: Mapping[str, Value], depth: int = 0) -> Given:
        """Return what a callable gives: what it yields, if it is a generator.

        :param parameters: what is known of its parameters
        """
        key = id(call), hash(tuple(sorted(f"{n}{v.kind}" for n, v in parameters.items())))
        if key not in self._given:
            self._given[key] = call, Given()  # should it call itself
            try:
                self._given[key] = call, self._look_at(call, parameters, depth)
            except Exception:  # noqa: S110 - whatever there is in an app
                pass
        return self._given[key][1]

    def _look_at(self, call: Any, parameters: Mapping[str, Value], depth: int) -> Given:
        made = value_of(call)
        if made.kind != kinds.OBJECT:  # a sessionmaker, say
            is_maker = made.kind in (kinds.MAKER, kinds.SCOPED)
            made = Value(kinds.SESSION, engine=made.engine) if is_maker else made
            return Given(made, is_certain=True)
        if issubclass(type(call), type):
            return self._of_class(call, parameters)
        return self._of_function(call, parameters, depth)

    @staticmethod
    def _of_class(made: Any, parameters: Mapping[str, Value]) -> Given:
        kind = kinds.kind_of_class(made)
        if kind == kinds.OTHER and any(value.is_session for value in parameters.values()):
            kind = kinds.KEEPER
        return Given(Value(kind, what=made), is_certain=kind == kinds.SESSION)

    def _of_function(self, call: Any, parameters: Mapping[str, Value], depth: int) -> Given:
        function = function_of(call)
        if function is None:
            return Given()
        names = Names(function, self.sources)
        said = meaning(annotations_of(function).get("return"), names)
        done = None
        if depth < _DEEPEST:
            frame = self.frame(call, parameters, depth)
            done = self._by_guess(function, names) if frame is None else self._result(frame)
        if said is None:
            return Given(done)
        if said.is_session and done is not None and done.is_session:
            return Given(done, is_certain=True)  # of the same, more is known
        if said.kind == kinds.OTHER and done is not None and done.kind == kinds.KEEPER:
            return Given(done)
        return Given(said, is_certain=True)

    def frame(self, call: Any, parameters: Mapping[str, Value], depth: int = 0) -> Frame | None:
        """Return a callable's text to read, None if it isn't there."""
        function = function_of(call)
        node = None if function is None else self.sources.node(function)
        if function is None or node is None:
            return None
        names = Names(function, self.sources)
        known = dict(parameters)
        given = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        each = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        annotations = annotations_of(function)
        for argument in each:
            said = meaning(annotations.get(argument.arg), names)
            if argument.arg not in known and said is not None:
                known[argument.arg] = replace(said, is_passed=True)
        myself = instance_of(call)
        if myself is not None and given and not issubclass(type(call), type):
            known[given.pop(0)] = value_of(myself)
        if issubclass(type(call), functools.partial):
            known.update(zip(given, map(value_of, call.args), strict=False))
            known.update({name: value_of(found) for name, found in call.keywords.items()})
        return Frame(names, node, known, depth)

    def _result(self, frame: Frame) -> Value | None:
        nodes = list(body_nodes(frame.node))
        given: list[Any] = [node for node in nodes if isinstance(node, ast.Yield | ast.YieldFrom)]
        given = given or [node for node in nodes if isinstance(node, ast.Return)]
        return first([self.value(node.value, frame) for node in given if node.value is not None])

    @staticmethod
    def _by_guess(function: FunctionType, names: Names) -> Value | None:
        """Return what a generator without a text may yield, by what it names."""
        if not inspect.isgeneratorfunction(function) and not inspect.isasyncgenfunction(function):
            return None
        code = function.__code__
        for name in (*code.co_names, *code.co_freevars):
            found = value_of(names.find(name))
            if found.kind in (kinds.MAKER, kinds.SCOPED, kinds.ENGINE):
                return Value(kinds.SESSION, engine=found.engine)
            if found.kind == kinds.OBJECT and issubclass(type(found.what), type):
                kind = kinds.kind_of_class(found.what)
                if kind in (kinds.SESSION, kinds.ASYNC):
                    return Value(kind)
        return None

    # ---- expressions

    def value(self, node: ast.AST, frame: Frame) -> Value | None:
        """Return what an expression in a function's text stands for, None if it isn't known."""
        found = None
        if isinstance(node, ast.Name):
            found = self.name(node.id, frame)
        elif isinstance(node, ast.Attribute):
            base = self.value(node.value, frame)
            found = None if base is None else self._of_attribute(base, node.attr)
        elif isinstance(node, ast.Call):
            found = self._of_call(node, frame)
        elif isinstance(node, ast.Await | ast.NamedExpr):
            found = self.value(node.value, frame)
        elif isinstance(node, ast.IfExp):
            found = first([self.value(each, frame) for each in (node.body, node.orelse)])
        elif isinstance(node, ast.BoolOp):
            found = first([self.value(each, frame) for each in node.values])
        return found

    def name(self, name: str, frame: Frame) -> Value | None:
        """Return what a name in a function's text stands for, None if it isn't known."""
        known = frame.parameters.get(name)
        if name in frame.stored and name not in frame.visiting:
            frame.visiting.add(name)
            bound = [self.value(each, frame) for each in frame.stored[name] if each is not None]
            frame.visiting.discard(name)
            return first([*bound, known])
        if known is not None or name in frame.stored:
            return known
        found = frame.names.find(name)
        return None if found is UNKNOWN else value_of(found)

    @staticmethod
    def _of_attribute(base: Value, name: str) -> Value | None:
        if base.kind not in (kinds.OBJECT, kinds.OTHER):
            return None
        found = attribute(base.what, name)
        if found is UNKNOWN:
            return None
        is_method = type(found) is FunctionType and base.kind == kinds.OBJECT
        if is_method and not issubclass(type(base.what), (type, ModuleType)):
            found = MethodType(found, base.what)  # or else one that needs no `self`, which is rare
        return value_of(found)

    def _of_call(self, node: ast.Call, frame: Frame) -> Value | None:
        called = node.func
        last = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if last in _ENTERING and node.args:
            return self.value(node.args[0], frame)
        if isinstance(called, ast.Attribute):
            base = self.value(called.value, frame)
            if base is not None and (made := self._made_by(base, called.attr)) is not None:
                return made
        return self._called(self.value(called, frame), node, frame)

    def _called(self, target: Value | None, node: ast.Call, frame: Frame) -> Value | None:
        if target is None or target.kind == kinds.ASYNC:
            return target
        if target.kind in (kinds.MAKER, kinds.SCOPED):
            return Value(kinds.SESSION, engine=target.engine)
        if target.kind != kinds.OBJECT:
            return None
        if issubclass(type(target.what), type):
            return self._instance(target.what, node, frame)
        return self.given(target.what, {}, frame.depth + 1).value

    @staticmethod
    def _made_by(base: Value, method: str) -> Value | None:
        """Return what a method of SQLAlchemy's makes that gives a session or a connection."""
        if base.kind == kinds.ENGINE and method in _CONNECTING:
            return Value(kinds.SESSION, engine=base.engine)
        if base.kind in (kinds.MAKER, kinds.SCOPED) and method == "begin":
            return Value(kinds.SESSION, engine=base.engine)
        if base.is_session and method in ("connection", "execution_options"):
            return base
        return base if base.kind == kinds.ASYNC and method in _CONNECTING else None

    def _instance(self, cls: Any, node: ast.Call, frame: Frame) -> Value:
        options = {each.arg: each.value for each in node.keywords}
        kind = kinds.kind_of_class(cls)
        arguments = [self.value(each, frame) for each in (*node.args, *options.values())]
        if kind == kinds.OTHER:
            kept = any(value is not None and value.is_session for value in arguments)
            return Value(kinds.KEEPER if kept else kinds.OTHER, what=cls)
        made = options.get("class_")
        made_value = None if made is None else self.value(made, frame)
        if kind == kinds.MAKER and made_value is not None and made_value.kind == kinds.OBJECT:
            inner = made_value.what
            if issubclass(type(inner), type) and kinds.kind_of_class(inner) == kinds.ASYNC:
                return Value(kinds.ASYNC)
        engines = [value.engine for value in arguments if value is not None and value.engine]
        return Value(kind, engine=engines[0] if engines else None)
