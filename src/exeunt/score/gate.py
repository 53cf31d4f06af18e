"""A gate: how deep an input should go, predicted once, from what the first exit tells about it.

ECO-M2F (Yao et al. 2024, "Efficient Transformer Encoders for Mask2Former-style models") chooses the number of encoder
layers per image in this way. Axis letters: n inputs, m exits, f features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from exeunt._support.arrays import Floats
from exeunt.errors import InputError
from exeunt.score.confidence import FEATURES, StartsEmpty
from exeunt.score.learned import larger

_UP_TO = "best depth up to exit"
_STEPS = 1e9
"""Scores are rounded to 1 / this: inputs that are alike must have equal ones in any batch, so that ties part them."""


@dataclass(frozen=True, eq=False)
class Gate(StartsEmpty):
    """The probability that an exit is deep enough: that the best depth, as predicted at exit 0, is at most this exit.

    `names`: of the evidence of exit 0 that is read, scores or "features". `centre`, `spread` (f,): of its columns.
    `weights` (f + 1, m): of the columns and a 1, the log-odds of each depth.
    """

    names: tuple[str, ...]
    centre: Floats
    spread: Floats
    weights: Floats
    name: str = "gate"
    remembers: ClassVar[bool] = True

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the score (rows,) in [0, 1]; the memory holds that of every exit."""
        if exit_ == 0:
            so_far = self._up_to_each(gate_columns(evidence, self.names))
            memory = {f"{_UP_TO} {depth}": share for depth, share in enumerate(so_far)}
        return memory[f"{_UP_TO} {exit_}"], memory

    def _up_to_each(self, columns: Sequence[Any]) -> list[Any]:
        """Return the probability that the best depth is at most each exit, (rows,) each, from columns (rows,)."""
        scaled = [
            (column - float(centre)) / float(spread)
            for column, centre, spread in zip(columns, self.centre, self.spread, strict=True)
        ]
        odds = []
        for *weights, intercept in self.weights.T.tolist():
            total = scaled[0] * 0.0 + intercept
            for weight, column in zip(weights, scaled, strict=True):
                total = total + weight * column
            odds.append(total)
        top = odds[0]
        for odd in odds[1:]:
            top = larger(top, odd)
        sums = [np.exp(odds[0] - top)]
        for odd in odds[1:]:
            sums.append(sums[-1] + np.exp(odd - top))
        return [np.floor(total / sums[-1] * _STEPS + 0.5) / _STEPS for total in sums]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back the same score to the last bit."""
        return {
            "kind": "gate",
            "names": list(self.names),
            "centre": self.centre.tolist(),
            "spread": self.spread.tolist(),
            "weights": self.weights.tolist(),
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Gate:
        """Rebuild a gate from `to_dict`."""
        centre, spread, weights = (
            np.array(body[name], dtype=np.float64) for name in ("centre", "spread", "weights")
        )
        return cls(tuple(body["names"]), centre, spread, weights.reshape(len(centre) + 1, -1))


def gate_columns(evidence: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Return what a gate reads of the first exit's evidence, as columns (rows,).

    Raises InputError for evidence without one of the names.
    """
    if missing := [name for name in names if name not in evidence]:
        raise InputError(
            f"this gate reads {', '.join(names)} at exit 0, and the evidence lacks {', '.join(missing)}"
        )
    columns: list[Any] = []
    for name in names:
        if name == FEATURES:  # in single precision, as a trace keeps them
            columns += [*np.asarray(evidence[name], dtype=np.float32).T.astype(np.float64)]
        else:
            columns.append(evidence[name])
    return columns


def gate_names(evidence: Mapping[str, Any], scores: Any) -> tuple[str, ...]:
    """Return what a gate reads: the features of the input where the first exit tells some, and its scores."""
    return (*sorted(scores), *((FEATURES,) if FEATURES in evidence else ()))
