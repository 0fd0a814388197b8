"""A FastAPI or Starlette app that can no longer deadlock on its own thread pool.

General layout, by the moment at which a room or module runs:
    _exports      somebody takes a name from here: where it is
    _startup      every start of every Python: arms an import finder, nothing else
    _patching/    Starlette is imported: puts the replacements in place
    _settings     the same moment: reads the environment
    _requests/    every request and every hop: the replacements themselves
    _threads/     every hop: who gets a thread, in what order; knows nothing but Python
    _watching/    a pool stalls, or somebody asks: stats, advice, log, metrics
    asgi otel prometheus   integrations that users name
    _cli/         somebody asks: the command line (__main__)
Imports between rooms point one way; `import-linter` checks it (pyproject.toml).
"""

# Nothing is imported here: this file runs at the start of every Python of the environment. What the
# package exports is in `_exports`, and for type checkers in `__init__.pyi`.
__version__ = "0.2.0"


def __getattr__(name):  # type: ignore[no-untyped-def]
    from ._exports import find

    value = globals()[name] = find(__name__, name)
    return value


def __dir__():  # type: ignore[no-untyped-def]
    return sorted({*globals(), "__all__", *__getattr__("__all__")})
