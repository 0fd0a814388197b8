"""What a hop calls, as far as it can be told without asking the app's objects anything.

Asked for hops outside any route, and by the growth of a stalled pool. It must never hash, compare
or ask for attributes what a hop will call: that is the app's, and may raise.
"""

from __future__ import annotations

import contextlib
from functools import partial
from types import BuiltinMethodType, FunctionType, GeneratorType, MethodType
from typing import Any

# The attributes of a partial, read past what a subclass may define.
_func_of = vars(partial)["func"].__get__
_args_of = vars(partial)["args"].__get__


def code_of(func: Any) -> tuple[object, ...]:
    """Return what is the same for hops that do the same work for different requests.

    Compare the parts by identity. Only what Python itself has made is looked into, by its exact
    type; of anything else only the type is taken.
    """
    try:
        return _code_of(func)
    except Exception:  # whatever that is, its hop must be served
        return (type(func),)


def _code_of(func: Any) -> tuple[object, ...]:
    subject = None
    while issubclass(type(func), partial):
        args = _args_of(func)
        if args:
            subject = args[0]
        func = _func_of(func)
    if type(func) is MethodType:
        owner, func = func.__self__, func.__func__
        if type(owner) is contextlib._GeneratorContextManager:
            # What a sync dependency is entered and left with: the method of a context manager
            # around a generator. Its function is there only until it is entered.
            subject = vars(owner).get("gen")
    if type(subject) is GeneratorType:  # what a stream is read with: `next` of a generator
        return *_code(func), subject.gi_code
    return _code(func)


def _code(func: Any) -> tuple[object, ...]:
    if type(func) is FunctionType:
        return (func.__code__,)
    if type(func) is BuiltinMethodType:  # a function in C, or the method of an object in C
        return type(func.__self__), func.__name__
    return (type(func),)
