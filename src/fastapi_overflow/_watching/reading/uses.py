"""Where a function uses a session: on the event loop, or in a thread that it asks for.

Used by who looks for sessions in async functions. It goes by names, like `values`.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from . import kinds
from .frame import Frame
from .source import Function, body_nodes, own_nodes
from .values import Values

# Who calls what it is given in a thread, or has it called there later.
IN_THREADS = {
    "run_in_threadpool",
    "iterate_in_threadpool",
    "run_sync",
    "to_thread",
    "run_in_executor",
    "submit",
    "asyncify",
    "sync_to_async",
    "add_task",
    "BackgroundTask",
}
# What gives a connection back: as short a trip to the database as there is, or none.
GIVES_BACK = {"close", "remove"}
# And what else who yields a session to others does with it when they are done.
ENDS = {"commit", "rollback", *GIVES_BACK}


@dataclass
class Uses:
    """How a function uses one of its names.

    :ivar count: how often the name is there
    :ivar on_loop: how often it is used by code of the function itself
    """

    count: int = 0
    on_loop: int = 0


def asks_for_threads(node: ast.AST) -> bool:
    """Tell whether some code has something called in a thread."""
    return any(
        (isinstance(each, ast.Attribute) and each.attr in IN_THREADS)
        or (isinstance(each, ast.Name) and each.id in IN_THREADS)
        for each in ast.walk(node)
    )


def uses(name: str, frame: Frame, values: Values) -> Uses:
    """Find out how an async function uses a session by the name that it has there."""
    reader = _Reader(name, frame, values)
    for statement in frame.node.body:
        reader.visit(statement)
    return reader.uses


def awaits(node: Function) -> bool:
    """Tell whether a function awaits anything, so that it has to be async."""
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    return any(isinstance(each, waits) for each in body_nodes(node))


def closes(name: str, frame: Frame) -> bool:
    """Tell whether a function closes a session itself."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in GIVES_BACK
        and isinstance(node.value, ast.Name)
        and node.value.id == name
        for node in body_nodes(frame.node)
    )


class _Reader(ast.NodeVisitor):
    def __init__(self, name: str, frame: Frame, values: Values) -> None:
        self.uses = Uses()
        self._name, self._frame, self._values = name, frame, values
        self._has_threads = asks_for_threads(frame.node)
        nodes = list(body_nodes(frame.node))
        yields = any(isinstance(node, ast.Yield) and self._is(node.value) for node in nodes)
        self._harmless = ENDS if yields else GIVES_BACK
        self._away = 0  # how many of the pieces of code around run in threads

    def _is(self, node: ast.AST | None) -> bool:
        return isinstance(node, ast.Name) and node.id == self._name

    def visit_Name(self, node: ast.Name) -> None:
        if self._is(node) and isinstance(node.ctx, ast.Load):
            self.uses.count += 1
            self.uses.on_loop += not self._away

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._visit(node.value, away=self._is(node.value) and node.attr in self._harmless)

    def visit_Return(self, node: ast.Return | ast.Yield) -> None:
        if node.value is not None:
            self._visit(node.value, away=self._is(node.value))

    visit_Yield = visit_Return

    def visit_withitem(self, node: ast.withitem) -> None:
        self._visit(node.context_expr, away=self._is(node.context_expr))  # to close it at the end

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.func if isinstance(node.func, ast.Call) else node.func  # asyncify(f)()
        in_threads = any(
            (isinstance(each, ast.Attribute) and each.attr in IN_THREADS)
            or (isinstance(each, ast.Name) and each.id in IN_THREADS)
            for each in (called, *own_nodes(called))
        )
        self._visit(node.func, away=in_threads)
        for argument in (*node.args, *(each.value for each in node.keywords)):
            self._visit(argument, away=in_threads or (self._is(argument) and self._makes(node)))

    def _makes(self, node: ast.Call) -> bool:
        """Tell whether a call makes an object that keeps the session for later."""
        made = self._values.value(node, self._frame)
        return made is not None and made.kind == kinds.KEEPER

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.Lambda) -> None:
        # Streams are read in threads; of other functions it is guessed by what is there to call
        # them.
        inner = list(body_nodes(node)) if isinstance(node, Function) else []
        is_stream = any(isinstance(each, ast.Yield | ast.YieldFrom) for each in inner)
        self._visit_inside(node, away=self._has_threads or is_stream)

    visit_Lambda = visit_FunctionDef

    def _visit(self, node: ast.AST, away: bool) -> None:
        self._away += away
        self.visit(node)
        self._away -= away

    def _visit_inside(self, node: ast.AST, away: bool) -> None:
        self._away += away
        self.generic_visit(node)
        self._away -= away
