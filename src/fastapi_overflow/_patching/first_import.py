"""Get ready just before Starlette is loaded, not when it is merely looked up.

Called by the finder in `_startup`. Looking a package up (`importlib.util.find_spec`) must import
nothing but this module: neither wrapt nor the settings.
"""

from __future__ import annotations

import _thread
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.abc import Loader


_looking: set[int] = set()  # threads that are in `find`


def find(fullname: str, path: Any, target: Any, finder: Any) -> ModuleSpec | None:
    """Return what the other finders find, with a loader that gets ready first.

    :param finder: the one on `sys.meta_path` that asks
    """
    thread = _thread.get_ident()
    if thread in _looking:
        return None  # one of the others asks all others in its turn
    _looking.add(thread)
    try:
        for other in list(sys.meta_path):
            if other is finder or not hasattr(other, "find_spec"):
                continue
            spec = other.find_spec(fullname, path, target)
            if spec is None:
                continue
            if hasattr(spec.loader, "exec_module"):
                spec.loader = cast("Loader", FirstImport(spec.loader, finder))
            else:  # a namespace package or a loader of an old kind: not how Starlette is installed
                get_ready()
            return spec
        return None
    finally:
        _looking.discard(thread)


class FirstImport:
    """In the place of Starlette's loader until Starlette is loaded."""

    def __init__(self, loader: Any, finder: Any) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        if name in ("_loader", "_finder"):  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        """Get ready before the module is in `sys.modules`.

        From then on other threads import its parts, without waiting for its end.

        :raises SettingsError: which makes the import fail, at every attempt until it is mended
        """
        get_ready()
        self._disarm()
        if cast("Any", spec.loader) is self:
            spec.loader = self._loader
        return self._loader.create_module(spec)

    def _disarm(self) -> None:
        """Take the finder off `sys.meta_path`, as each later import would pass through it.

        Unless there are other threads: one that is iterating over the list would miss a finder.
        """
        if not _thread._count() and self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)

    def exec_module(self, module: ModuleType) -> None:
        # Called only where another finder has put a loader of its own around this one.
        for holder, name in ((module.__spec__, "loader"), (module, "__loader__")):
            if getattr(holder, name, None) is self:
                setattr(holder, name, self._loader)
        self._loader.exec_module(module)


def get_ready() -> None:
    """Decide the settings, and have the table put in place as its modules are imported.

    :raises SettingsError: for a wrong one; whatever else fails leaves the app as stock
    """
    from .. import _settings
    from .._log import warn

    if _settings.decide().disabled:
        return
    try:
        from .points import register_hooks

        register_hooks()
    except Exception as exc:  # wrapt is missing or broken, say
        warn(
            "fastapi-overflow is off, the app runs unprotected: %s. "
            "Reinstall fastapi-overflow, or uninstall it.",
            exc,
        )
