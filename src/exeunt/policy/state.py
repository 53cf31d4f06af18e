"""What a policy remembers of inputs on their way through the exits, and what it decides at an exit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from exeunt.errors import InputError


@dataclass(frozen=True)
class PolicyState:
    """What a policy remembers of the inputs that have not left yet.

    `tie` (rows,): what breaks ties between equal scores. `memory`: the score's, one value per input. `outputs`: what
    the answer remembers of the outputs of earlier exits.
    """

    tie: Any
    memory: dict[str, Any]
    outputs: dict[str, Any]

    def __post_init__(self) -> None:
        rows = np.shape(self.tie)
        for name, values in self.memory.items():
            if np.shape(values)[:1] != rows:
                raise InputError(
                    f"a score must remember one value per input, {len(self.tie)} here, got {name!r} of shape "
                    f"{np.shape(values)}"
                )

    def take(self, keep: Any) -> PolicyState:
        """Return the state of these rows only: a boolean mask or indices."""
        memory = {name: column[keep] for name, column in self.memory.items()}
        outputs = {name: output[keep] for name, output in self.outputs.items()}
        return PolicyState(self.tie[keep], memory, outputs)

    @staticmethod
    def joined(states: Sequence[PolicyState]) -> PolicyState:
        """Return the rows of several states, all before the same exit, in order (NumPy arrays)."""
        first = states[0]
        return PolicyState(
            np.concatenate([state.tie for state in states]),
            {name: np.concatenate([state.memory[name] for state in states]) for name in first.memory},
            {name: np.concatenate([state.outputs[name] for state in states]) for name in first.outputs},
        )


class Decision(NamedTuple):
    """The decision at an exit: which rows leave (rows,), their score (rows,), the answer (evidence by name, of all
    rows), and the state for the next exit.
    """

    leave: Any
    score: Any
    answer: Mapping[str, Any]
    state: PolicyState
