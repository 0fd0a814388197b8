"""The subcommand `doctor`: says whether an app in this environment is protected, and if not, why.

Called by the command line, in a process that was started like any other of the environment. It must
never patch anything itself.

Layout: examination (what an app gets here), problems (what stops the protection, and the remedy),
leftovers (what may stop it one day), report (the findings as text and JSON), app_report (what
`--app` adds).
"""

from __future__ import annotations

import json
import logging
from typing import Any

from ..._log import logger
from .examination import examine


def run(*, as_json: bool, app: str | None = None) -> int:
    """Print the report and return the exit code: 0 protected, 1 not, 2 wrong usage or settings.

    :param app: "module:attribute", an app to import and examine too
    """
    # The report says what the package would log while Starlette is imported.
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    report = examine()
    if app is not None and not report.settings_wrong:
        report.app = _look_at_app(app)
    print(json.dumps(report.as_dict(), indent=2) if as_json else report.as_text())
    return report.exit_code


def _look_at_app(name: str) -> dict[str, Any]:
    try:
        from .app_report import app_report

        return app_report(name)
    except (Exception, SystemExit) as exc:  # whatever the app's import raises
        return {"name": name, "error": f"{name} can't be looked at: {type(exc).__name__}: {exc}"}
