"""A FastAPI or Starlette app that can no longer deadlock on its own thread pool.

General layout, by the moment at which a module runs:
    _startup   every start of every Python: arms an import finder, nothing else
    _settings  Starlette is imported: reads the environment
    _patch     Starlette is imported: puts the replacements in place (_layers: who has got which)
    _hops      every request and every hop: the replacements themselves
    _pool      every hop: who gets a thread, in what order: _dispatch _tokens _queue _lease _linger
               _gate _stall _growth _clock (_counters: what it counts; _view: what it shows)
    _limiter   every hop: anyio's contract on top of the pool
    _episode   the pool stalls: what is counted and logged of it (_stacks, _stall_log)
    _control   somebody asks: set_thread_limit()
    _stats     somebody asks: stats(), is_saturated()
    _advice    somebody asks, or the first stall: advise() (_app_report)
    __main__   somebody asks: the command line
"""

# Nothing is imported here: this file runs at the start of every Python of the environment.
_HOME = {
    "SettingsError": "_settings",
    "Stats": "_watching.stats",
    "advise": "_watching.advice",
    "is_saturated": "_watching.stats",
    "iterate_in_threadpool": "_requests.replacements",
    "patch": "_patching.points",
    "patched": "_patching.points",
    "run_in_threadpool": "_requests.replacements",
    "set_thread_limit": "_requests.thread_limit",
    "stats": "_watching.stats",
}
__all__ = sorted(_HOME)  # noqa: PLE0605 - type checkers read __init__.pyi

__version__ = "0.2.0"


def __getattr__(name):  # type: ignore[no-untyped-def]
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__():  # type: ignore[no-untyped-def]
    return sorted({*globals(), *_HOME})
