"""Wrappers made with wrapt, from hooks that run when the modules are imported."""

from __future__ import annotations

import wrapt
from tracing import inside, listen, span, take

__all__ = ["inside", "install", "listen", "take"]


async def traced(wrapped, instance, args, kwargs):
    with span(wrapped.__name__):
        return await wrapped(*args, **kwargs)


def install() -> None:
    for module, name in (
        ("anyio.to_thread", "run_sync"),
        ("starlette.concurrency", "run_in_threadpool"),
        ("starlette.applications", "Starlette.__call__"),
    ):
        wrapt.register_post_import_hook(
            lambda found, name=name: wrapt.wrap_function_wrapper(found, name, traced), module
        )
