"""What a policy does to inputs: what each loses against the reference, whether it is answered early, what it costs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from exeunt._support.arrays import Booleans, Floats
from exeunt.policy import Policy
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_step import is_tree, path_to
from exeunt.trace.groups import Groups


def instead(inputs: ExitTrace | CascadeTrace, reference: str | None) -> ExitTrace:
    """Return the trace whose last exit a user would ask otherwise."""
    return inputs if isinstance(inputs, ExitTrace) else inputs[str(reference)]


class Outcome(NamedTuple):
    """What a policy does to n inputs.

    `loss` (n,): the quality that each loses, in [-1, 1]: 1 is a wrong answer in place of a right one. `early` (n,):
    which were answered early. `paid` (n,): what each costs.
    """

    loss: Floats
    early: Booleans
    paid: Floats
    groups: Groups | None = None

    @classmethod
    def of(cls, policy: Policy, inputs: ExitTrace | CascadeTrace, reference: str | None) -> Outcome:
        """Return what a policy does to these inputs; `reference`: the model that the loss is measured against."""
        exits, trace = policy.route(inputs), policy.along(inputs)
        answered_at = np.arange(len(exits)), exits
        answered = policy.answer.on(trace).quality[answered_at]
        # The reference agrees with itself, also where it is no exit of the trace.
        best = 1.0 if inputs.reference else instead(inputs, reference).quality[:, -1]
        paid = policy.priced(inputs).cost.of_inputs(trace.n)[answered_at]
        return cls(best - answered, early_exits(policy, inputs, reference)[exits], paid, inputs.groups)

    @property
    def n_early(self) -> int:
        """Number of inputs that were answered early."""
        return int(self.early.sum())


def early_exits(policy: Policy, inputs: ExitTrace | CascadeTrace, reference: str | None) -> Booleans:
    """Return of each exit of a policy whether its answers are early, (m,).

    Those of one network are, but at its last exit; those of a cascade, unless the last exit of `reference` was run.
    """
    run = [(step.model, exit_) for step in policy.cascade for exit_ in step.exits]
    if isinstance(inputs, ExitTrace):
        numbers = [exit_ for _, exit_ in run] or range(policy.n_exits)
        return np.asarray(numbers) < inputs.n_exits - 1
    last = (str(reference), instead(inputs, reference).n_exits - 1)
    tree = is_tree(policy.cascade)
    paths = [path_to(policy.cascade, place) if tree else range(place + 1) for place in range(len(run))]
    return np.array([last not in [run[place] for place in path] for path in paths])
