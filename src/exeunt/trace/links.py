"""The links of a chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NETWORK", "Link"]

NETWORK = ""
"""The member's name where there is one network alone, some of whose exits are run."""


@dataclass(frozen=True, init=False)
class Link:
    """A member of a chain: its name, and which of its exits are run, ascending; a number is the first so many."""

    member: str
    exits: tuple[int, ...]

    def __init__(self, member: str, exits: int | Sequence[int]) -> None:
        object.__setattr__(self, "member", member)
        object.__setattr__(self, "exits", tuple(range(exits)) if isinstance(exits, int) else tuple(exits))

    @property
    def n_exits(self) -> int:
        """Number of its exits that are run."""
        return len(self.exits)

    @property
    def exit_names(self) -> tuple[str, ...]:
        """What tables call its exits beside their numbers: the member, and the exit's own number unless all are run."""
        if self.is_prefix:
            return (self.member,) * self.n_exits
        return tuple(f"{self.member} exit {exit_}".strip() for exit_ in self.exits)

    @property
    def is_prefix(self) -> bool:
        """Whether the exits are the first ones, without gaps."""
        return self.exits == tuple(range(len(self.exits)))
