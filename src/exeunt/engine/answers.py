"""Answers per input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exeunt._arrays import Booleans, Floats, Integers

__all__ = ["Answers"]


@dataclass(frozen=True, eq=False)
class Answers:
    """What was answered, per input (n,), in input order.

    `label`: class. `confidence`: its probability. `exit`: where it answered, 0 = first. `cost`: what was run for it,
    in the policy's unit: the cumulative cost at the last exit of the segment in which it answered. So it is the cost at
    `exit` where every exit is a segment of its own, and the full cost in a network that runs whole. Rows that have
    answered and ride along, because a plan says that dropping them takes longer, are not counted.
    `valid`: False for an input that has no answer, because it contains NaN or infinite values, or the
    network produced them: its label and exit are -1, its confidence is NaN, its cost what was spent on it.
    `borderline`: at some exit the input's score came close to the threshold, or the probabilities of two classes to
    each other where that counts: within 1e-5, or more in arithmetic of 16 bits. In another batch, whose arithmetic may
    differ in the last digits, it might get another answer. All others get the same one in every batch.
    `expired`: its deadline came first, and it was answered with what the exits so far had said; not valid if none had
    and the deadline was not soft. Its cost is of all that was run for it by then. `degraded`: likewise, to make room in
    a full engine. None where neither can happen.
    `probabilities` (n, k): of every class, at the exit that answered; NaN without an answer. None unless asked for.
    `batch`: which batch of a stream these are, from 0. `error`: why the whole batch has no answers, if it has none.
    """

    label: Integers
    confidence: Floats
    exit: Integers
    cost: Floats
    valid: Booleans
    borderline: Booleans
    batch: int = 0
    error: Exception | None = None
    probabilities: Floats | None = None
    expired: Booleans | None = None
    degraded: Booleans | None = None

    @property
    def n(self) -> int:
        """Number of inputs."""
        return len(self.label)

    @property
    def n_borderline(self) -> int:
        """Number of inputs that are borderline."""
        return int(np.count_nonzero(self.borderline))

    @property
    def spend(self) -> float:
        """Mean cost per input that was answered, in the policy's unit; 0 where none was."""
        return float(self.cost[self.valid].mean()) if self.valid.any() else 0.0
