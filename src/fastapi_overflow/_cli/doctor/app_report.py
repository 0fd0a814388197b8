"""What `doctor --app` says about an app: routes that need threads, connection pools, advice.

Called by `doctor` once the environment has been examined. It imports the app as a server would, and
must never call any of its code.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

from ..._watching.advice import advise
from ..._watching.connection_pools import connection_pools, most_connections
from ..._watching.routes import routes


def load_app(name: str) -> Any:
    """Import the app that "module:attribute" names as a server would: from the current folder too.

    :raises ValueError: if the name isn't of that form
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"the app must be given as MODULE:ATTRIBUTE, got {name!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    with redirect_stdout(sys.stderr):  # what the app prints isn't part of the report
        app = import_module(module)
    for part in attribute.split("."):
        app = getattr(app, part)
    return app


def app_report(name: str) -> dict[str, Any]:
    """Import an app and return what `doctor --app` adds to the report.

    :param name: "module:attribute"
    :raises Exception: whatever the import of the app raises
    """
    app = load_app(name)
    if not hasattr(app, "routes"):  # a factory, or an app inside a middleware
        raise TypeError(f"it is a {type(app).__name__}, not a Starlette or FastAPI app")
    found = routes(app)
    return {
        "name": name,
        "routes": [vars(route) for route in found],
        "in_threads": [str(route) for route in found if route.endpoint or route.dependencies],
        "connection_pools": [str(pool) for pool in connection_pools()],
        "most_connections": most_connections(connection_pools(also_async=True)),
        "advice": advise(app),
    }
