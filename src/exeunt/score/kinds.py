"""The kinds of score that a policy file may name. A score of your own needs an entry in `KINDS` to be read back."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from exeunt.errors import InputError
from exeunt.score.confidence import NamedScore, StartsEmpty
from exeunt.score.gate import Gate
from exeunt.score.learned import LearnedScore, larger
from exeunt.score.one_look import OneLook
from exeunt.score.router_score import Routing


class Score(Protocol):
    """A confidence that a policy computes at each exit from the outputs of the exits so far.

    `memory` maps names to arrays with one row per input still alive, and keeps what the score needs from earlier
    exits. The arrays may be of any type that has NumPy's operators.
    """

    @property
    def name(self) -> str:
        """The name that tables and plots show."""

    @property
    def remembers(self) -> bool:
        """Whether it must see the evidence of exits at which no input can leave."""

    def init(self, n: int, /) -> dict[str, Any]:
        """Return the memory of n inputs before the first exit."""

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any], /
    ) -> tuple[Any, dict[str, Any]]:
        """Return the score (rows,) at this exit and the memory for the next one."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form with a "kind"."""


@dataclass(frozen=True)
class Patience(StartsEmpty):
    """The number of exits in a row, up to this one, that agree with the exit before (PABEE, Zhou et al. 2020)."""

    name: str = "patience"
    remembers: ClassVar[bool] = True
    in_steps: ClassVar[bool] = True

    def __call__(
        self, _: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the length of the streak (rows,): 0 at the first exit and wherever the prediction changes."""
        prediction = evidence["prediction"]
        streak = prediction * 0.0
        if memory:
            streak = (memory["streak"] + 1.0) * (prediction == memory["prediction"])
        return streak, {"prediction": prediction, "streak": streak}

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": "patience"}."""
        return {"kind": "patience"}


@dataclass(frozen=True)
class ConfidentPatience(StartsEmpty):
    """The least confidence of the last `patience` exits (PCEE).

    In PCEE an input leaves once `patience` exits in a row are confident beyond a threshold; this score is the highest
    such threshold. It is -inf before that many exits.
    """

    score: str
    patience: int
    remembers: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The name that tables and plots show."""
        return f"{self.patience}-fold {self.score}"

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the least confidence (rows,) of the last exits."""
        here = evidence[self.score]
        memory_after = {
            f"back_{age + 1}": memory[f"back_{age}"]
            for age in range(1, self.patience - 1)
            if f"back_{age}" in memory
        }
        if self.patience > 1:
            memory_after["back_1"] = here
        if exit_ < self.patience - 1:
            return here.clip(0.0, 0.0) - float("inf"), memory_after
        least = here
        for before in memory.values():
            least = 0.0 - larger(0.0 - before, 0.0 - least)
        return least, memory_after

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {"kind": "confident_patience", "score": self.score, "patience": self.patience}


@dataclass(frozen=True)
class ConstantScore(StartsEmpty):
    """The same score for all inputs: ties, that is chance, decide which leave."""

    name: str = "constant"
    remembers: ClassVar[bool] = False
    in_steps: ClassVar[bool] = True

    def __call__(
        self, _: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return 0 (rows,)."""
        return evidence["prediction"] * 0.0, memory

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": "constant"}."""
        return {"kind": "constant"}


_BASE, _RULE = "base: ", "rule: "


@dataclass(frozen=True, eq=False)
class Derived:
    """The score `rule`, which sees the values of the score `base` as evidence named `shown_as`."""

    base: Score
    shown_as: str
    rule: Score

    @property
    def name(self) -> str:
        """The name that tables and plots show."""
        return self.rule.name

    @property
    def remembers(self) -> bool:
        """Whether either of the two needs the evidence of every exit."""
        return self.base.remembers or self.rule.remembers

    def init(self, n: int) -> dict[str, Any]:
        """Return the memory of both."""
        return _both(self.base.init(n), self.rule.init(n))

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the score (rows,) at this exit and the memory of both."""
        column, of_base = self.base(exit_, evidence, _part(memory, _BASE))
        # A ChainMap writes into its first mapping alone, so that the evidence need not be mutable.
        shown = ChainMap({self.shown_as: column}, evidence)  # type: ignore[arg-type]
        score, of_rule = self.rule(exit_, shown, _part(memory, _RULE))
        return score, _both(of_base, of_rule)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {
            "kind": "derived",
            "base": self.base.to_dict(),
            "shown_as": self.shown_as,
            "rule": self.rule.to_dict(),
        }


def _both(of_base: Mapping[str, Any], of_rule: Mapping[str, Any]) -> dict[str, Any]:
    named = {_BASE + name: column for name, column in of_base.items()}
    return named | {_RULE + name: column for name, column in of_rule.items()}


def _part(memory: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): column for name, column in memory.items() if name.startswith(prefix)}


KINDS: dict[str, Callable[[dict[str, Any]], Score]] = {
    "named": lambda body: NamedScore(body["name"]),
    "learned": LearnedScore.from_dict,
    "constant": lambda _: ConstantScore(),
    "patience": lambda _: Patience(),
    "confident_patience": lambda body: ConfidentPatience(body["score"], body["patience"]),
    "routing": Routing.from_dict,
    "gate": Gate.from_dict,
    "one_look": OneLook.from_dict,
    "derived": lambda body: Derived(
        score_from_dict(body["base"]), body["shown_as"], score_from_dict(body["rule"])
    ),
}


def score_from_dict(body: dict[str, Any]) -> Score:
    """Rebuild a score from its `to_dict`. Raises InputError for a kind that this version does not know."""
    if body["kind"] not in KINDS:
        raise InputError(
            f"unknown kind of score {body['kind']!r}: known are {', '.join(sorted(KINDS))}; for a score of your own "
            f"first write exeunt.score.kinds.KINDS[{body['kind']!r}] = a function of its to_dict() that returns it"
        )
    return KINDS[body["kind"]](body)
