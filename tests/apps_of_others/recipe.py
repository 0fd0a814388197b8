"""What a recipe says of an app: how to install it, start it, log in, and what to ask it.

Read by `real_apps.py`; `recipes.py` has the recipes. Strings may have the places `{bin}`, the
folder of the commands in the app's environment; `{home}`, an empty folder of its own; `{port}`; and
`{postgres}`, a new database as `user@host:port/name`: any password does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ask:
    """One of the app's own requests, sent many times at once."""

    path: str
    method: str = "GET"
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


# Sends a request, and returns the JSON that it is answered with: for log-ins and first data.
Talk = Callable[[Ask], Any]


@dataclass(frozen=True)
class Recipe:
    """An app that others wrote.

    :ivar name: of the distribution on the package index
    :ivar database: how it uses its database, as the table says it
    :ivar start: the command, as its users give it: one process, on 127.0.0.1
    :ivar asks: requests that its users' browsers and clients send; each is answered with 2xx
    :ivar ready: a path that it answers with 200 once it is up
    :ivar also: requirements beside the app: an extra's, a driver, a version that it forgot to pin
    :ivar environ: variables for all its commands
    :ivar prepare: commands before its first start: migrations, users
    :ivar log_in: called once the app is up; returns the headers for all that is asked
    :ivar seed: called after that: adds what there is to be read
    :ivar files: written into its home before all else, by name
    """

    name: str
    database: str
    start: tuple[str, ...]
    asks: tuple[Ask, ...]
    ready: str
    also: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    prepare: tuple[tuple[str, ...], ...] = ()
    log_in: Callable[[Talk], Mapping[str, str]] | None = None
    seed: Callable[[Talk], None] | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def project(self) -> str:
        """The name without extras."""
        return self.name.partition("[")[0]

    @property
    def texts(self) -> list[str]:
        """All strings in which places are filled in."""
        commands = [part for command in (self.start, *self.prepare) for part in command]
        return [*commands, *self.environ.values(), *self.files.values()]

    @property
    def wants_postgres(self) -> bool:
        """Whether a place in it is filled with the name of a PostgreSQL database."""
        return any("{postgres}" in text for text in self.texts)
