"""Who is measured in which cell, how often, and how long that takes: called by `run.py`.

The whole grid would take hours, so each contestant takes what tells most about it:

* The two that the goals compare, this package and the hand-tuned contestant, take every cell in
  every round, one right after the other.
* Stock takes the same cells, in fewer rounds.
* All others take every load at 500 connections, and the mixed one at all numbers, once.

It must never let one contestant always come before the same other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cells import CONNECTIONS, LOADS, PATIENCE, Cell
from contestants import HAND_TUNED, OURS, STOCK, Contestant

START = 0.7  # seconds for a server, a client and its connections; a guess
# The loads that a contestant is known to lose most requests of: for the estimate alone.
FREEZE = {
    STOCK: "abcdefhi",
    "stock, 200 threads": "abcdefhi",
    "stock, 1000 threads": "hi",
    "fastapi-overflow 0.1.0": "abcdefhi",
    "fastapi-overflow 0.1.x": "abcdefhi",
    "async rewrite": "i",
    "gunicorn threads": "i",
}


@dataclass(frozen=True)
class Turn:
    """One measurement of a contestant in a cell.

    :ivar round: from 1
    """

    round: int
    cell: Cell
    contestant: Contestant

    @property
    def key(self) -> tuple[str, str, int]:
        return self.contestant.name, self.cell.key, self.round


def cells(connections: Sequence[int] = CONNECTIONS) -> list[Cell]:
    """Return the cells in the order of measurement: 500 connections first, SQLite last."""
    numbers = sorted(connections, key=lambda n: (n != 500, n))
    found = [Cell(load, n) for n in numbers for load in LOADS if n in _numbers(load)]
    return [*found, *(Cell("a", n, sqlite=True) for n in numbers if n == 100)]


def _numbers(load: str) -> Sequence[int]:
    # (b) to (e) are in the mixed load at all numbers.
    return (500,) if load in "bcde" else CONNECTIONS


def rounds_of(contestant: Contestant, cell: Cell, rounds: int, of_others: int) -> int:
    """Return how often a contestant takes a cell."""
    if cell.sqlite and contestant.app != "sync_app":
        return 0
    if contestant.name in (OURS, HAND_TUNED):
        return rounds
    if contestant.name == STOCK:
        return min(rounds, 2 * of_others)
    wanted = not cell.sqlite and (cell.connections == 500 or cell.load == "f")
    return min(rounds, of_others) if wanted else 0


def plan(
    contestants: Sequence[Contestant], chosen: Sequence[Cell], rounds: int, of_others: int
) -> list[Turn]:
    """Return all turns in their order.

    Rounds are outermost: where the time ends early, each cell has lost the same.
    """
    turns = []
    for n in range(rounds):
        in_turn = contestants if n % 2 == 0 else contestants[::-1]
        turns += [
            Turn(n + 1, cell, contestant)
            for cell in chosen
            for contestant in in_turn
            if n < rounds_of(contestant, cell, rounds, of_others)
        ]
    return turns


def estimate(turns: Sequence[Turn], seconds: float) -> float:
    """Return about how many seconds turns take on a machine that does nothing else."""
    return sum(_estimate(turn, seconds) for turn in turns)


def _estimate(turn: Turn, seconds: float) -> float:
    load, connections = LOADS[turn.cell.load], turn.cell.connections
    # The slowest may take twice as long as most do.
    quick = START + seconds + connections / load.per_second / 2
    if connections <= 10 or turn.cell.load not in FREEZE.get(turn.contestant.name, ""):
        return quick
    # Whoever froze in the first round is spared the others.
    return quick + PATIENCE + connections / load.per_second / 2 if turn.round == 1 else 0
