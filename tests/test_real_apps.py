"""The recipes of apps that others wrote: well-formed, without installing or starting any."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement

from apps_of_others import report
from apps_of_others.load import Burst
from apps_of_others.recipes import RECIPES

PLACES = {"bin", "home", "port", "postgres"}

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.project)


class TestRecipes:
    def test_each_app_has_one_recipe(self):
        names = [recipe.project for recipe in RECIPES]
        assert len(set(names)) == len(names)

    @each_recipe
    def test_it_installs_what_the_package_index_can_have(self, recipe):
        for requirement in (recipe.name, *recipe.also):
            assert Requirement(requirement).url is None

    @each_recipe
    def test_it_uses_no_place_that_is_not_filled_in(self, recipe):
        found = {place for text in recipe.texts for place in re.findall(r"{(\w+)}", text)}
        assert found <= PLACES

    @each_recipe
    def test_the_app_listens_on_this_machine_only(self, recipe):
        assert "127.0.0.1" in recipe.start
        assert "{port}" in recipe.start

    @each_recipe
    def test_its_commands_are_those_of_its_own_environment(self, recipe):
        assert all(command[0].startswith("{bin}/") for command in (recipe.start, *recipe.prepare))

    @each_recipe
    def test_it_sends_a_path_and_no_other_address(self, recipe):
        assert recipe.asks
        assert all(path.startswith("/") for path in (recipe.ready, *(a.path for a in recipe.asks)))


def result(name: str, failed: int) -> report.Result:
    burst = Burst("GET /", {"200": 10 - failed, "500": failed}, 1.0, 0.5, 1.0, 0.2)
    good = Burst("GET /", {"200": 10}, 1.0, 0.5, 1.0, 0.2)
    rounds = {"without": [[good]], "with": [[burst]]}
    return report.Result(name, "1.0", "sync", {}, {}, rounds)


class TestReport:
    def test_a_request_that_fails_only_with_the_package_is_told(self):
        assert result("app", failed=3).worse() == ["GET /: 0 failed without, 3 with"]

    def test_nothing_is_told_where_nothing_fails(self):
        assert result("app", failed=0).worse() == []

    def test_a_later_run_replaces_the_lines_of_its_own_apps_only(self, tmp_path, monkeypatch):
        page = tmp_path / "README.md"
        page.write_text("# Tests\n\nAbove.\n")
        monkeypatch.setattr(report, "README", page)
        report.write_readme([result("one", failed=0), result("two", failed=0)])
        page.write_text(page.read_text() + "Below.\n")
        report.write_readme([result("one", failed=3)])
        lines = page.read_text().splitlines()
        assert [line.split(" | ")[3] for line in lines if line.startswith("| one")] == ["0 → 3"]
        assert [line.split(" | ")[3] for line in lines if line.startswith("| two")] == ["0 → 0"]
        assert lines[:3] == ["# Tests", "", "Above."]
        assert lines[-1] == "Below."
