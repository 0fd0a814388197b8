"""What the benchmark says is what was measured: its rounds, goals, tables and README."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import readme
import tables
from cells import CONNECTIONS, LOADS, Cell
from contestants import CONTESTANTS, HAND_TUNED, OURS, STOCK
from formats import percent, ratio
from goals import goals, said
from rounds import Rounds
from schedule import Turn, cells, estimate, plan

README = (Path(__file__).parent / "README.md").read_text()
BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}
SETTINGS = {"fastapi": "0.165.0"}


def result(throughput: float = 100, lost: int = 0) -> dict[str, Any]:
    times = {"p50": 0.1, "p99": 0.2, "max": 0.3, "health": [0.01, 0.02]}
    size = {"threads": 45, "memory": 90.0, "cpu_ms": 1.5}
    counts = {"succeeded": 1000 - lost, "failed": lost, "unanswered": 0}
    rate = (1000 - lost) / 1000
    return {"throughput": throughput, "success_rate": rate, **counts, **times, **size}


def turn(name: str = OURS, n: int = 1, cell: Cell = Cell("h", 100)) -> Turn:  # noqa: B008
    return Turn(n, cell, BY_NAME[name])


def begun(path: Path) -> Rounds:
    return Rounds.begin(path / "rounds.jsonl", SETTINGS, resume=False)


def report_of(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    known = {"machine": "2 cores", "python": "3.12.1", "fastapi": "0.165.0", "date": "1 May 2026"}
    numbers = {"minutes": 27, "rounds": 5, "other_rounds": 1, "pool_timeout": 3, "seconds": 1}
    return {**known, **numbers, "versions": {}, "errors": [], "cells": found}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, Any]:
    """Return the report of a run in which everybody answered everything."""
    rounds = begun(tmp_path)
    for each in plan(CONTESTANTS, cells(), 5, 1):
        rounds.add(each, result())
    return report_of(rounds.cells())


class TestSchedule:
    def test_both_that_are_compared_take_every_cell_five_times(self) -> None:
        taken = [t.key for t in plan(CONTESTANTS, cells(), 5, 1)]
        for name in (OURS, HAND_TUNED):
            for cell in cells():
                assert [(name, cell.key, n) in taken for n in range(1, 6)] == [True] * 5

    @pytest.mark.parametrize("load", "afghij")
    def test_a_load_is_measured_at_all_numbers_of_connections(self, load: str) -> None:
        assert {c.connections for c in cells() if c.load == load} == set(CONNECTIONS)

    def test_every_contestant_takes_every_load_at_500_connections(self) -> None:
        taken = {t.key[:2] for t in plan(CONTESTANTS, cells(), 5, 1)}
        assert {(c.name, f"{load} 500") for c in CONTESTANTS for load in LOADS} <= taken

    def test_nobody_always_comes_after_the_same_other(self) -> None:
        turns = plan([BY_NAME[HAND_TUNED], BY_NAME[OURS]], [Cell("a", 500)], 2, 1)
        assert [t.contestant.name for t in turns] == [HAND_TUNED, OURS, OURS, HAND_TUNED]

    def test_a_whole_run_fits_into_half_an_hour(self) -> None:
        assert estimate(plan(CONTESTANTS, cells(), 5, 1), 1) < 30 * 60


class TestRounds:
    def test_a_killed_run_goes_on_where_it_was(self, tmp_path: Path) -> None:
        begun(tmp_path).add(turn(n=1), result())
        with (tmp_path / "rounds.jsonl").open("a") as file:
            file.write('{"contestant": "this pa')
        again = Rounds.begin(tmp_path / "rounds.jsonl", SETTINGS, resume=True)
        assert [again.wanted(turn(n=n), always=True) for n in (1, 2)] == [False, True]
        again.add(turn(n=2), result())
        assert Rounds(tmp_path / "rounds.jsonl").cells()[OURS]["h 100"]["rounds"] == 2

    def test_turns_of_two_settings_are_never_mixed(self, tmp_path: Path) -> None:
        begun(tmp_path)
        with pytest.raises(ValueError, match="without --resume"):
            Rounds.begin(tmp_path / "rounds.jsonl", {"fastapi": "0.166.0"}, resume=True)

    def test_who_has_lost_requests_does_not_take_the_cell_again(self, tmp_path: Path) -> None:
        rounds = begun(tmp_path)
        rounds.add(turn(STOCK), result(lost=900))
        assert not rounds.wanted(turn(STOCK, 2), always=False)
        assert rounds.wanted(turn(STOCK, 2), always=True)

    def test_a_measurement_that_failed_is_told_and_taken_again(self, tmp_path: Path) -> None:
        rounds = begun(tmp_path)
        rounds.add(turn(), {"error": "no answer"})
        assert rounds.errors() == [f"{OURS}, h 100, round 1: no answer"]
        assert rounds.wanted(turn(), always=True)

    def test_one_request_lost_in_one_round_of_five_shows(self, tmp_path: Path) -> None:
        rounds = begun(tmp_path)
        for n in range(1, 6):
            rounds.add(turn(n=n), result(lost=n == 3))
        cell = rounds.cells()[OURS]["h 100"]
        assert cell["lost"] == 1
        assert percent(cell["success_rate"]) == "99.9 %"


class TestGoals:
    @pytest.mark.parametrize(
        ("ours", "tuned", "kept"),
        [
            (result(100), result(100), True),
            (result(99.9), result(100), False),
            (result(120, lost=1), result(100), False),
            (result(50), result(100, lost=1), True),
        ],
        ids=["as many", "fewer", "one lost", "the other lost one"],
    )
    def test_all_answered_and_as_many_a_second(
        self, tmp_path: Path, ours: dict[str, Any], tuned: dict[str, Any], kept: bool
    ) -> None:
        rounds = begun(tmp_path)
        rounds.add(turn(), ours)
        rounds.add(turn(HAND_TUNED), tuned)
        (goal,) = goals(report_of(rounds.cells()))
        assert goal.kept == kept

    def test_a_ratio_is_never_rounded_up(self) -> None:
        assert (ratio(0.9999), ratio(1.0), ratio(1.019)) == ("0.99", "1.00", "1.01")


class TestTables:
    def test_every_cell_that_was_measured_is_shown(self, whole: dict[str, Any]) -> None:
        page = tables.document(whole)
        for cell in cells():
            number = cell.key.split(" ", 1)[1]
            assert f"### ({cell.load}) {LOADS[cell.load].title}, {number} connections" in page

    def test_the_readme_gets_all_figures_and_keeps_its_words(self, whole: dict[str, Any]) -> None:
        filled = readme.fill(README, whole)
        assert "in 27 minutes" in filled
        assert said(goals(whole)) in filled
        figures = re.compile(r"(<!-- [a-z-]+ -->\n).*?(<!-- /)", re.S)
        assert figures.sub(r"\1\2", filled) == figures.sub(r"\1\2", README)

    def test_every_chart_that_the_readme_shows_is_drawn(self, whole: dict[str, Any]) -> None:
        charts = pytest.importorskip("charts")  # matplotlib is for the benchmark alone
        shown = set(re.findall(r"results/(\w+\.svg)", readme.fill(README, whole)))
        assert shown == {file for file, *_ in charts.CHARTS.values()} | {"timeline.svg"}

    def test_a_second_filling_changes_nothing(self, whole: dict[str, Any]) -> None:
        filled = readme.fill(README, whole)
        assert readme.fill(filled, whole) == filled

    def test_a_readme_without_a_place_for_a_figure_is_refused(self, whole: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="0 places for <!-- goals -->"):
            readme.fill(README.replace("<!-- /goals -->", ""), whole)

    def test_what_is_written_is_json(self, whole: dict[str, Any]) -> None:
        assert json.loads(json.dumps(whole)) == whole
