"""The demo: an ordinary app under load, without fastapi-overflow and then with it, in two acts.

Called by the command line. Only the import hook may protect the app, as it would a user's. The demo
must never leave a process, a file or a table behind.

Layout: runner (the two runs), interrupt (Ctrl-C and SIGTERM), server (uvicorn), stage (both acts on
their servers), acts (what they are), client (the load), health (`/health` beside it), database (its
tables), progress (bars), report (what is printed). The app itself is in app and models.
"""

from __future__ import annotations

import sys

NEEDS = ("fastapi", "sqlalchemy", "uvicorn", "rich", "psutil")


class DemoError(Exception):
    """The demo can't be run; the message is one line for the user.

    :ivar exit_code: 2 if the user asked for something wrong, 1 if the environment lacks something
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(*, requests: int, database_url: str | None, pool_size: int | None, as_json: bool) -> int:
    """Run the demo and return the exit code: 0 when no request was lost with the package."""
    from importlib.util import find_spec

    if missing := [name for name in NEEDS if find_spec(name) is None]:
        print(
            f"fastapi-overflow demo: needs {', '.join(missing)}: "
            'pip install "fastapi-overflow[demo]"',
            file=sys.stderr,
        )
        return 2
    from .runner import compare

    try:
        comparison = compare(requests, database_url, pool_size)
    except DemoError as exc:
        print(f"fastapi-overflow demo: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        print("fastapi-overflow demo: interrupted", file=sys.stderr)
        return 130
    if as_json:
        import json

        print(json.dumps(comparison.as_dict(), indent=2))
    else:
        print(comparison.as_text())
    return 1 if comparison.lost_with_it else 0
