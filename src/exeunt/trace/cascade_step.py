"""The steps of a cascade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NETWORK = ""
"""The model's name in a cascade of a single network."""


@dataclass(frozen=True, init=False)
class CascadeStep:
    """A model of a cascade: its name, and the exits that are run, ascending; a number stands for the first exits."""

    model: str
    exits: tuple[int, ...]

    def __init__(self, model: str, exits: int | Sequence[int]) -> None:
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "exits", tuple(range(exits)) if isinstance(exits, int) else tuple(exits))

    @property
    def n_exits(self) -> int:
        """Number of exits that are run."""
        return len(self.exits)

    @property
    def exit_names(self) -> tuple[str, ...]:
        """Names of the exits for tables: the model's name, if it has one, and the number of the exit in it."""
        return tuple(f"{self.model} exit {exit_}" if self.model else str(exit_) for exit_ in self.exits)

    @property
    def is_prefix(self) -> bool:
        """Whether the exits are the first ones, without gaps."""
        return self.exits == tuple(range(len(self.exits)))
