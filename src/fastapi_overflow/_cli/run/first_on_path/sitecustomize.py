"""Arm what the `.pth` file arms, then give way to the `sitecustomize` further down the path.

`site` imports it when a Python starts that has this folder on PYTHONPATH: the command of
`fastapi-overflow run`, and what that starts. That may be a Python of any version, so nothing here
needs a new one. It must never change what becomes of the other `sitecustomize`, or of its errors.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

import os
import sys

FOLDER = os.path.dirname(__file__)  # as it stands on `sys.path`
HOME = os.path.abspath(os.path.join(FOLDER, *[os.pardir] * 4))


class LastFinder:
    """Finds the package where `run` was started from, if this Python has none; wrapt as well."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in ("fastapi_overflow", "wrapt"):
            return None
        # Not by one more folder on `sys.path`: the app would find more there than these two.
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(name, [HOME])


def arm():
    if sys.version_info < (3, 10):  # noqa: UP036
        return
    try:
        sys.meta_path.append(LastFinder)
        from fastapi_overflow import _startup

        armed_before = _startup.armed_by
        _startup.arm()
        if _startup.armed_by != armed_before:
            _startup.armed_by = "run"
    except Exception as exc:
        if sys.stderr:
            sys.stderr.write("fastapi-overflow is off, the app runs unprotected: %r\n" % (exc,))  # noqa: UP031


def give_way():
    """Import the next `sitecustomize` in the place of this one.

    :raises ImportError: if there is none; `site` expects that, and no such module is loaded then
    """
    index = sys.path.index(FOLDER)
    del sys.path[index]
    this = sys.modules.pop("sitecustomize")  # kept: Python 2 would empty the module
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    finally:
        # Some programs hand `sys.path` on to the Pythons that they start.
        sys.path.insert(index, FOLDER)
        del this


arm()
if __name__ == "sitecustomize" and FOLDER in sys.path:
    give_way()
