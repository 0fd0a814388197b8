"""The logger, by which everything here speaks to the operator: `fastapi_overflow`.

Its functions never raise. The app's log handlers may, and what they are told of comes at moments in
which that would stop an import or the event loop.
"""

import logging
from collections.abc import Mapping

logger = logging.getLogger("fastapi_overflow")


def warn(text: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
    _log(logging.WARNING, text, args, extra)


def inform(text: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
    _log(logging.INFO, text, args, extra)


def _log(
    level: int, text: str, args: tuple[object, ...], extra: Mapping[str, object] | None
) -> None:
    try:
        logger.log(level, text, *args, extra=extra)
    except Exception:  # noqa: S110 - a handler's
        pass
