"""The settings: what each variable allows, and what is said of a value that it doesn't."""

from __future__ import annotations

import logging
import math

import pytest

from fastapi_overflow import SettingsError, _settings
from fastapi_overflow._settings import Settings, read, unknown_variables

LIMIT = "FASTAPI_OVERFLOW_LIMIT"
RESERVE = "FASTAPI_OVERFLOW_RESERVE"
STALL_THREADS = "FASTAPI_OVERFLOW_STALL_THREADS"
STALL_SECONDS = "FASTAPI_OVERFLOW_STALL_SECONDS"


def error(**environ):
    with pytest.raises(SettingsError) as caught:
        read(environ)
    return str(caught.value)


class TestDefaults:
    def test_of_an_empty_environment(self):
        """40 threads, one of them in reserve, and as many more in a stall as the limit."""
        settings = read({})
        assert (settings.limit, settings.reserve, settings.stall_threads) == (40, 1, None)
        assert 0 < settings.stall_seconds < 1

    def test_of_connections(self):
        """SQLAlchemy's pools ask who may take the next connection."""
        assert read({}).connections is True

    @pytest.mark.parametrize("variable", [LIMIT, RESERVE, STALL_THREADS, STALL_SECONDS])
    @pytest.mark.parametrize("value", ["", "  "])
    def test_an_empty_value_is_not_set(self, variable, value):
        """A variable set to nothing counts as not set."""
        assert read({variable: value}) == read({})

    def test_cannot_be_changed_in_place(self):
        """Settings are values: nobody changes those of another."""
        with pytest.raises(AttributeError):
            Settings().limit = 5
        with pytest.raises(TypeError):
            Settings().sources["limit"] = "me"


class TestLimit:
    @pytest.mark.parametrize(("value", "limit"), [("3", 3), ("100", 100), (" 17 ", 17)])
    def test_is_a_whole_number_of_at_least_3(self, value, limit):
        """Any whole number from 3 on is taken, blanks around it or not."""
        assert read({LIMIT: value}).limit == limit

    @pytest.mark.parametrize("value", ["2", "0", "-5", "abc", "4.0", "1e3", "inf", "nan", "0x10"])
    def test_error_names_variable_rule_and_value(self, value):
        """Anything else is refused with the variable, the rule and the value."""
        assert error(**{LIMIT: value}) == (
            f"FASTAPI_OVERFLOW_LIMIT must be a whole number of at least 3, got {value!r}"
        )


class TestReserve:
    @pytest.mark.parametrize(("limit", "reserve"), [("", "38"), ("3", "1"), ("10", "8")])
    def test_is_less_than_the_limit_but_one(self, limit, reserve):
        """Of the limit's threads at least two are left to requests that begin."""
        assert read({LIMIT: limit, RESERVE: reserve}).reserve == int(reserve)

    @pytest.mark.parametrize(
        ("limit", "reserve"), [("", "0"), ("", "39"), ("3", "2"), ("10", "-1"), ("10", "two")]
    )
    def test_error_names_variable_rule_limit_and_value(self, limit, reserve):
        """Anything else is refused with the variable, the rule, the limit and the value."""
        assert error(**{LIMIT: limit, RESERVE: reserve}) == (
            "FASTAPI_OVERFLOW_RESERVE must be a whole number with 0 < reserve < limit - 1"
            f" (the limit is {limit or 40}), got {reserve!r}"
        )


class TestStallThreads:
    @pytest.mark.parametrize("value", ["0", "1", "500"])
    def test_is_a_whole_number_of_at_least_0(self, value):
        """Any number of threads may be added in a stall, and none."""
        assert read({STALL_THREADS: value}).stall_threads == int(value)

    @pytest.mark.parametrize("value", ["-1", "1.5", "many"])
    def test_error_names_variable_rule_and_value(self, value):
        """Anything else is refused with the variable, the rule and the value."""
        assert error(**{STALL_THREADS: value}) == (
            f"FASTAPI_OVERFLOW_STALL_THREADS must be a whole number of at least 0, got {value!r}"
        )


class TestStallSeconds:
    @pytest.mark.parametrize(("value", "seconds"), [("0.2", 0.2), ("3", 3.0), ("1e-3", 0.001)])
    def test_is_a_number_above_0(self, value, seconds):
        """Any number of seconds above 0 is taken."""
        assert math.isclose(read({STALL_SECONDS: value}).stall_seconds, seconds)

    @pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "soon"])
    def test_error_names_variable_rule_and_value(self, value):
        """Anything else, infinity too, is refused with the variable, the rule and the value."""
        assert error(FASTAPI_OVERFLOW_MAX_WAIT=value) == (
            f"FASTAPI_OVERFLOW_MAX_WAIT must be a number of seconds above 0, got {value!r}"
        )
        assert error(**{STALL_SECONDS: value}) == (
            f"FASTAPI_OVERFLOW_STALL_SECONDS must be a number of seconds above 0, got {value!r}"
        )


class TestSwitches:
    @pytest.mark.parametrize("name", ["CONNECTIONS", "OTEL"])
    @pytest.mark.parametrize(("value", "on"), [("1", True), ("Yes", True), ("0", False)])
    def test_are_on_or_off(self, name, value, on):
        """What switches something may be said in several ways."""
        settings = read({f"FASTAPI_OVERFLOW_{name}": value})
        assert getattr(settings, name.lower()) is on

    @pytest.mark.parametrize("name", ["CONNECTIONS", "OTEL"])
    def test_error_names_variable_rule_and_value(self, name):
        """Anything else is refused with the variable, the rule and the value."""
        variable = f"FASTAPI_OVERFLOW_{name}"
        assert error(**{variable: "maybe"}) == f"{variable} must be 1 or 0, got 'maybe'"


class TestSources:
    def test_name_the_variable(self):
        """It is known of each setting which variable it came from; of a default, nothing."""
        assert read({LIMIT: "5", STALL_SECONDS: "1"}).sources == {
            "limit": LIMIT,
            "stall_seconds": STALL_SECONDS,
        }


class TestSettingsError:
    def test_is_a_value_error(self):
        """Whoever catches ValueError catches it; whoever catches ImportError doesn't."""
        assert issubclass(SettingsError, ValueError)
        assert not issubclass(SettingsError, ImportError)


class TestUnknownVariables:
    @pytest.mark.parametrize(
        ("typo", "nearest"),
        [
            ("FASTAPI_OVERFLOW_LIMITS", LIMIT),
            ("FASTAPI_OVERFLOW_STALL_TREADS", STALL_THREADS),
            ("FASTAPI_OVERFLOW_DISABLED", "FASTAPI_OVERFLOW_DISABLE"),
        ],
    )
    def test_come_with_the_nearest_known_name(self, typo, nearest):
        """A typo is told together with the name that was meant."""
        assert unknown_variables({typo: "1"}) == {typo: nearest}

    def test_one_of_an_earlier_version(self):
        """The variable of what has been removed means nothing any more, and is told."""
        assert "FASTAPI_OVERFLOW_GATE" in unknown_variables({"FASTAPI_OVERFLOW_GATE": "0"})

    def test_known_ones_and_those_of_others_are_fine(self):
        """Neither a known variable nor anybody else's is reported."""
        assert unknown_variables({**dict.fromkeys(_settings.VARIABLES, "1"), "FASTAPI_X": ""}) == {}

    def test_are_warned_of_once(self, monkeypatch, caplog):
        """One warning tells name and nearest name, however often the settings are loaded."""
        monkeypatch.setattr(_settings, "_decided", None)
        monkeypatch.setenv("FASTAPI_OVERFLOW_LIMT", "7")
        with caplog.at_level(logging.WARNING, "fastapi_overflow"):
            assert _settings.decide() is _settings.decide()
        (record,) = caplog.records
        assert record.getMessage() == (
            "FASTAPI_OVERFLOW_LIMT is not a setting of fastapi-overflow,"
            " did you mean FASTAPI_OVERFLOW_LIMIT?"
        )


class TestLoad:
    def test_raises_again_until_it_is_mended(self, monkeypatch):
        """A wrong value raises at every attempt; mended, it counts."""
        monkeypatch.setattr(_settings, "_decided", None)
        monkeypatch.setenv(LIMIT, "2")
        for _ in range(2):
            with pytest.raises(SettingsError):
                _settings.decide()
        monkeypatch.setenv(LIMIT, "5")
        assert _settings.decide().limit == 5
