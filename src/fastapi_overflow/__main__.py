"""The command line: `python -m fastapi_overflow`, and the script `fastapi-overflow`.

It must never import more than argparse before a subcommand is chosen: `doctor` reports what any
process of this environment would get, so nothing may be loaded or patched for its sake.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

MOST_REQUESTS = 10_000

ENDED_BY_SIGPIPE = 128 + 13  # what a shell reports for a program whose reader has gone


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code: 0 yes, 1 no, 2 wrong usage or settings."""
    try:
        try:
            return _run(argv)
        finally:
            if sys.stdout is not None:  # as it is where it was closed at the start
                sys.stdout.flush()  # here, where an error can be caught, not at Python's end
    except BrokenPipeError:
        # The reader of stdout has gone (`doctor | head -1`), unless it was another pipe that broke.
        try:
            print(flush=True)
        except BrokenPipeError:
            # Writing the rest of the buffer would fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ENDED_BY_SIGPIPE
        raise


def _run(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "doctor")
    if words[0] == "run" and len(words) > 1 and not words[1].startswith("-"):
        return _run_command(words[1:])  # all the rest is the command's: argparse would read options
    if words[:2] == ["run", "--"] and len(words) > 2:
        return _run_command(words[2:])
    options = _parser().parse_args(words)
    if options.command == "demo":
        from ._cli.demo import run

        return run(
            requests=options.requests,
            database_url=options.database_url,
            pool_size=options.pool_size,
            as_json=options.json,
        )
    from ._cli.doctor import run as run_doctor

    return run_doctor(as_json=options.json, app=options.app)


def _run_command(words: Sequence[str]) -> int:
    from ._cli.run import run

    return run(words)


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="fastapi-overflow",
        description="Keeps a FastAPI or Starlette app from deadlocking on its own thread pool.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    doctor = commands.add_parser(
        "doctor",
        help="say whether an app in this environment is protected (the default)",
        description="Say whether an app in this environment is protected, and if not, why.",
        epilog="exit code: 0 protected, 1 not protected, 2 wrong usage or settings",
    )
    doctor.add_argument(
        "--app",
        metavar="MODULE:ATTRIBUTE",
        help="import this app too, and list routes that need threads, connection pools and advice",
    )
    demo = commands.add_parser(
        "demo",
        help="show an ordinary app under load without the package, then with it",
        description=(
            "Start an ordinary FastAPI app under uvicorn, without the package and with it, send "
            "the same requests at once to a `def` endpoint and to an `async def` one, both with a "
            "sync database session, and print the results side by side. Takes a little over a "
            "minute: for so long the app without the package is given time to answer. "
            'Needs: pip install "fastapi-overflow[demo]"'
        ),
        epilog="exit code: 0 no request was lost with the package, 1 some were lost or the demo "
        "can't run here, 2 wrong usage, 130 interrupted",
    )
    demo.add_argument(
        "--requests",
        type=_WholeNumber(1, MOST_REQUESTS),
        default=200,
        metavar="N",
        help="requests to send to each endpoint at once (default: %(default)s)",
    )
    demo.add_argument(
        "--database-url",
        metavar="URL",
        help=(
            "SQLAlchemy URL of the database to use; two tables, fastapi_overflow_demo_*, are "
            "created there and dropped again; takes two minutes, since then one endpoint at a time "
            "is given that minute (default: a SQLite file in a temporary directory)"
        ),
    )
    demo.add_argument(
        "--pool-size",
        type=_WholeNumber(1, 1_000),
        metavar="N",
        help="pool_size of the app's SQLAlchemy engine (default: 5, as in SQLAlchemy)",
    )
    run = commands.add_parser(
        "run",
        usage="fastapi-overflow run [-h] [--] COMMAND [ARGUMENT ...]",
        help="run a command protected where Python runs no start-up files of the package",
        description=(
            "Run a command, with all the Pythons that it starts, protected: where .pth files are "
            "deleted or not processed, as with `pip install --target`, PYTHONPATH, Lambda layers. "
            "A Python that is started with -I, -E or -S, or without the PYTHONPATH of this one, "
            "can't be reached."
        ),
        epilog="exit code: the command's own; 126 it can't be executed, 127 it isn't found, "
        "2 wrong usage",
    )
    run.add_argument("words", nargs="+", metavar="COMMAND", help="the command and its arguments")
    for command in (doctor, demo):
        command.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


class _WholeNumber:
    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    def __call__(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = self.least - 1
        if not self.least <= number <= self.most:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {self.least} to {self.most}, got {text!r}"
            )
        return number


if __name__ == "__main__":
    sys.exit(main())
