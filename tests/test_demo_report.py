"""What the demo says of its figures, and what its exit code is made of."""

from __future__ import annotations

from collections import Counter

from fastapi_overflow._cli.demo.acts import ACTS
from fastapi_overflow._cli.demo.client import Load
from fastapi_overflow._cli.demo.health import Health
from fastapi_overflow._cli.demo.report import Comparison, Pair, Run


class TestVerdict:
    """The last lines claim what the figures show, and no more."""

    def test_lost_without(self):
        """Requests were lost without the package and none with it: how many, how much faster."""
        assert verdict(3, 0, wall=(60, 2)) == (
            "def endpoint: without fastapi-overflow 3 of 4 requests failed; with it all 4 "
            "succeeded, 30 times faster."
        )

    def test_lost_with(self):
        """Requests were lost with the package: nothing is claimed."""
        sentence = "with fastapi-overflow 1 of 4 requests failed. They should not have"
        assert sentence in verdict(4, 1)

    def test_health_lost_with(self):
        """`/health` got no answer with the package: nothing is claimed, whatever else was."""
        lost = Health([0.1, 9], unanswered=[9])
        assert "with fastapi-overflow /health got no answer" in verdict(4, 0, health=lost)

    def test_health_cut_off(self):
        """`/health` asked just before the end doesn't count as lost."""
        cut_off = Health([0.1, 0.01], unanswered=[0.01])
        assert "with it all 4 succeeded" in verdict(4, 0, health=cut_off)

    def test_lost_never(self):
        """No request was lost either way: that shows nothing, and it says so."""
        assert "not enough load for a deadlock" in verdict(0, 0)

    def test_lost_with_in_one_act(self):
        """A request that is lost with the package counts for the exit code, in whichever act."""
        assert comparison([(3, 0), (3, 1)]).lost_with_it
        assert not comparison([(3, 0), (3, 0)]).lost_with_it


def verdict(lost_without, lost_with, **more):
    """Return the sentence about the first of two endpoints with these losses, on one line."""
    both = comparison([(lost_without, lost_with)] * 2, **more)
    words = " ".join(both.as_text().split())
    return words[words.index("def endpoint: ") : words.index(" async def endpoint: ")]


def comparison(losses, wall=(1, 1), health=None):
    """Return the comparison of runs with 4 requests each."""
    pairs = []
    for act, lost in zip(ACTS, losses, strict=True):
        loads = [
            Load([1.0] * 4, Counter({"HTTP 500": failed}), seconds)
            for failed, seconds in zip(lost, wall, strict=True)
        ]
        pairs.append(Pair(act, *(Run(load, health or Health([0.1]), threads=1) for load in loads)))
    return Comparison(4, "x", "5+10", {}, pairs)
