"""What an answer costs at each exit, and in which unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from exeunt import _arrays
from exeunt.budgets import parse_budget
from exeunt.errors import InfeasibleBudget, InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from exeunt._arrays import Floats

__all__ = ["LEAST_RISE", "CostModel"]

_Amount = TypeVar("_Amount", float, "Floats")

LEAST_RISE = 1e-9
"""Costs must rise from exit to exit: by this share of the full cost where two exits in truth cost the same."""


@dataclass(frozen=True, eq=False)
class CostModel:
    """Cumulative cost per input of answering at each exit, everything run so far included.

    `cumulative` (m,): positive, finite, strictly increasing; including the auxiliary heads before it.
    `unit`: "MACs" (also kMACs, MMACs, GMACs), "ms", "J", "usd", or any word of your own.
    `source`: how the numbers were obtained, in a few words ("measured", "flop counter", "price list").
    `reference`: what shares such as "50%" are shares of; by default the full cost. For a chain it is the cost of what
    a user would run instead of it.

    Raises InputError when the costs are not positive, finite and strictly increasing.

    >>> cost = CostModel([2.7, 9.9, 15.3], unit="MMACs")
    >>> cost.full, cost.n_exits, cost.budget("50%"), cost.budget("9900 kMACs")
    (15.3, 3, 7.65, 9.9)
    """

    cumulative: Floats
    unit: str = "MACs"
    source: str = "given"
    reference: float = 0.0

    def __init__(
        self,
        cumulative: ArrayLike,
        *,
        unit: str = "MACs",
        source: str = "given",
        reference: float | None = None,
    ) -> None:
        object.__setattr__(self, "cumulative", _arrays.frozen(checked_costs(cumulative).copy()))
        object.__setattr__(self, "unit", str(unit))
        object.__setattr__(self, "source", str(source))
        object.__setattr__(self, "reference", self.full if reference is None else float(reference))

    @property
    def n_exits(self) -> int:
        """Number of exits m, the last one included."""
        return len(self.cumulative)

    @property
    def first(self) -> float:
        """Cost of answering at the first exit: no budget can be lower."""
        return float(self.cumulative[0])

    @property
    def full(self) -> float:
        """Cost of running the whole network, heads included."""
        return float(self.cumulative[-1])

    def share(self, amount: _Amount) -> _Amount:
        """Return an amount, or an array of them, as a share of `reference`."""
        return amount / self.reference

    @property
    def saves_nothing(self) -> bool:
        """Whether an answer costs the same at every exit, but for `LEAST_RISE`."""
        return self.first >= self.full * (1 - 2 * LEAST_RISE * self.n_exits)

    def run_whole(self, why: str) -> CostModel:
        """Return the costs of a network that cannot stop early, and `why`: every exit costs as much as the last."""
        below = LEAST_RISE * np.arange(self.n_exits - 1, -1, -1)
        return CostModel(self.full * (1 - below), unit=self.unit, source=f"{self.source}; runs whole: {why}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CostModel):
            return NotImplemented
        return self.unit == other.unit and np.array_equal(self.cumulative, other.cumulative)

    __hash__ = None  # type: ignore[assignment]

    def budget(self, value: float | str) -> float:
        """Return a budget in this model's unit, between the cheapest exit and the full network.

        `value`: a number in this unit, "50%" of the full cost, or a quantity such as "30 MMACs" or "4ms".

        Raises UnitError for a unit that does not convert, InfeasibleBudget for a budget below the first
        exit, InputError for anything else. A budget above the full cost is the full cost.
        """
        amount = self.amount(value)
        if amount < self.first * (1 - 1e-12):
            raise InfeasibleBudget(
                f"a budget of {self.show(amount)} is below the cheapest exit, which costs "
                f"{self.show(self.first)} ({self.share(self.first):.1%} of the full cost): "
                + (
                    f"no exit saves anything ({self.source})"
                    if self.saves_nothing and self.n_exits > 1
                    else "ask for at least that, or add an earlier exit"
                ),
                smallest_budget=self.first,
            )
        return min(max(amount, self.first), self.full)

    def amount(self, value: float | str) -> float:
        """Return what `budget` takes as a number in this model's unit, whatever the exits cost.

        Raises UnitError for a unit that does not convert, InputError for anything that is no budget.
        """
        if isinstance(value, str):
            return parse_budget(value, full=self.reference, unit=self.unit)
        return _arrays.finite(value, "budget")

    def show(self, amount: float) -> str:
        """Write an amount with its unit, as people read it."""
        return f"{amount:.4g} {self.unit}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back an equal model, to the last bit."""
        body = {"cumulative": self.cumulative.tolist(), "unit": self.unit, "source": self.source}
        return body if self.reference == self.full else {**body, "reference": self.reference}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> CostModel:
        """Rebuild a model from `to_dict`."""
        return cls(
            value["cumulative"], unit=value["unit"], source=value["source"], reference=value.get("reference")
        )

    def __repr__(self) -> str:
        costs = ", ".join(f"{b:.4g}" for b in self.cumulative)
        return f"CostModel([{costs}], unit={self.unit!r}, source={self.source!r})"


def checked_costs(cost: ArrayLike | CostModel) -> Floats:
    """Return cumulative costs (m,) from an array or a CostModel, or raise InputError naming the culprit."""
    if isinstance(cost, CostModel):
        return cost.cumulative
    values = _arrays.floats(cost, "cost", ndim=1)
    if len(values) == 0:
        raise InputError("cost is empty: give one cumulative cost per exit")
    for exit_, value in enumerate(values):
        if not np.isfinite(value) or value <= 0:
            raise InputError(f"costs must be positive and finite, got {value:g} at exit {exit_}")
    steps = np.diff(values)
    if np.any(steps <= 0):
        exit_ = int(np.argmax(steps <= 0)) + 1
        raise InputError(
            f"costs must be strictly increasing (cumulative, not per stage), got {values[exit_]:g} at exit "
            f"{exit_} after {values[exit_ - 1]:g}"
        )
    return values
