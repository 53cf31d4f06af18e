"""What a score is: implement it for a score of your own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Score"]


class Score(Protocol):
    """A confidence that a policy computes at each exit from what the exits so far have shown.

    `memory` maps names to arrays with one row per input still alive; what it needs from earlier exits is
    kept there. The arrays may be of any type that has NumPy's operators.
    """

    @property
    def name(self) -> str:
        """The name that tables and plots show."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether it needs the evidence of exits at which nobody can answer, to remember it."""
        ...

    def init(self, n: int) -> dict[str, Any]:
        """Return the memory of n inputs before the first exit."""
        ...

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the score (rows,) at this exit and the memory for the next one."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form with a "kind"."""
        ...
