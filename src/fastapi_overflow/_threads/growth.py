"""Who gets the next thread of a stalled pool: the guess at who holds what all others wait for.

Asked by the pool, through the stall watch, while nothing finishes. It may look at every waiter:
that is nothing beside the stall. It must never leave a kind of hop without its chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from .queue import Waiter, WaiterQueue

# Within a kind in turn: the deepest is the likeliest to hold something. Where it isn't it, the
# oldest, and the youngest, that others of its depth have kept out.
_TURNS: tuple[Callable[[Waiter], tuple[int, int]], ...] = (
    lambda waiter: (-waiter.depth, waiter.arrival),
    lambda waiter: (waiter.arrival, 0),
    lambda waiter: (-waiter.arrival, 0),
)

MOST = 1024  # threads at one look; the pool has its own bound


class Growth:
    """How a pool grows in one stall: by how many at the next look, and whom it lets in.

    By depth alone the extra threads could all go to hops that block as those before them did: a
    thousand requests at the hop in which they take a connection keep out the fifteen that are about
    to give theirs back in another. So each kind of hop, by the function that it calls, gets as many
    threads as any other.
    """

    __slots__ = ("_let_in", "_threads")

    def __init__(self) -> None:
        self._threads = 1
        self._let_in: Counter[object] = Counter()  # hops by kind

    @property
    def begun(self) -> bool:
        return self._threads > 1

    def more(self) -> int:
        """Return how many threads to add now: 1, then 2, 4, ..."""
        threads = self._threads
        self._threads = min(2 * threads, MOST)
        return threads

    def choose(self, waiters: WaiterQueue) -> Waiter:
        """Return one of the later hops that wait."""
        kinds: dict[object, list[Waiter]] = {}
        for waiter in waiters.later:
            kinds.setdefault(kind_of(waiter.func), []).append(waiter)
        deepest = _TURNS[0]
        kind = min(kinds, key=lambda kind: (self._let_in[kind], min(map(deepest, kinds[kind]))))
        turn = _TURNS[self._let_in[kind] % len(_TURNS)]
        self._let_in[kind] += 1
        return min(kinds[kind], key=turn)


def kind_of(func: Any) -> object:
    """Return what is the same for hops that do the same work for different requests."""
    subject = func.args[0] if isinstance(func, partial) and func.args else None
    while isinstance(func, partial):
        func = func.func
    owner = getattr(func, "__self__", None)
    return (
        getattr(func, "__func__", func),
        # What a sync dependency is entered with is a method of a context manager around a function,
        # what a stream is read with is `next` of a generator.
        getattr(owner, "func", None),
        getattr(subject, "gi_code", None),
    )
