"""What the policy decides of rows at an exit, entered into the table of batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.engine.row_dropping import Wave
from exeunt.score.confidence import LOG_PROBABILITY, Evidence, softmax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from exeunt._arrays import Booleans, Floats
    from exeunt.engine.answers import BatchTable
    from exeunt.engine.executor import Segments
    from exeunt.policy import Policy

__all__ = ["BORDER", "Decider", "class_probabilities"]

BORDER = 1e-5
"""Scores this close to a threshold, and classes this close to each other, may change places with the arithmetic of
another batch."""


class Decider:
    """Decides by a policy who answers, and enters it into a table of batches.

    An input that answers within one of the `segments` has gone through all of it, and that is what it costs.
    `probabilities`: enter those of all classes, too.
    """

    def __init__(self, policy: Policy, segments: Segments, table: BatchTable, *, probabilities: bool) -> None:
        self.policy, self.table = policy, table
        self._keeps_probabilities = probabilities
        ends = [last for first, last in segments for _ in range(first, last + 1)]
        self._cost: list[float] = policy.cost.cumulative[ends].tolist()
        # Whole numbers are not moved by arithmetic: many inputs are at a threshold, and their ties decide.
        self._in_steps = bool(getattr(policy.score, "in_steps", False))
        self._remembers = bool(getattr(policy.score, "remembers", True))

    def decide(self, exit_: int, logits: NDArray[Any], wave: Wave) -> Wave:
        """Enter who answers at this exit, and return the others. If the score fails, nobody has answered."""
        cost = self._cost[exit_]
        values: Floats = np.asarray(logits if wave.rows is None else logits[wave.rows], dtype=np.float64)
        if not math.isfinite(np.vdot(values, values)):  # a sum would warn of infinities of both signs
            values = self._without_wrong(values, wave, cost)
            if len(values) == 0:
                return wave
        evidence = Evidence(softmax(values))
        leave, score, answer, memory = self.policy.decide(exit_, evidence, wave.memory)
        self._note_borderline(exit_, score, answer, leave, wave)
        left = Wave(wave.state, wave.height, wave.rows, wave.slot, memory, wave.alone)
        if np.count_nonzero(leave):
            label, confidence = answer["prediction"][leave], answer["max_probability"][leave]
            kept = class_probabilities(answer)[leave] if self._keeps_probabilities else None
            left.keep(~leave)
            self.table.enter_answers(wave.slot[leave], label, confidence, exit_, cost, kept)
        return left

    def _without_wrong(self, values: Floats, wave: Wave, cost: float) -> Floats:
        """Reject rows whose logits are not finite."""
        good = np.isfinite(values).all(axis=1)
        self.table.reject(wave.slot[~good], cost)
        wave.keep(good)
        return values[good]

    def _note_borderline(
        self, exit_: int, score: Any, answer: Mapping[str, Any], leave: Booleans, wave: Wave
    ) -> None:
        """Flag rows that the arithmetic of another batch might answer at another exit, or with another class."""
        # A score with a memory may depend on the class at every exit, any other answer on that where it is given.
        close = (answer["margin"] <= BORDER) & (leave | self._remembers)
        threshold = float(self.policy.limits.score[exit_])
        if exit_ < self.policy.n_exits - 1 and math.isfinite(threshold) and not self._in_steps:
            close |= abs(score - threshold) <= BORDER
        if np.count_nonzero(close):
            self.table.note_borderline(wave.slot[close])


def class_probabilities(answer: Mapping[str, Any]) -> Floats:
    """Return the probabilities (n, k) of all classes that an answer holds."""
    return answer.probabilities if isinstance(answer, Evidence) else np.exp(answer[LOG_PROBABILITY])
