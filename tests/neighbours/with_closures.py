"""Wrappers that say nothing of what they wrap, put there once the modules are imported."""

from __future__ import annotations

from tracing import inside, listen, span, take

__all__ = ["inside", "install", "listen", "take"]


def traced(original, name):
    async def theirs(*args, **kwargs):
        with span(name):
            return await original(*args, **kwargs)

    return theirs


def install() -> None:
    from anyio import to_thread
    from starlette import applications, concurrency

    for owner, name in (
        (to_thread, "run_sync"),
        (concurrency, "run_in_threadpool"),
        (applications.Starlette, "__call__"),
    ):
        setattr(owner, name, traced(getattr(owner, name), name))
