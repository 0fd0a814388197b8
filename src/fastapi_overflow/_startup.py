"""Arm the import finder: `site` calls `arm()` at the start of every Python of the environment.

It must never import what is not loaded already, never raise, never print. The name and place of
`arm` are frozen: an old `.pth` or `.start` may outlive an upgrade.
"""

import os
import sys

armed_by = None  # ".pth", ".start" or "arm()"
kept_off = False  # by FASTAPI_OVERFLOW_DISABLE, when Python started


def is_disabled_by(environ) -> bool:  # type: ignore[no-untyped-def]
    """Tell whether FASTAPI_OVERFLOW_DISABLE turns everything off."""
    value = environ.get("FASTAPI_OVERFLOW_DISABLE", "")
    return value.strip().lower() not in ("", "0", "false", "no", "off")


def find_spec(fullname, path=None, target=None):  # type: ignore[no-untyped-def]
    """Wait, as a finder of `sys.meta_path`, for Starlette; FastAPI imports it before all else."""
    if fullname != "starlette":
        return None
    try:
        from fastapi_overflow._patching.first_import import find
    except Exception as exc:
        # A half-removed installation: the app runs as stock.
        import logging

        logging.getLogger("fastapi_overflow").warning(
            "fastapi-overflow is off, the app runs unprotected: %s. "
            "Reinstall fastapi-overflow, or uninstall it.",
            exc,
        )
        return None
    return find(fullname, path, target, finder)


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
