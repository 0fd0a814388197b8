"""What the threads that run hops are doing just now.

Called while the pool is stalled, in the event loop's thread. It must be cheap, keep no frame alive
and read no local variable: only which code runs, by file and function.
"""

from __future__ import annotations

import concurrent.futures
import os
import queue
import site
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any

# Where the worker threads of anyio and of trio wait for what to run, and where they run it.
_ANYIO = "anyio/_backends/_asyncio.py"
_TRIO = "trio/_core/_thread_cache.py"

# Files of which a thread's innermost code tells that it waits for a connection.
CHECKOUT = ("sqlalchemy/pool/", "psycopg_pool/")

_THREADING = threading.__file__
_FUTURES = concurrent.futures._base.__file__
# SQLAlchemy's copy of the standard library's queue: its caller tells what is waited for.
_QUEUE = "sqlalchemy/util/queue.py"
_STDLIB = queue.__file__.replace("\\", "/").rpartition("/")[0] + "/"


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
    frames = sys._current_frames()
    frames.pop(threading.get_ident(), None)
    return [
        frames[thread.ident]
        for thread in threading.enumerate()
        if thread.ident in frames and (loop is None or getattr(thread, "loop", None) is loop)
    ]


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _runs_a_hop(innermost: FrameType) -> bool:
    inner = None
    for frame in _outwards(innermost):
        code = frame.f_code
        if code.co_name in ("run", "_work", "_handle_job"):
            file = code.co_filename.replace("\\", "/")
            if file.endswith(_ANYIO):
                # Waiting for work it is in Queue.get, or here itself where that is in C; on its way
                # to or from a hop in neither.
                return inner is not None and inner.f_code is not queue.Queue.get.__code__
            if file.endswith(_TRIO):
                return code.co_name == "_handle_job"
        inner = frame
    return False


def waits_for_thread(innermost: FrameType) -> bool:
    """Tell whether a thread waits for what another thread must give back.

    A connection of a pool, a condition, a semaphore, a queue: whatever waits in `threading`. A bare
    `Lock`, a socket or a sleep look like work from outside. Waiting for a future doesn't count, and
    so neither does `from_thread.run`: the event loop or the executor may well be at work on it.
    """
    if innermost.f_code.co_filename != _THREADING:
        return False
    for frame in _outwards(innermost):
        if frame.f_code.co_filename == _FUTURES:
            return False
        if not frame.f_code.co_filename.replace("\\", "/").startswith(_STDLIB):
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
    if innermost.f_code.co_filename != _THREADING:
        return False
    for frame in _outwards(innermost):
        short, kind = _short(frame.f_code.co_filename.replace("\\", "/"))
        if kind != "stdlib":
            return short.startswith(CHECKOUT[0])
    return False


def grouped(frames: Iterable[FrameType]) -> list[Group]:
    """Return what threads are doing, most of them first."""
    found = Counter(_place(frame) for frame in frames)
    return [Group(n, where, called_from) for (where, called_from), n in found.most_common()]


def _place(innermost: FrameType) -> tuple[str, str | None]:
    where = called_from = None
    for frame in _outwards(innermost):
        code = frame.f_code
        path = code.co_filename.replace("\\", "/")
        if path.endswith((_ANYIO, _TRIO)):
            break
        short, kind = _short(path)
        if kind == "app":
            called_from = f"{short}:{frame.f_lineno} {code.co_name}"
            break
        if where is None and kind != "stdlib":
            where = f"{short} {code.co_name}"
    if where is None and called_from is not None:
        where, called_from = called_from, None
    if where is None:
        code = innermost.f_code
        where = f"{_short(code.co_filename)[0]} {code.co_name}"
    return where, called_from


@lru_cache(maxsize=1024)
def _short(path: str) -> tuple[str, str]:
    """Return a path as it would be imported, and whose it is: "stdlib", "package" or "app".

    What a package has generated, or copied from it, counts as the standard library too.
    """
    for packages in _package_folders():
        if path.startswith(packages):
            short = path[len(packages) :]
            return short, "stdlib" if short == _QUEUE else "package"
    if path.startswith(_STDLIB):
        return path[len(_STDLIB) :], "stdlib"
    if path.startswith("<") and path not in ("<string>", "<stdin>"):
        return path, "stdlib"
    # Relative ones, and "" for the current folder: servers put them there to find the app.
    folders = [os.path.abspath(f).replace("\\", "/").rstrip("/") + "/" for f in sys.path]
    best = max((f for f in folders if path.startswith(f)), key=len, default="")
    return path[len(best) :], "app"


@lru_cache(maxsize=1)
def _package_folders() -> tuple[str, ...]:
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(f.replace("\\", "/").rstrip("/") + "/" for f in folders)
