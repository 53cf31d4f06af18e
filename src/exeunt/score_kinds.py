"""Rebuilding a score from its JSON form, by its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exeunt.errors import InputError
from exeunt.learned_score import LearnedScore
from exeunt.patience_score import ConfidentPatience, ConstantScore, Patience
from exeunt.scores import NamedScore

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt.scores import Score

__all__ = ["score_from_dict"]

_KINDS: dict[str, Callable[[dict[str, Any]], Score]] = {
    "named": lambda body: NamedScore(body["name"]),
    "learned": LearnedScore.from_dict,
    "constant": lambda _: ConstantScore(),
    "patience": lambda _: Patience(),
    "confident_patience": lambda body: ConfidentPatience(body["score"], body["patience"]),
}


def score_from_dict(body: dict[str, Any]) -> Score:
    """Rebuild a score from its `to_dict`. Raises InputError for a kind that this version does not know."""
    if body["kind"] not in _KINDS:
        raise InputError(f"unknown kind of score {body['kind']!r}: this version knows {sorted(_KINDS)}")
    return _KINDS[body["kind"]](body)
