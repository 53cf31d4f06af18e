"""A score computed from another score, such as one learned on top of a confidence of your own."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exeunt.score.protocol import Score

__all__ = ["Derived"]

_BASE, _RULE = "base: ", "rule: "


@dataclass(frozen=True, eq=False)
class Derived:
    """The score `rule`, to which the values of the score `base` are shown as evidence named `shown_as`."""

    base: Score
    shown_as: str
    rule: Score

    @property
    def name(self) -> str:
        """The name that tables and plots show."""
        return self.rule.name

    @property
    def remembers(self) -> bool:
        """Whether either of the two needs the evidence of every exit."""
        return self.base.remembers or self.rule.remembers

    def init(self, n: int) -> dict[str, Any]:
        """Return the memory of both."""
        return _both(self.base.init(n), self.rule.init(n))

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the score (rows,) at this exit and the memory of both."""
        value, of_base = self.base(exit_, evidence, _part(memory, _BASE))
        # A ChainMap writes into its first mapping alone, so that the evidence need not be mutable.
        shown = ChainMap({self.shown_as: value}, evidence)  # type: ignore[arg-type]
        score, of_rule = self.rule(exit_, shown, _part(memory, _RULE))
        return score, _both(of_base, of_rule)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {
            "kind": "derived", "base": self.base.to_dict(), "shown_as": self.shown_as, "rule": self.rule.to_dict(),
        }  # fmt: skip


def _both(of_base: Mapping[str, Any], of_rule: Mapping[str, Any]) -> dict[str, Any]:
    named = {_BASE + name: value for name, value in of_base.items()}
    return named | {_RULE + name: value for name, value in of_rule.items()}


def _part(memory: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in memory.items() if name.startswith(prefix)}
