"""The kinds of score that a policy file may name. A score of your own needs an entry here to be read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exeunt.errors import InputError
from exeunt.score.confidence import NamedScore
from exeunt.score.derived import Derived
from exeunt.score.learned import LearnedScore
from exeunt.score.patience import ConfidentPatience, ConstantScore, Patience
from exeunt.score.protocol import Score

__all__ = ["Score", "score_from_dict"]


_KINDS: dict[str, Callable[[dict[str, Any]], Score]] = {
    "named": lambda body: NamedScore(body["name"]),
    "learned": LearnedScore.from_dict,
    "constant": lambda _: ConstantScore(),
    "patience": lambda _: Patience(),
    "confident_patience": lambda body: ConfidentPatience(body["score"], body["patience"]),
    "derived": lambda body: Derived(
        score_from_dict(body["base"]), body["shown_as"], score_from_dict(body["rule"])
    ),
}


def score_from_dict(body: dict[str, Any]) -> Score:
    """Rebuild a score from its `to_dict`. Raises InputError for a kind that this version does not know."""
    if body["kind"] not in _KINDS:
        raise InputError(f"unknown kind of score {body['kind']!r}: this version knows {sorted(_KINDS)}")
    return _KINDS[body["kind"]](body)
