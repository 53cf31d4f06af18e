"""Scores of the literature that remember: patience, confident patience, and none at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from exeunt.score.learned import larger

__all__ = ["ConfidentPatience", "ConstantScore", "Patience"]


@dataclass(frozen=True)
class Patience:
    """How many exits in a row, up to this one, agree with the one before (PABEE, Zhou et al. 2020)."""

    name: str = "patience"
    remembers: ClassVar[bool] = True
    in_steps: ClassVar[bool] = True

    def init(self, n: int) -> dict[str, Any]:  # noqa: ARG002 - part of the protocol
        """Nothing is known before the first exit."""
        return {}

    def __call__(
        self,
        exit_: int,  # noqa: ARG002 - part of the protocol
        evidence: Mapping[str, Any],
        memory: dict[str, Any],
    ) -> tuple[Any, dict[str, Any]]:
        """Return the length of the streak (rows,): 0 at the first exit and wherever the answer changes."""
        prediction = evidence["prediction"]
        streak = prediction * 0.0
        if memory:
            streak = (memory["streak"] + 1.0) * (prediction == memory["prediction"])
        return streak, {"prediction": prediction, "streak": streak}

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": "patience"}."""
        return {"kind": "patience"}


@dataclass(frozen=True)
class ConfidentPatience:
    """The least confidence of the last `patience` exits (PCEE).

    PCEE leaves once `patience` exits in a row are confident beyond a threshold; this is the highest threshold
    for which they are. Where fewer exits have passed, nobody is confident: -inf.
    """

    score: str
    patience: int
    remembers: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The name that tables and plots show."""
        return f"{self.patience}-fold {self.score}"

    def init(self, n: int) -> dict[str, Any]:  # noqa: ARG002 - part of the protocol
        """Nothing is known before the first exit."""
        return {}

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the least confidence (rows,) of the last exits."""
        here = evidence[self.score]
        kept = {
            f"back_{age + 1}": memory[f"back_{age}"]
            for age in range(1, self.patience - 1)
            if f"back_{age}" in memory
        }
        if self.patience > 1:
            kept["back_1"] = here
        if exit_ < self.patience - 1:
            return here.clip(0.0, 0.0) - float("inf"), kept
        least = here
        for before in memory.values():
            least = 0.0 - larger(0.0 - before, 0.0 - least)
        return least, kept

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {"kind": "confident_patience", "score": self.score, "patience": self.patience}


@dataclass(frozen=True)
class ConstantScore:
    """The same for everybody: who leaves is left to the ties, that is, to chance."""

    name: str = "constant"
    remembers: ClassVar[bool] = False
    in_steps: ClassVar[bool] = True

    def init(self, n: int) -> dict[str, Any]:  # noqa: ARG002 - part of the protocol
        """Nothing is remembered between exits."""
        return {}

    def __call__(
        self,
        exit_: int,  # noqa: ARG002 - part of the protocol
        evidence: Mapping[str, Any],
        memory: dict[str, Any],
    ) -> tuple[Any, dict[str, Any]]:
        """Return 0 (rows,)."""
        return evidence["prediction"] * 0.0, memory

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": "constant"}."""
        return {"kind": "constant"}
