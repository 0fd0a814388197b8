"""The dependencies of FastAPI's routes: what each gives, and which sessions a request gets by them.

Used by who looks for sessions. It follows FastAPI's own order and cache: a dependency that several
ask for is called once, unless `use_cache=False` says otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from . import kinds
from .annotations import annotations_of, meaning
from .kinds import Value
from .names import Names
from .source import Sources, function_of
from .values import Given, Values

FUNCTION_SCOPE = "function"  # of a dependency that is left before the response is sent


@dataclass(frozen=True)
class Acquired:
    """What one call of a dependency gives to a request.

    :ivar yields: whether it is kept until the request, or the function, is over
    """

    dependant: Any
    call: Any
    given: Given
    yields: bool
    scope: str | None

    @property
    def is_kept(self) -> bool:
        """Whether it keeps a session of its own, not one that it was given itself."""
        value = self.given.value
        return self.yields and value is not None and value.is_session and not value.is_passed


class Dependencies:
    """What the dependencies of an app's routes give, each looked at once."""

    def __init__(self) -> None:
        self.sources = Sources()
        self.values = Values(self.sources)
        self._given: dict[int, tuple[Any, Given]] = {}  # what it is told of is kept alive

    def given(self, dependant: Any) -> Given:
        """Return what a dependency gives, by its annotation or by its code."""
        known = self._given.get(id(dependant))
        if known is None:
            parameters = {
                name: replace(each.value, is_passed=True)
                for name, each in self.parameters(dependant).items()
                if each.value is not None
            }
            known = dependant, self.values.given(dependant.call, parameters)
            self._given[id(dependant)] = known
        return known[1]

    def parameters(self, dependant: Any) -> dict[str, Given]:
        """Return what a function gets from its dependencies, by the parameters' names."""
        function = function_of(dependant.call)
        annotations = {} if function is None else annotations_of(function)
        found = {}
        for each in dependant.dependencies:
            if each.name is None or each.call is None:  # called, but not for what it gives
                continue
            given = self.given(each)
            if function is not None and each.name in annotations:
                said = meaning(annotations[each.name], Names(function, self.sources))
                given = _agreed(said, given)
            found[each.name] = given
        return found

    def acquired(self, dependant: Any) -> list[Acquired]:
        """Return what a request gets by its dependencies, in the order in which they are called."""
        return list(self._acquired(dependant, []))

    def _acquired(self, dependant: Any, cache: list[tuple[Any, str | None]]) -> Iterator[Acquired]:
        for each in dependant.dependencies:
            yield from self._acquired(each, cache)
            if each.call is None:
                continue
            scope = getattr(each, "scope", None)
            if each.use_cache and (each.call, scope) in cache:
                continue
            cache.append((each.call, scope))
            yield Acquired(each, each.call, self.given(each), _is_generator(each.call), scope)


def functions(dependant: Any) -> Iterator[Any]:
    """Go through a route's dependencies, those of dependencies too, and then the route itself."""
    for each in dependant.dependencies:
        yield from functions(each)
    if dependant.call is not None:
        yield dependant


def _agreed(said: Value | None, given: Given) -> Given:
    """Return what a parameter gets, by its annotation and by what is known of its dependency."""
    value = given.value
    if said is None or (said.kind == kinds.OTHER and given.is_session and given.is_certain):
        return given
    if said.is_session:
        return Given(value if given.is_session else said, is_certain=True)
    if said.kind == kinds.OTHER and value is not None and value.kind == kinds.KEEPER:
        return given
    return Given(said, is_certain=True)


def _is_generator(call: Any) -> bool:
    function = function_of(call)
    return not issubclass(type(call), type) and (
        inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    )
