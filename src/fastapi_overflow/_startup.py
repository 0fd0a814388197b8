"""Arm the import finder: `site` calls `arm()` at the start of every Python of the environment.

It must never import what is not loaded already, never raise, never print. The name and place of
`arm` are frozen: an old `.pth` or `.start` may outlive an upgrade.
"""

# Python reads and unpacks all of this file whenever it starts, so it is kept small: what is done
# when Starlette is loaded is in `_patching.first_import`.

import os
import sys

armed_by = None  # ".pth", ".start", "run" or "arm()"
kept_off = False  # by FASTAPI_OVERFLOW_DISABLE, when Python started


def is_disabled_by(environ) -> bool:  # type: ignore[no-untyped-def]
    """Tell whether FASTAPI_OVERFLOW_DISABLE turns everything off."""
    value = environ.get("FASTAPI_OVERFLOW_DISABLE", "")
    return value.strip().lower() not in ("", "0", "false", "no", "off")


_loader = None  # Starlette's own
_looking = {}  # type: ignore[var-annotated]  # threads that are in `find_spec`


def find_spec(fullname, path=None, target=None):  # type: ignore[no-untyped-def]
    """Wait, as a finder of `sys.meta_path`, for Starlette; FastAPI imports it before all else."""
    global _loader
    # Python holds its lock of all imports meanwhile, and another thread may have the lock of what
    # would be imported here. So nothing is, and one of the others that asks all others gets None.
    if fullname != "starlette":
        return None
    thread = sys.modules["_thread"].get_ident()
    if thread in _looking:
        return None
    _looking[thread] = True
    try:
        for other in list(sys.meta_path):
            if other is not finder and hasattr(other, "find_spec"):
                spec = other.find_spec(fullname, path, target)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        _loader, spec.loader = spec.loader, finder  # type: ignore[assignment]
                    return spec
    finally:
        del _looking[thread]


# As the loader of Starlette: what is to be done before the module is in `sys.modules`. From then on
# other threads import its parts, without waiting for its end.
def create_module(spec):  # type: ignore[no-untyped-def]
    if spec.loader is finder:
        spec.loader = _loader
    try:
        from fastapi_overflow._patching.first_import import get_ready
    except Exception as exc:
        # A half-removed installation: the app runs as stock.
        import logging

        logging.getLogger("fastapi_overflow").warning(
            "fastapi-overflow is off, the app runs unprotected: %s. "
            "Reinstall fastapi-overflow, or uninstall it.",
            exc,
        )
    else:
        get_ready(finder)
    return _loader.create_module(spec)  # type: ignore[union-attr]


# It passes for Starlette's loader in all else.
def __getattr__(name):  # type: ignore[no-untyped-def]
    return getattr(_loader, name)


# The module itself: a class of its own would cost 0.2 % of the start of an interpreter.
finder = sys.modules[__name__]


def arm() -> None:
    """Put the finder on `sys.meta_path`, once, unless FASTAPI_OVERFLOW_DISABLE is set."""
    global armed_by, kept_off
    if armed_by is not None or kept_off:
        return
    if is_disabled_by(os.environ):
        kept_off = True
        return
    caller = sys._getframe(1)
    if caller.f_globals.get("__name__") != "site":
        armed_by = "arm()"
    else:  # a .pth line is a little module of its own, an entry point is called from a function
        armed_by = ".pth" if caller.f_code.co_name == "<module>" else ".start"
    sys.meta_path.insert(0, finder)
