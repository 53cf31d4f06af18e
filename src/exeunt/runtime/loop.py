"""One loop for every executor: run a stage, ask the policy who answers, drop them, go on with the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from exeunt.errors import InputError
from exeunt.scores import evidence_of, softmax

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from exeunt._arrays import Floats, Integers
    from exeunt.policy import Policy

__all__ = ["Answers", "Executor", "answer"]


class Executor(Protocol):
    """Runs the stages of a network with m exits. `state` is its own business: it holds one row per input."""

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        ...

    def start(self, inputs: Any) -> tuple[Any, int]:
        """Return the state before the first stage and the number of inputs n."""
        ...

    def run(self, exit_: int, state: Any) -> tuple[NDArray[Any], Any]:
        """Run on to this exit: its logits (rows, k) and the state behind it."""
        ...

    def take(self, state: Any, keep: Integers) -> Any:
        """Return the state of these rows only."""
        ...


@dataclass(frozen=True, eq=False)
class Answers:
    """What was answered, per input (n,): class, probability of that class, exit and cost; in input order."""

    label: Integers
    confidence: Floats
    exit: Integers
    cost: Floats

    @property
    def n(self) -> int:
        """Number of inputs."""
        return len(self.label)

    @property
    def spend(self) -> float:
        """Mean cost per input."""
        return float(self.cost.mean()) if self.n else 0.0


def answer(executor: Executor, policy: Policy, inputs: Any, *, id: ArrayLike | None = None) -> Answers:  # noqa: A002
    """Answer a batch. `id` (n,): keys of the inputs, which break ties; by default 0..n-1, which is for a single
    batch only (see `Policy.init`).

    Raises InputError if policy and network have different numbers of exits, or an exit's output is not finite.
    """
    if policy.n_exits != executor.n_exits:
        raise InputError(f"the policy has {policy.n_exits} exits but the network has {executor.n_exits}")
    state, n = executor.start(inputs)
    label, exits = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    confidence = np.zeros(n)
    alive, memory = np.arange(n), policy.init(n, id=id)
    for exit_ in range(policy.n_exits):
        if len(alive) == 0:
            break
        logits, state = executor.run(exit_, state)
        evidence = evidence_of(softmax(_finite(logits, exit_)))
        leave, memory = policy.step(exit_, evidence, memory)
        gone = alive[leave]
        label[gone] = evidence["prediction"][leave]
        confidence[gone] = evidence["max_probability"][leave]
        exits[gone] = exit_
        keep = np.flatnonzero(~leave)
        alive, memory = alive[keep], memory.take(keep)
        if 0 < len(keep) < len(leave):
            state = executor.take(state, keep)
    return Answers(label, confidence, exits, policy.cost.cumulative[exits])


def _finite(logits: NDArray[Any], exit_: int) -> Floats:
    values = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(values).all():
        row = int(np.argmax(~np.isfinite(values).all(axis=1)))
        raise InputError(
            f"exit {exit_} gives a value that is not finite for row {row} of those that reached it: "
            "look for NaN in the inputs or the weights"
        )
    return values
