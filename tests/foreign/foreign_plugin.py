"""pytest plugin for foreign suites: patience, and another limiter in the place of anyio's.

Loaded with `-p foreign_plugin` by foreign_suites.py, before any test module is imported. Tests that
give a child process some seconds give it ten times as many: a busy machine is no difference between
the package and none.
FOREIGN_RESERVE: anyio.CapacityLimiter(n) makes an OverflowLimiter with that reserve.
FOREIGN_STOCK_LIMIT: anyio's own default thread limiters have that many tokens.
"""

import os
import subprocess

import anyio

PATIENCE = 10

stock_run = subprocess.run


def run(*args, timeout=None, **kwargs):
    return stock_run(*args, timeout=timeout and timeout * PATIENCE, **kwargs)


subprocess.run = run

if "FOREIGN_RESERVE" in os.environ:
    from fastapi_overflow._requests.limiter import OverflowLimiter

    class Replacement(OverflowLimiter):
        def __init__(self, total_tokens):
            super().__init__(total_tokens, reserve=int(os.environ["FOREIGN_RESERVE"]))

    anyio_new = anyio.CapacityLimiter.__new__

    def new(cls, total_tokens):
        try:
            anyio.get_current_task()
        except RuntimeError:  # outside any event loop, where ours isn't made: anyio's adapter
            return anyio_new(cls, total_tokens)
        return object.__new__(Replacement)

    anyio.CapacityLimiter.__new__ = new

if "FOREIGN_STOCK_LIMIT" in os.environ:
    import trio._threads
    from anyio._backends import _asyncio

    LIMIT = int(os.environ["FOREIGN_STOCK_LIMIT"])

    class CapacityLimiter(_asyncio.CapacityLimiter):
        def __init__(self, total_tokens):
            super().__init__(LIMIT if total_tokens == 40 else total_tokens)

    _asyncio.CapacityLimiter = CapacityLimiter
    trio._threads.DEFAULT_LIMIT = LIMIT
