"""Get ready just before Starlette is loaded, not when it is merely looked up.

Called by the loader that `_startup` has put in the place of Starlette's. It must not raise for a
broken installation: then the app runs as stock.
"""

from __future__ import annotations

import _thread
import sys
from typing import Any


def get_ready(finder: Any) -> None:
    """Decide the settings, and have the table put in place as its modules are imported.

    :param finder: the one on `sys.meta_path`, of no use from now on
    :raises SettingsError: for a wrong one; whatever else fails leaves the app as stock
    """
    from .._log import warn
    from .._settings import decide

    if not decide().disabled:
        try:
            from .points import register_hooks

            register_hooks(by=finder.armed_by)
        except Exception as exc:  # wrapt is missing or broken, say
            warn(
                "fastapi-overflow is off, the app runs unprotected: %s. "
                "Reinstall fastapi-overflow, or uninstall it.",
                exc,
            )
    # Each later import would pass through the finder. Not while there are other threads: one that
    # is iterating over the list would miss a finder.
    if not _thread._count() and finder in sys.meta_path:
        sys.meta_path.remove(finder)
