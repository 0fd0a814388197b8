"""The demo's database: checks the URL, creates and fills the tables, drops them at the end.

Called by the runner before the servers start and after they have been killed. It must touch no
tables but the demo's own, and never wait for a database without a deadline.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine, insert, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from . import DemoError
from .models import Base, Item, User

ITEMS = 20_000  # sorting them takes a few milliseconds
SECONDS = 30  # in which a database must answer


def parse(text: str) -> URL:
    """Return the URL; the path of a SQLite file becomes absolute.

    :raises DemoError: if the demo can't use that database
    """
    try:
        url = make_url(text)
        dialect = url.get_dialect()
        dialect.import_dbapi()
    except ArgumentError:
        masked = re.sub(r":(?!//).*@", ":***@", text)  # a mistyped URL still has its password
        raise DemoError(f"--database-url must be a SQLAlchemy URL, got {masked!r}") from None
    except NoSuchModuleError as exc:
        raise DemoError(f"--database-url: SQLAlchemy says: {exc}") from None
    except ImportError as exc:
        raise DemoError(
            f"--database-url: the driver of {url.drivername} isn't installed: {exc}"
        ) from None
    if dialect.is_async:
        raise DemoError(
            "--database-url must name a driver for sync code, as the demo's app is sync, "
            f"got {url.drivername!r}"
        )
    if url.get_backend_name() == "sqlite":
        if not url.database or ":memory:" in url.database:
            raise DemoError(
                "--database-url must name a database that several processes can open, "
                "got SQLite in memory"
            )
        if not url.database.startswith("file:"):
            url = url.set(database=str(Path(url.database).absolute()))
    return url


def shown(url: URL) -> str:
    """Return a URL to print: without the password, and without options, which may hold one too."""
    return url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def tables(url: URL) -> Iterator[None]:
    """Create and fill the demo's tables, and drop them at the end.

    :raises DemoError: if the database can't be reached, or refuses
    """
    engine = create_engine(url, poolclass=NullPool)
    if failure := _within_limit(lambda: _fill(engine)):
        raise DemoError(f"database can't be reached: {failure}")
    try:
        yield
    finally:
        if failure := _within_limit(lambda: Base.metadata.drop_all(engine)):
            # Printed, not raised: the runs are done, and another exception may be on its way.
            names = ", ".join(table.name for table in Base.metadata.sorted_tables)
            print(f"fastapi-overflow demo: can't drop {names}: {failure}", file=sys.stderr)


def _fill(engine: Engine) -> None:
    with engine.begin() as connection:
        Base.metadata.drop_all(connection)  # left by a demo that was killed
        Base.metadata.create_all(connection)
        connection.execute(insert(User), [{"id": 1, "name": "alice"}])
        items = ({"title": f"item {n}", "price": n * 7919 % 9973} for n in range(ITEMS))
        connection.execute(insert(Item), [{**item, "owner_id": 1} for item in items])


def _within_limit(work: Callable[[], None]) -> str | None:
    """Run `work` in a thread, for SECONDS at most, and return why it failed or None."""
    failures: list[str] = []

    def guarded() -> None:
        try:
            work()
        except Exception as exc:  # drivers raise errors of their own for wrong options
            reason = str(exc.orig if isinstance(exc, DBAPIError) else exc).strip()
            failures.append(reason.partition("\n")[0] or type(exc).__name__)

    # A daemon: a connection attempt to a host that drops packets can't be cancelled.
    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        return f"no answer within {SECONDS} s"
    return failures[0] if failures else None
