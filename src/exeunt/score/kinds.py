"""What a score is, and the kinds of score that a policy file may name.

A score of your own implements `Score`. To be read back from a policy file, its kind needs an entry here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from exeunt.errors import InputError
from exeunt.score.confidence import NamedScore
from exeunt.score.learned import LearnedScore
from exeunt.score.patience import ConfidentPatience, ConstantScore, Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Score", "score_from_dict"]


class Score(Protocol):
    """A confidence that a policy computes at each exit from what the exits so far have shown.

    `memory` maps names to arrays with one row per input still alive; what it needs from earlier exits is
    kept there. The arrays may be of any type that has NumPy's operators.
    """

    @property
    def name(self) -> str:
        """The name that tables and plots show."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether it needs the evidence of exits at which nobody can answer, to remember it."""
        ...

    def init(self, n: int) -> dict[str, Any]:
        """Return the memory of n inputs before the first exit."""
        ...

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the score (rows,) at this exit and the memory for the next one."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form with a "kind"."""
        ...


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
