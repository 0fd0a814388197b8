"""What the threads that run hops are doing just now.

Called while the pool is stalled, and 20 times a second while requests queue and hops finish, in the
event loop's thread. It must be cheap, keep no frame alive, read no local variable and call no code
of the app: it sees only which code runs, by module and function.

Where the GIL is off, stacks are not read: every answer is the empty one. `sys._current_frames()`
takes frames from threads that go on running, and reading such a frame is not safe there: CPython's
guide to free threading warns of it, and interpreters have crashed. To stop the world
instead would take a debugger. Given up on such builds: the gate stays open, the stall log doesn't
say what threads are blocked in, `deadlocks_averted` stays 0, and `advise()` doesn't tell pinned
connections. What prevents the deadlock needs no stacks: lease, reserve and growth work as anywhere.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from .code_owner import is_stdlib, module_of, owner_of

# Where the worker threads of anyio and of trio wait for what to run, and where they run it.
_ANYIO = "anyio._backends._asyncio"
_TRIO = "trio._core._thread_cache"

# What the stall log says in place of what threads are doing.
NOT_READ = "not known, their stacks can't be read on a Python without the GIL"

# `Group.where` begins so for threads that wait for a connection.
CHECKOUT = ("sqlalchemy/pool/", "psycopg_pool/")


@dataclass(frozen=True)
class Group:
    """Threads that are blocked in the same place.

    :ivar threads: how many
    :ivar where: innermost function outside the standard library: "sqlalchemy/pool/impl.py _do_get"
    :ivar called_from: innermost function of the app, with its line, where that is another one
    """

    threads: int
    where: str
    called_from: str | None

    def __str__(self) -> str:
        text = f"{self.threads} in {self.where}"
        return text if self.called_from is None else f"{text} (called from {self.called_from})"


def can_be_read() -> bool:
    """Tell whether stacks of other threads can be read safely.

    To be asked each time: importing an extension module can turn the GIL on.
    """
    # Python 3.12 and earlier have a GIL and no such function.
    has_gil: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    return has_gil and hasattr(sys, "_current_frames")


def hop_frames(loop: Any = None) -> list[FrameType]:
    """Return the innermost frame of each other thread that runs a hop.

    :param loop: only the worker threads of this asyncio loop; trio's are not bound to a loop
    """
    return [frame for frame in _frames_of_others(loop) if _runs_a_hop(frame)]


def _frames_of_others(loop: Any) -> list[FrameType]:
    """Return the innermost frame of each thread but this one, of an asyncio loop's if one is given.

    With this thread's own among them, that frame's variables would refer to the frame: a cycle,
    which kept every thread's frames, and so whole requests, until a garbage collection.
    """
    if not can_be_read():
        return []
    frames = sys._current_frames()
    frames.pop(threading.get_ident(), None)
    if loop is None:
        return list(frames.values())
    # Of this very class: a thread of the app's may run the app's code when it is asked for `loop`.
    worker: Any = getattr(sys.modules.get(_ANYIO), "WorkerThread", None)
    return [
        frames[thread.ident]
        for thread in threading.enumerate()
        if type(thread) is worker and vars(thread).get("loop") is loop and thread.ident in frames
    ]


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _runs_a_hop(innermost: FrameType) -> bool:
    inner = None
    for frame in _outwards(innermost):
        if frame.f_code.co_name in ("run", "_work", "_handle_job"):
            module = module_of(frame)
            if module == _ANYIO:
                # Waiting for work it is in Queue.get, or here itself where that is in C; on its way
                # to or from a hop in neither.
                return inner is not None and inner.f_code is not queue.Queue.get.__code__
            if module == _TRIO:
                return frame.f_code.co_name == "_handle_job"
        inner = frame
    return False


def waits_for_thread(innermost: FrameType) -> bool:
    """Tell whether a thread waits for what another thread must give back.

    A connection of a pool, a condition, a semaphore, a queue: whatever waits in `threading`. A bare
    `Lock`, a socket or a sleep look like work from outside. Waiting for a future doesn't count, and
    so neither does `from_thread.run`: the event loop or the executor may well be at work on it.
    """
    if module_of(innermost) != "threading":
        return False
    for frame in _outwards(innermost):
        module = module_of(frame)
        if module.startswith("concurrent.futures"):
            return False
        if not is_stdlib(module):
            break
    return True


def waiting_for_connection(loop: Any = None) -> int:
    """Return how many threads wait for a connection of a pool.

    :param loop: only the worker threads of this asyncio loop
    """
    if "sqlalchemy.pool" not in sys.modules:
        return 0
    return sum(map(_waits_for_connection, _frames_of_others(loop)))


def _waits_for_connection(innermost: FrameType) -> bool:
    if module_of(innermost) != "threading":
        return False
    for frame in _outwards(innermost):
        module = module_of(frame)
        if not is_stdlib(module):
            return module.startswith("sqlalchemy.pool")
    return False


def grouped(frames: Iterable[FrameType]) -> list[Group]:
    """Return what threads are doing, most of them first."""
    found = Counter(_place(frame) for frame in frames)
    return [Group(n, where, called_from) for (where, called_from), n in found.most_common()]


def _place(innermost: FrameType) -> tuple[str, str | None]:
    where = called_from = None
    for frame in _outwards(innermost):
        if module_of(frame) in (_ANYIO, _TRIO):
            break
        name = frame.f_code.co_name
        short, owner = owner_of(frame)
        if owner == "app":
            called_from = f"{short}:{frame.f_lineno} {name}"
            break
        if where is None and owner != "stdlib":
            where = f"{short} {name}"
    if where is None and called_from is not None:
        where, called_from = called_from, None
    if where is None:
        where = f"{owner_of(innermost)[0]} {innermost.f_code.co_name}"
    return where, called_from
