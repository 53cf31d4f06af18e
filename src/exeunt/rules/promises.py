"""What a policy may promise of its answers: that the mean of a value per input is within a limit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from exeunt._support.arrays import Floats
from exeunt.guarantees.p_values import LOSS_BOUNDS
from exeunt.policy import Policy
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.groups import Groups, mean, per_unit


def instead(inputs: ExitTrace | CascadeTrace, reference: str | None) -> ExitTrace:
    """Return the trace whose last exit a user would ask otherwise."""
    return inputs if isinstance(inputs, ExitTrace) else inputs[str(reference)]


def lost_by(policy: Policy, inputs: ExitTrace | CascadeTrace, reference: str | None) -> Floats:
    """Return the quality that each input loses by the policy, in [-1, 1]: 1 is a right answer, -1 a wrong one."""
    answered = policy.answer.on(policy.along(inputs)).quality
    # The reference agrees with itself, also where it is no exit of the trace.
    best = 1.0 if inputs.reference else instead(inputs, reference).quality[:, -1]
    lost: Floats = best - answered[np.arange(len(answered)), policy.route(inputs)]
    return lost


class Outcome(NamedTuple):
    """What a policy does to n inputs: the quality that each loses, (n,), see `lost_by`."""

    loss: Floats
    groups: Groups | None = None

    @classmethod
    def of(cls, policy: Policy, inputs: ExitTrace | CascadeTrace, reference: str | None) -> Outcome:
        """Return what a policy does to these inputs; `reference`: the model that the loss is measured against."""
        return cls(lost_by(policy, inputs, reference), inputs.groups)


@dataclass(frozen=True)
class Promise(ABC):
    """A mean that is within `limit` in the long run, and the name of the bound that tests it.

    A kind of promise says which value in [-1, 1] it gives to each input (`values`). The promise is kept exactly where
    the mean of the values is at most `limit`. Where inputs come in groups, it is the mean that guarantees are about.
    """

    limit: float
    bound: str = "betting"

    name: ClassVar[str]
    """The argument of `cheapest` that asks for it."""
    bounds: ClassVar[tuple[str, ...]] = ("betting",)
    """The bounds that may test it, the usual one first."""

    @abstractmethod
    def values(self, outcome: Outcome) -> Floats:
        """Return a value of each input, (n,)."""

    def measured(self, outcome: Outcome) -> float:
        """Return what of these inputs corresponds to the limit."""
        return float(mean(self.values(outcome), outcome.groups))

    def units(self, outcome: Outcome) -> Floats:
        """Return a value per exchangeable unit, whose mean is within the limit where the promise is kept."""
        return per_unit(self.values(outcome), outcome.groups, self.limit)

    def p_value(self, units: Floats, delta: float) -> float:
        """Return the p-value of the hypothesis that the promise is broken."""
        return LOSS_BOUNDS[self.bound](units, self.limit, delta)

    def with_limit(self, limit: float) -> Promise:
        """Return the same promise with another limit."""
        return replace(self, limit=limit)

    def with_tightest_bound(self, samples: Sequence[Floats], delta: float) -> Promise:
        """Return it with the bound under which most policies pass, by units of fit inputs, which guarantee nothing.

        Of equally good bounds it is the usual one: betting takes less than Hoeffding-Bentkus where losses are near the
        limit.
        """
        tests = [replace(self, bound=bound) for bound in self.bounds]
        return max(tests, key=lambda test: passed([test.p_value(units, delta) for units in samples], delta))


class MeanLoss(Promise):
    """The mean loss of all inputs, or the share of the answers that differ from the reference's."""

    name = "max_loss"
    bounds = ("betting", "hoeffding_bentkus")

    def values(self, outcome: Outcome) -> Floats:
        """Return what each input loses, (n,)."""
        return outcome.loss


def passed(p_values: Sequence[float], delta: float) -> int:
    """Return how many hypotheses are rejected in a row from the start."""
    return next((k for k, p in enumerate(p_values) if p > delta), len(p_values))
