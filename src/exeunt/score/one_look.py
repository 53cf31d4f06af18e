"""One look: what an answer at each exit is worth, predicted at the network's gate, before any exit is run.

Axis letters: n inputs, m exits, f features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from exeunt._support.arrays import Floats
from exeunt.errors import InputError
from exeunt.score.confidence import GATE, StartsEmpty

_GAIN = "gain up to exit"
_STEPS = 1e9
"""Scores are rounded to 1 / this: inputs that are alike must have equal ones in any batch, so that ties part them."""


@dataclass(frozen=True, eq=False)
class OneLook(StartsEmpty):
    """How much more the best exit up to this one is worth than the best one after it, known at the gate.

    An exit is worth its predicted quality less its price. `weights` (f + 1, m): of the gate's features and a 1, the
    log-odds of each exit's quality. `prices` (m,): of each exit, in quality.
    """

    weights: Floats
    prices: Floats
    name: str = "gain at the gate"
    remembers: ClassVar[bool] = False
    looks_once: ClassVar[bool] = True
    """An input's exit is known before any exit is run."""

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the score (rows,) in quality; the memory holds that of every exit."""
        if not memory:
            if GATE not in evidence:
                raise InputError(
                    "this policy chooses exits by the features of the network's gate, and the evidence has none: "
                    "record the outputs of a network with a gate (exeunt train --gate STAGE)"
                )
            worth = self.quality(evidence[GATE]) - self.prices
            gains = [self._gain(worth, up_to) for up_to in range(1, len(self.prices))]
            memory = {f"{_GAIN} {place}": gain for place, gain in enumerate([*gains, gains[-1] * 0.0])}
        return memory[f"{_GAIN} {exit_}"], memory

    def quality(self, features: Any) -> Any:
        """Return the predicted quality of each exit (rows, m), from what the gate tells (rows, f)."""
        odds = np.einsum("nf,fm->nm", features.astype(np.float64), self.weights[:-1]) + self.weights[-1]
        return 1.0 / (1.0 + np.exp(0.0 - odds))

    @staticmethod
    def _gain(worth: Any, up_to: int) -> Any:
        gain = worth[:, :up_to].max(axis=1) - worth[:, up_to:].max(axis=1)
        return np.floor(gain * _STEPS + 0.5) / _STEPS

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back the same score to the last bit."""
        return {"kind": "one_look", "weights": self.weights.tolist(), "prices": self.prices.tolist()}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> OneLook:
        """Rebuild a score from `to_dict`."""
        prices = np.array(body["prices"], dtype=np.float64)
        return cls(np.array(body["weights"], dtype=np.float64).reshape(-1, len(prices)), prices)
