"""A gate: how deep an input should go, predicted once, from what the first exit tells about it.

ECO-M2F (Yao et al. 2024, "Efficient Transformer Encoders for Mask2Former-style models") chooses the number of encoder
layers per image in this way. Axis letters: n inputs, m exits, f features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from exeunt._arrays import Floats
from exeunt.errors import InputError
from exeunt.score.confidence import FEATURES, StartsEmpty, softmax

_SO_FAR = "share of the best depths up to each exit"


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
        """Return the score (rows,) in [0, 1]; the memory holds it for all exits (rows, m)."""
        if exit_ == 0:
            columns = gate_columns(evidence, self.names)
            memory = {_SO_FAR: self.depths(columns).cumsum(axis=1)}
        return memory[_SO_FAR][:, exit_], memory

    def depths(self, columns: Floats) -> Floats:
        """Return the probability of each depth (n, m) from the columns of inputs (n, f)."""
        scaled = (columns - self.centre) / self.spread
        # Rounded: inputs that are alike must have equal scores in any batch, so that ties part them.
        return np.round(softmax(scaled @ self.weights[:-1] + self.weights[-1]), 9)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back the same score to the last bit."""
        return {
            "kind": "gate", "names": list(self.names), "centre": self.centre.tolist(),
            "spread": self.spread.tolist(), "weights": self.weights.tolist(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Gate:
        """Rebuild a gate from `to_dict`."""
        centre, spread, weights = (
            np.array(body[name], dtype=np.float64) for name in ("centre", "spread", "weights")
        )
        return cls(tuple(body["names"]), centre, spread, weights.reshape(len(centre) + 1, -1))


def gate_columns(evidence: Mapping[str, Any], names: tuple[str, ...]) -> Floats:
    """Return what a gate reads of the first exit's evidence as columns (n, f).

    Raises InputError for evidence without one of the names.
    """
    if missing := [name for name in names if name not in evidence]:
        raise InputError(
            f"this gate reads {', '.join(names)} at exit 0, and the evidence lacks {', '.join(missing)}"
        )
    parts = [np.asarray(evidence[name], dtype=np.float64) for name in names]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def gate_names(evidence: Mapping[str, Any], scores: Any) -> tuple[str, ...]:
    """Return what a gate reads: the features of the input where the first exit tells some, and its scores."""
    return (*sorted(scores), *((FEATURES,) if FEATURES in evidence else ()))
