"""A FastAPI or Starlette app that can no longer deadlock on its own thread pool.

General layout, by the moment at which a room or module runs:
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

# Nothing is imported here: this file runs at the start of every Python of the environment.
_HOME = {
    "Overloaded": "_requests.overloaded",
    "SettingsError": "_settings",
    "Stats": "_watching.stats",
    "advise": "_watching.advice",
    "is_saturated": "_watching.stats",
    "iterate_in_threadpool": "_requests.hops",
    "patch": "_patching.points",
    "patched": "_patching.points",
    "run_in_threadpool": "_requests.hops",
    "set_thread_limit": "_requests.thread_limit",
    "stats": "_watching.stats",
}
__all__ = sorted(_HOME)  # noqa: PLE0605 - type checkers read __init__.pyi

__version__ = "0.2.0"


def __getattr__(name):  # type: ignore[no-untyped-def]
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    # Whoever uses the package without a patch is told of stalls too.
    import_module(f"{__name__}._watching.observer").install()
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__():  # type: ignore[no-untyped-def]
    return sorted({*globals(), *_HOME})
