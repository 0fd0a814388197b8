"""The settings: decided once, when Starlette is loaded, and changed by set_thread_limit() only.

Called by the patch, by every new limiter and by the command line. A wrong value raises
`SettingsError`; nothing here touches a running limiter.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

from . import _startup
from ._log import warn

PREFIX = "FASTAPI_OVERFLOW_"
LIMIT_RULE = "a whole number of at least 3"
RESERVE_RULE = "a whole number with 0 < reserve < limit - 1"

SWITCH = dict.fromkeys(("1", "true", "yes", "on"), True)
SWITCH |= dict.fromkeys(("0", "false", "no", "off"), False)

# Long enough that a busy machine whose hops take tens of milliseconds isn't often taken for a
# stalled one, short enough that nobody notices. A guess between the 50 and 100 ms that were tried.
STALL_SECONDS = 0.05


class SettingsError(ValueError):
    """A FASTAPI_OVERFLOW_* variable has a value that breaks its rule."""


class Settings(SimpleNamespace):
    """What a new limiter is made with. Never changed: `but` returns another one.

    :ivar disabled: whether everything is off; then the rest has not been read
    :ivar limit: threads per event loop
    :ivar reserve: threads of the limit that only requests already under way may use
    :ivar stall_threads: most threads added while the pool is stalled; None: as many as the limit
    :ivar stall_seconds: seconds in which nothing must finish before the pool counts as stalled
    :ivar max_wait: seconds for which a request waits for its first thread until it is answered 503;
        None: for as long as it takes
    :ivar connections: whether SQLAlchemy's pools ask who may take the next connection
    :ivar otel: whether to report to OpenTelemetry
    :ivar sources: where each that isn't the default came from: a variable's name, or
        "set_thread_limit()"
    """

    # Not a NamedTuple or a dataclass: Python compiles these, at each import of Starlette.
    disabled: bool
    limit: int
    reserve: int
    stall_threads: int | None
    stall_seconds: float
    max_wait: float | None
    connections: bool
    otel: bool
    sources: Mapping[str, str]

    def __init__(self, **values: Any) -> None:
        sources = MappingProxyType(values.pop("sources", {}))
        super().__init__(**{**DEFAULTS, **values, "sources": sources})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are never changed, not even {name!r}")

    def but(self, **values: Any) -> Settings:
        return Settings(**{**vars(self), **values})


DEFAULTS: dict[str, Any] = {
    "disabled": False,
    "limit": 40,
    "reserve": 1,
    "stall_threads": None,
    "stall_seconds": STALL_SECONDS,
    "max_wait": None,
    "connections": True,
    "otel": False,
}

# Variable, field of Settings.
VARIABLES: dict[str, str] = {
    "FASTAPI_OVERFLOW_DISABLE": "disabled",
    "FASTAPI_OVERFLOW_LIMIT": "limit",
    "FASTAPI_OVERFLOW_RESERVE": "reserve",
    "FASTAPI_OVERFLOW_STALL_THREADS": "stall_threads",
    "FASTAPI_OVERFLOW_STALL_SECONDS": "stall_seconds",
    "FASTAPI_OVERFLOW_MAX_WAIT": "max_wait",
    "FASTAPI_OVERFLOW_CONNECTIONS": "connections",
    "FASTAPI_OVERFLOW_OTEL": "otel",
}


def read(environ: Mapping[str, str]) -> Settings:
    """Return the settings that `environ` asks for; an empty value counts as not set.

    :raises SettingsError: naming the variable, its value and the rule it breaks
    """
    if _startup.is_disabled_by(environ):  # then a wrong value of another one must not stop the app
        return Settings(disabled=True, sources={"disabled": "FASTAPI_OVERFLOW_DISABLE"})
    given = {
        name: environ[variable].strip()
        for variable, name in VARIABLES.items()
        if name != "disabled" and environ.get(variable, "").strip()
    }

    def whole(name: str, rule: str, least: int) -> int:
        try:
            number = int(given[name])
        except ValueError:
            number = least - 1
        if number < least:
            raise _error(name, rule, given[name])
        return number

    values: dict[str, Any] = {}
    if "limit" in given:
        values["limit"] = whole("limit", LIMIT_RULE, 3)
    limit = values.get("limit", DEFAULTS["limit"])
    if "reserve" in given:
        rule = f"{RESERVE_RULE} (the limit is {limit})"
        values["reserve"] = whole("reserve", rule, 1)
        if values["reserve"] >= limit - 1:
            raise _error("reserve", rule, given["reserve"])
    if "stall_threads" in given:
        values["stall_threads"] = whole("stall_threads", "a whole number of at least 0", 0)
    for name in ("stall_seconds", "max_wait"):
        if name not in given:
            continue
        try:
            seconds = float(given[name])
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise _error(name, "a number of seconds above 0", given[name])
        values[name] = seconds
    for switch in ("connections", "otel"):
        if switch not in given:
            continue
        values[switch] = SWITCH.get(given[switch].lower())
        if values[switch] is None:
            raise _error(switch, "1 or 0", given[switch])
    names = {name: variable for variable, name in VARIABLES.items()}
    return Settings(**values, sources={name: names[name] for name in values})


def _error(name: str, rule: str, value: str) -> SettingsError:
    return SettingsError(f"{PREFIX}{name.upper()} must be {rule}, got {value!r}")


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return the FASTAPI_OVERFLOW_* names that mean nothing, each with the nearest known one."""
    unknown = sorted(n for n in environ if n.startswith(PREFIX) and n not in VARIABLES)
    if not unknown:
        return {}
    from difflib import get_close_matches

    return {n: next(iter(get_close_matches(n, VARIABLES, 1)), None) for n in unknown}


_decided: Settings | None = None
_decided_by: dict[str, str | None] = {}  # the variables as they were then
_chosen: dict[str, int] = {}  # by set_thread_limit()


def decide() -> Settings:
    """Decide the settings by the environment, once: when Starlette is loaded, or by `patch()`.

    Warns of variables that mean nothing.

    :raises SettingsError: when a value breaks its rule, at every call until it is mended
    """
    global _decided
    if _decided is None:
        settings = read(os.environ)
        for name, nearest in unknown_variables(os.environ).items():
            hint = f", did you mean {nearest}?" if nearest else ""
            warn("%s is not a setting of fastapi-overflow%s", name, hint)
        _decided_by.update((name, os.environ.get(name)) for name in VARIABLES)
        _decided = _with_choice(settings)
    return _decided


def current() -> Settings:
    """Return the settings as decided; before that, what they would be now.

    :raises SettingsError: when a value breaks its rule
    """
    if _decided is not None:
        return _decided
    if is_disabled():
        return Settings(disabled=True)
    return _with_choice(read(os.environ))


def is_disabled() -> bool:
    """Tell whether everything is off; before the settings are decided, whether it would be now."""
    if _decided is not None:
        return _decided.disabled
    if _startup.kept_off and "starlette" in sys.modules:
        return True  # nothing was armed, so Starlette came without the patch
    return _startup.is_disabled_by(os.environ)


def choose(*, limit: int, reserve: int) -> None:
    """Set what the limiters of event loops to come are made with."""
    global _decided
    _chosen.update(limit=limit, reserve=reserve)
    if _decided is not None:
        _decided = _with_choice(_decided)


def _with_choice(settings: Settings) -> Settings:
    if not _chosen:
        return settings
    sources = {**settings.sources, **dict.fromkeys(_chosen, "set_thread_limit()")}
    return settings.but(**_chosen, sources=sources)


def warn_of_late_changes() -> None:
    """Warn, once for each, of variables that were set after the settings had been decided."""
    for name, before in _decided_by.items():
        now = os.environ.get(name)
        if now == before:
            continue
        _decided_by[name] = now
        warn(
            "%s was %s too late: the settings are decided when Starlette is imported. This process"
            " goes on as if it hadn't been; set it before the app is imported%s.",
            name,
            "unset" if now is None else f"set to {now!r}",
            ", or call set_thread_limit()" if name.endswith(("_LIMIT", "_RESERVE")) else "",
        )
