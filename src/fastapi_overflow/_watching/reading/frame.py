"""A function whose text is being read: its names, and what they are bound to.

Made by `values`, which reads it, and asked by `uses`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

from .kinds import Value
from .names import Names
from .source import Function, body_nodes


@dataclass
class Frame:
    """A function whose text is read.

    :ivar parameters: what is known of its parameters
    :ivar stored: the expressions that its names are bound to; None for what isn't an expression
    """

    names: Names
    node: Function
    parameters: Mapping[str, Value]
    depth: int
    stored: dict[str, list[ast.expr | None]] = field(default_factory=dict)
    visiting: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for node in body_nodes(self.node):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self._store(target, node.value)
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
                self._store(node.target, node.value)
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                self._store(node.optional_vars, node.context_expr)
        for node in body_nodes(self.node):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.stored.setdefault(node.id, [None])

    def _store(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            self.stored.setdefault(target.id, []).append(value)
