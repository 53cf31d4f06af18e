"""What a policy remembers of the inputs that have not answered yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PolicyState"]


@dataclass(frozen=True)
class PolicyState:
    """What a policy remembers of the inputs still alive: their ties (rows,) and the score's memory."""

    tie: Any
    memory: dict[str, Any]

    def __post_init__(self) -> None:
        for name, values in self.memory.items():
            if np.shape(values)[:1] != np.shape(self.tie):
                raise InputError(
                    f"a score must remember one value per input, {len(self.tie)} here, got {name!r} of shape "
                    f"{np.shape(values)}"
                )

    def take(self, keep: Any) -> PolicyState:
        """Return the state of these rows only: a boolean mask or indices."""
        return PolicyState(self.tie[keep], {name: value[keep] for name, value in self.memory.items()})

    @staticmethod
    def joined(states: Sequence[PolicyState]) -> PolicyState:
        """Return the rows of several states, all before the same exit, in order (NumPy arrays)."""
        memory = {name: np.concatenate([s.memory[name] for s in states]) for name in states[0].memory}
        return PolicyState(np.concatenate([state.tie for state in states]), memory)
