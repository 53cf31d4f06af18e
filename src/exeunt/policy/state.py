"""What a policy remembers of inputs on their way through the exits, and what it decides of them at one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from exeunt.errors import InputError

__all__ = ["Decision", "PolicyState"]


@dataclass(frozen=True)
class PolicyState:
    """What a policy remembers of the inputs still alive: their ties (rows,), the score's memory and the answer's."""

    tie: Any
    memory: dict[str, Any]
    heard: dict[str, Any]

    def __post_init__(self) -> None:
        for name, values in self.memory.items():
            if np.shape(values)[:1] != np.shape(self.tie):
                raise InputError(
                    f"a score must remember one value per input, {len(self.tie)} here, got {name!r} of shape "
                    f"{np.shape(values)}"
                )

    def take(self, keep: Any) -> PolicyState:
        """Return the state of these rows only: a boolean mask or indices."""
        return PolicyState(self.tie[keep], _taken(self.memory, keep), _taken(self.heard, keep))

    @staticmethod
    def joined(states: Sequence[PolicyState]) -> PolicyState:
        """Return the rows of several states, all before the same exit, in order (NumPy arrays)."""
        return PolicyState(
            np.concatenate([state.tie for state in states]),
            _joined([state.memory for state in states]),
            _joined([state.heard for state in states]),
        )


class Decision(NamedTuple):
    """What is decided at an exit: which rows leave (rows,) and with which score (rows,), what is answered to them
    (evidence by name, of all rows), and the state for the next exit.
    """

    leave: Any
    score: Any
    answer: Mapping[str, Any]
    state: PolicyState


def _taken(memory: Mapping[str, Any], keep: Any) -> dict[str, Any]:
    return {name: value[keep] for name, value in memory.items()}


def _joined(memories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([memory[name] for memory in memories]) for name in memories[0]}
