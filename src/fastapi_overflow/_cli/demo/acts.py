"""The two acts of the demo: which endpoint gets the load, and what the table calls it.

Read by whatever runs or tells them. The endpoints themselves are in app.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Act:
    """One endpoint under load."""

    name: str
    path: str


# Each freezes in its own way: requests of the first wait for a thread while they hold a connection,
# those of the second stop the event loop in the connection pool's checkout.
ACTS = (Act("def endpoint", "/items"), Act("async def endpoint", "/offers"))
