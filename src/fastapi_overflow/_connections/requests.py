"""What an adapter asks and tells of the code that takes connections.

Asked and told at each checkout. Whoever stands for it must never raise, nor make anybody wait.
"""

from __future__ import annotations

from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .holder import Account, Holder
    from .watched import WatchedAccount


class Requests(Protocol):
    """What is known of the code that takes a connection, and who is told of it."""

    def find_holder(self) -> tuple[Holder, int]:
        """Return who takes a connection in this thread, and where."""

    # By file: whether no line of the app's can be in it, or each is one of the app's.
    is_library: dict[str, bool]

    def search(self, frame: FrameType) -> tuple[CodeType | None, int]:
        """Return the code of the app's that does, and the instruction that it is at."""

    def took_on_loop(self, account: Account, taken: Any, began: float) -> None:
        """Be told of a connection taken on an event loop, which has stood since `began`."""

    def took_second(self, taken: Any) -> None:
        """Be told of one taken by who has one of the same pool already."""

    def waits(self, account: WatchedAccount) -> None:
        """Be told that a task begins to wait for one of an async engine."""

    def came_back(self, taken: Any) -> None:
        """Be told of one that is back of whom nothing was at work."""

    def timed_out(self, error: Exception, account: Account | WatchedAccount, reason: str) -> None:
        """Be told of an error before it is raised."""

    def failed(self, exc: Exception) -> None:
        """Be told what went wrong where a pool turns out not to be as expected."""
