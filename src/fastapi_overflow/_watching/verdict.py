"""Is it stuck? What a process is short of, in a word and in a sentence.

Called with what `StatusApp` serves, at each look. It asks nobody: the same figures give the same
verdict. It must never raise for figures that don't fit together, as they are read while they move.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

Figures = Mapping[str, Any]

# Seconds that somebody must have waited until there is too little of what it waits for. A guess.
SHORT_AFTER = 1.0

# Seconds without any movement after which somebody who waits is stuck: whatever those do who have
# what it waits for, and where none of them is at work. Guesses: a slow query, a slow client.
STUCK_AFTER = 5.0
STUCK_IDLE_AFTER = 2.0

AT_WORK = ("running in a thread", "on the event loop")
UNUSED = ("idle", "ended")

OFF = "fastapi-overflow is switched off in this process: nothing is counted."


class _Shortage(NamedTuple):
    """Something of which there is too little."""

    rank: int  # the lower, the sooner told; 4 for one that isn't a shortage yet
    state: str
    sentence: str
    beside: str  # what is told of it where another one comes first


def verdict(status: Figures) -> dict[str, str]:
    """Tell whether requests get on: a word for programs, and a sentence for people.

    The state is "ok" where nobody waits; "busy" where somebody does, but not for long (who keeps
    what they wait for is named if most of it is idle); "short of threads" or "short of connections"
    where somebody has waited for a second; "stuck" where nothing has moved meanwhile; and "off"
    where the package is switched off.

    :param status: what `StatusApp` serves, with all connections
    """
    if not status["loops"]:
        return {"state": "off", "sentence": OFF}
    found = [_of_pool(pool, status["connections"]) for pool in status["pools"]]
    found.append(_of_threads(status))
    shortages = sorted((shortage for shortage in found if shortage), key=lambda each: each.rank)
    if shortages:
        state = shortages[0].state
        sentences = [shortages[0].sentence]
        if others := [shortage.beside for shortage in shortages[1:]]:
            sentences.append(f"Also, {' and '.join(others)}.")
    else:
        state, sentence = _without_shortage(status)
        sentences = [sentence]
    sentences += _leaks(status["connections"])
    return {"state": state, "sentence": " ".join(sentences)}


def _of_threads(status: Figures) -> _Shortage | None:
    waiting = status["waiting_first"] + status["waiting_later"]
    longest = status["longest_wait"]
    if not waiting or not (longest >= SHORT_AFTER or status["saturated"]):
        return None
    still = status["stalled_for"]
    taken, limit = status["threads_in_use"], status["limit"]
    of = "threads" if limit is None else f"of {limit} threads"
    beside = _waits(waiting, "a thread", longest)
    running = Counter({name: route["running"] for name, route in status["routes"].items()})
    by = ""
    if running and (most := running.most_common(1)[0])[1]:
        by = f", {_share(most[1], taken)} by {most[0]}"
    facts = f"{taken} {of} are taken{by}; {beside}."
    if still >= STUCK_AFTER:
        return _Shortage(1, "stuck", f"Nothing has finished for {seconds(still)}: {facts}", beside)
    return _Shortage(3, "short of threads", facts, beside)


def _of_pool(pool: Figures, connections: list[Figures]) -> _Shortage | None:
    waiting, longest = pool["waiting"], pool["longest_wait"]
    if pool["capacity"] is None or not waiting:
        return None
    # Most of them are kept for nothing: told before anybody has waited for long.
    is_kept = pool["out"] >= pool["capacity"] and 2 * pool["idle"] >= pool["out"]
    if longest < SHORT_AFTER and not is_kept:
        return None
    mine = [each for each in connections if each["pool"] == pool["pool"]]
    beside = _waits(waiting, "a connection", longest)
    facts = (
        f"{pool['out']} of {pool['capacity']} connections of {pool['pool']} are"
        f" out{_holders(pool, mine)}; {_waits(waiting, 'one', longest)}."
    )
    if longest < SHORT_AFTER:
        return _Shortage(4, "busy", facts, beside)
    # What comes back goes to somebody who waits: so none has for as long as all have been out.
    still = min([longest, *(each["seconds"] for each in mine)]) if mine else 0.0
    at_work = any(each["doing"] in AT_WORK for each in mine)
    if still >= (STUCK_AFTER if at_work else STUCK_IDLE_AFTER):
        facts = f"Nothing has come back for {seconds(still)}: {facts}"
        return _Shortage(0, "stuck", facts, beside)
    return _Shortage(2, "short of connections", facts, beside)


def _holders(pool: Figures, mine: list[Figures]) -> str:
    """Return who has the connections: above all those who do nothing with them."""
    idle = min(pool["idle"], pool["out"])
    text = f", {_share(idle, pool['out'])} idle" if idle else ""
    unused = [each for each in mine if each["doing"] in UNUSED] if idle else mine
    names = Counter(map(_who, unused))
    if not names:
        return text
    name, number = names.most_common(1)[0]
    if len(unused) == 1:
        return f"{text}, with {name}"
    return f"{text}, {_share(number, len(unused), 'of these ' if idle else 'of them ')} with {name}"


def _who(connection: Figures) -> str:
    route, line = connection["route"], connection["line"]
    if route:
        name = f"{connection['method'] or ''} {route}".strip()
    elif connection["doing"] == "none":
        name = "code outside of any request"
    else:
        name = "requests before their route"
    return f"{name} ({line})" if line else name


def _without_shortage(status: Figures) -> tuple[str, str]:
    threads = status["waiting_first"] + status["waiting_later"]
    waiting = [(threads, "a thread", status["longest_wait"])]
    waiting += [(pool["waiting"], "a connection", pool["longest_wait"]) for pool in status["pools"]]
    held_back = status["requests_held_back"]
    if not any(number for number, _, _ in waiting) and held_back:
        waits = "wait" if held_back > 1 else "waits"
        return "busy", f"{_requests(held_back)} {waits} to begin; it goes on."
    if told := [_waits(*each) for each in waiting if each[0]]:
        return "busy", f"{' and '.join(told)}; it goes on."
    taken = f"{status['threads_in_use']} "
    taken += "threads" if status["limit"] is None else f"of {status['limit']} threads"
    if pools := status["pools"]:
        out = sum(pool["out"] for pool in pools)
        bounds = [pool["capacity"] for pool in pools]
        taken += f" and {out} " + ("" if None in bounds else f"of {sum(bounds)} ") + "connections"
    return "ok", f"Nobody waits; {taken} are in use."


def _leaks(connections: list[Figures]) -> list[str]:
    leaks = [e for e in connections if e["doing"] == "ended" and e["seconds"] >= SHORT_AFTER]
    if not leaks:
        return []
    name, number = Counter(map(_who, leaks)).most_common(1)[0]
    what = "1 connection is" if len(leaks) == 1 else f"{len(leaks)} connections are"
    by = name if number == len(leaks) else f"most often {name}"
    return [f"{what} still out of requests that have ended: {by}."]


def _waits(number: int, what: str, longest: float) -> str:
    if number == 1:
        return f"1 request waits for {what}, for {seconds(longest)} now"
    return f"{number} requests wait for {what}, the longest for {seconds(longest)}"


def _requests(number: int) -> str:
    return "1 request" if number == 1 else f"{number} requests"


def _share(part: int, whole: int, of: str = "of them ") -> str:
    return "all" if part >= whole else f"{part} {of}".strip()


def seconds(value: float) -> str:
    """Return a time as people say it."""
    if value >= 120:
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
