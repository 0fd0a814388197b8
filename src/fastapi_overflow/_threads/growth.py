"""What a stalled pool does: it lets hops run although no token is free for them.

Imported when a pool first stalls, called by it at looks of the stall watch. It must never add more
threads than the bound of the tokens allows, whatever the watch asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .kinds import ByKind

if TYPE_CHECKING:
    from .dispatcher import Dispatcher


class Growth:
    """Adds threads to those of a dispatcher, within the bound of its tokens."""

    __slots__ = ("_dispatcher", "_tokens", "_waiters")

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._tokens = dispatcher.tokens
        self._waiters = dispatcher.waiters

    def grow(self, most: int) -> None:
        """Let up to `most` of those that wait run: nothing has finished for a while.

        Later hops, by kind. All threads may wait for something when only new requests are left:
        the rest of the limit is theirs as in stock (40 threads that meet at a barrier), but nothing
        beyond it.
        """
        waiters, tokens = self._waiters, self._tokens
        if waiters.later:
            self._let_in(most)
        else:
            while tokens.has_reserved() and (waiter := waiters.fairest()) is not None:
                self._dispatcher.admit(waiter, extra=True)
        self._dispatcher.reassign()  # what waits beside those let in may have been promoted

    def _let_in(self, most: int) -> None:
        waiters = self._waiters
        kinds = waiters.by_kind
        if kinds is None:
            kinds = ByKind()
            waiters.order_by(kinds)
        room = self._room(most)
        let_in = 0
        while let_in < room:
            later = kinds.next(self._tokens.room_to_grow())
            if later is None:
                break
            let_in += 1
            if later.lease is not None:
                later.lease.lent += 1
            self._dispatcher.admit(later, extra=True)
            if not later.granted:
                kinds.ended(later.borrower)
        if room and not let_in:
            kinds.keep_less()

    def relieve(self, most: int) -> None:
        """Let up to `most` run who have waited longest: others that go on for ever overtake them.

        New requests get the reserve, once, and no thread beyond the limit.
        """
        waiters = self._waiters
        if not waiters.later:
            self._dispatcher.owe_reserve()
            return
        for _ in range(self._room(most)):
            if not waiters.later:
                break
            self._dispatcher.admit(waiters.oldest_later(), extra=True)
        self._dispatcher.reassign()

    def _room(self, most: int) -> int:
        return max(int(min(most, self._tokens.room_to_grow())), 0)
