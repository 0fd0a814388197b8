"""What the threads that run hops are doing at the moment.

Called in the event loop's thread while the pool is stalled, and by whoever asks for advice then. It
must be cheap, keep no frame alive, read no local variable and call no code of the app. It sees only
which code runs, by module and function.

Stacks are not read while the GIL is off: then no thread is seen to do anything. The threads go on
running while their frames are read, and without the GIL that is not safe. CPython's guide to free
threading warns of `sys._current_frames()`, and it has crashed interpreters (python/cpython#118680).
On such builds the stall log doesn't say where threads are blocked, `deadlocks_averted` stays 0, and
`advise()` doesn't recognise pinned connections. What prevents deadlocks needs no stacks: lease,
reserve and growth work there too.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from .._requests.code_owner import is_stdlib, module_of, owner_of
from .._requests.worker_queue import HopQueue
from .._requests.worker_results import LoopOfWorker

# The modules in which worker threads of anyio and of trio wait for hops and run them.
_ANYIO = "anyio._backends._asyncio"
_TRIO = "trio._core._thread_cache"
_QUEUES = frozenset({"queue", HopQueue.__module__})

# What the stall log says instead of where threads are blocked.
NOT_READ = "not known, as stacks can't be read while the GIL is off"

# How `Group.where` begins for threads that wait for a connection.
CHECKOUT = ("sqlalchemy/pool/", "psycopg_pool/", "fastapi_overflow/_connections/")

_OURS = "fastapi_overflow."

# Where a thread waits if SQLAlchemy's pools ask us. It is a bare lock that it waits at, so it would
# look like work. Not imported: most apps that stall have it, and the others need not.
_CHECKOUT = "fastapi_overflow._connections.checkout"


@dataclass(frozen=True)
class Group:
    """Threads that are blocked in the same place.

    :ivar threads: how many there are
    :ivar where: innermost function outside the standard library: "sqlalchemy/pool/impl.py _do_get"
    :ivar called_from: innermost function of the app, with its line, if that isn't `where`
    """

    threads: int
    where: str
    called_from: str | None

    def __str__(self) -> str:
        text = f"{self.threads} in {self.where}"
        return text if self.called_from is None else f"{text} (called from {self.called_from})"


def can_be_read() -> bool:
    """Tell whether the stacks of other threads can be read safely.

    Ask each time: importing an extension module can turn the GIL on.
    """
    # Python 3.12 and earlier always have the GIL, and not this function.
    has_gil: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    return has_gil and hasattr(sys, "_current_frames")


def hop_frames(loop: Any = None) -> list[FrameType]:
    """Return the innermost frame of each other thread that runs a hop.

    :param loop: only worker threads of this asyncio loop; None: of all, as trio's belong to no loop
    """
    return [frame for frame in _frames_of_others(loop) if _runs_a_hop(frame)]


def _frames_of_others(loop: Any) -> list[FrameType]:
    """Return the innermost frame of each thread but this one.

    This thread's own frame has a variable for the result. If it were in the result too, there would
    be a cycle, which kept all frames, and so whole requests, alive until a garbage collection.
    """
    if not can_be_read():
        return []
    frames = sys._current_frames()
    frames.pop(threading.get_ident(), None)
    if loop is None:
        return list(frames.values())
    # Only this class: reading `loop` of a thread of the app's may run code of the app.
    worker: Any = getattr(sys.modules.get(_ANYIO), "WorkerThread", None)
    return [
        frames[thread.ident]
        for thread in threading.enumerate()
        if type(thread) is worker and _loop_of(thread) is loop and thread.ident in frames
    ]


def _loop_of(thread: Any) -> Any:
    loop = vars(thread).get("loop")
    return loop.loop if type(loop) is LoopOfWorker else loop


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
                # While it waits for a hop it is in Queue.get, or in that of our own queue.
                return inner is not None and module_of(inner) not in _QUEUES
            if module == _TRIO:
                return frame.f_code.co_name == "_handle_job"
        inner = frame
    return False


def waits_for_thread(innermost: FrameType) -> bool:
    """Tell whether a thread waits for something that another thread must give back.

    That is whatever waits in `threading`, for a connection of a pool, a condition, a semaphore or a
    queue, and whoever waits for a connection in our own queue. Any other bare `Lock`, a socket or a
    sleep look like work from outside. Waiting for a future doesn't count, nor does
    `from_thread.run`: the executor or the event loop may be at work on it.
    """
    module = module_of(innermost)
    checkout = sys.modules.get(_CHECKOUT)
    if checkout is not None and innermost.f_code is checkout.Checkout.wait.__code__:
        return True
    if module != "threading":
        return False
    for frame in _outwards(innermost):
        module = module_of(frame)
        if module.startswith("concurrent.futures"):
            return False
        if not is_stdlib(module):
            break
    return True


def grouped(frames: Iterable[FrameType]) -> list[Group]:
    """Return where threads are blocked, the largest group first."""
    found = Counter(_place(frame) for frame in frames)
    return [Group(n, where, called_from) for (where, called_from), n in found.most_common()]


def _place(innermost: FrameType) -> tuple[str, str | None]:
    where = called_from = None
    for frame in _outwards(innermost):
        module = module_of(frame)
        if module in (_ANYIO, _TRIO):
            break
        name = frame.f_code.co_name
        short, owner = owner_of(frame)
        if owner == "app" and not module.startswith(_OURS):  # ours: installed from its source
            called_from = f"{short}:{frame.f_lineno} {name}"
            break
        if where is None and owner != "stdlib":
            where = f"{short} {name}"
    if where is None and called_from is not None:
        where, called_from = called_from, None
    if where is None:
        where = f"{owner_of(innermost)[0]} {innermost.f_code.co_name}"
    return where, called_from
