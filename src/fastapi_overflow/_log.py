"""The logger, by which everything here speaks to the operator: `fastapi_overflow`."""

import logging

logger = logging.getLogger("fastapi_overflow")
