"""What an answer costs at each exit and in which unit, and budgets as people write them: "50%", "4ms", a range."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt import _arrays
from exeunt.errors import InfeasibleBudget, InputError, UnitError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from exeunt._arrays import Floats

__all__ = ["CostModel", "budget_grid"]

# Units that convert into one another: name -> (dimension, size in the dimension's base unit).
_UNITS: dict[str, tuple[str, float]] = {
    **{f"{prefix}MACs": ("MACs", size) for prefix, size in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))},
    **{unit: ("s", size) for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))},
    **{unit: ("J", size) for unit, size in (("J", 1.0), ("mJ", 1e-3), ("kJ", 1e3))},
    **{unit: ("usd", size) for unit, size in (("usd", 1.0), ("cent", 1e-2))},
}
_QUANTITY = re.compile(r"^\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)\s*(\S*)\s*$")
_GRID_QUANTITY = re.compile(r"^\s*(\d*\.?\d+(?:[eE][-+]?\d+)?)\s*([^\s:,\d]*)\s*$")
_MOST_BUDGETS = 1000


@dataclass(frozen=True, eq=False)
class CostModel:
    """Cumulative cost per input of answering at each exit, everything run so far included.

    `cumulative` (m,): positive, finite, strictly increasing; the auxiliary heads passed on the way count.
    `unit`: "MACs" (also kMACs, MMACs, GMACs), "ms", "J", "usd", or any word of your own.
    `source`: how the numbers were obtained, in a few words ("measured", "flop counter", "price list").

    Raises InputError when the costs are not positive, finite and strictly increasing.

    >>> cost = CostModel([2.7, 9.9, 15.3], unit="MMACs")
    >>> cost.full, cost.n_exits, cost.budget("50%"), cost.budget("9900 kMACs")
    (15.3, 3, 7.65, 9.9)
    """

    cumulative: Floats
    unit: str = "MACs"
    source: str = "given"

    def __init__(self, cumulative: ArrayLike, *, unit: str = "MACs", source: str = "given") -> None:
        object.__setattr__(self, "cumulative", _arrays.frozen(checked_costs(cumulative).copy()))
        object.__setattr__(self, "unit", str(unit))
        object.__setattr__(self, "source", str(source))

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
        amount = self._quantity(value) if isinstance(value, str) else _arrays.finite(value, "budget")
        if amount < self.first * (1 - 1e-12):
            raise InfeasibleBudget(
                f"a budget of {self.show(amount)} is below the cheapest exit, which costs "
                f"{self.show(self.first)} ({self.first / self.full:.1%} of the full network): ask for at "
                "least that, or add an earlier exit",
                smallest_budget=self.first,
            )
        return min(max(amount, self.first), self.full)

    def show(self, amount: float) -> str:
        """Write an amount with its unit, as people read it."""
        return f"{amount:.4g} {self.unit}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back an equal model, to the last bit."""
        return {"cumulative": self.cumulative.tolist(), "unit": self.unit, "source": self.source}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> CostModel:
        """Rebuild a model from `to_dict`."""
        return cls(value["cumulative"], unit=value["unit"], source=value["source"])

    def __repr__(self) -> str:
        costs = ", ".join(f"{b:.4g}" for b in self.cumulative)
        return f"CostModel([{costs}], unit={self.unit!r}, source={self.source!r})"

    def _quantity(self, text: str) -> float:
        match = _QUANTITY.match(text)
        if match is None:
            raise InputError(
                f"budget {text!r} is not understood: write a share such as '50%', or a quantity such as "
                f"'{self.full / 2:.4g} {self.unit}'"
            )
        number, unit = float(match[1]), match[2]
        if unit == "%":
            return number / 100 * self.full
        return number * self._conversion(unit, text)

    def _conversion(self, unit: str, text: str) -> float:
        """Return how many of this model's units one `unit` is."""
        if unit in ("", self.unit):
            return 1.0
        mine, theirs = _UNITS.get(self.unit), _UNITS.get(unit)
        if mine is None or theirs is None or mine[0] != theirs[0]:
            raise UnitError(
                f"budget {text!r} is in {unit!r} but the costs are in {self.unit!r}: units do not mix; "
                "give a share such as '50%' or measure the costs in the unit of the budget"
            )
        return theirs[1] / mine[1]


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


def budget_grid(text: str) -> list[str | float]:
    """Return the budgets of a comma list whose items are budgets or ranges "first:last:step", in order.

    A range counts up from `first` and ends at `last`, or before it where the steps do not meet it. Its three
    quantities have the same unit; a unit on `first` or `last` alone serves all. Budgets with a unit or "%" are
    texts, as `CostModel.budget` takes them; bare numbers are floats. Repetitions are dropped.

    Raises InputError for anything else, steps of 0, ranges that run down, or more than 1,000 budgets.

    >>> budget_grid("20%:35%:5%, 4ms, 50")
    ['20%', '25%', '30%', '35%', '4ms', 50.0]
    """
    budgets: list[str | float] = []
    for item in text.split(","):
        budgets += _budget_range(item) if ":" in item else [_as_budget(*_grid_quantity(item, text))]
    if len(budgets) > _MOST_BUDGETS:
        raise InputError(f"{text!r} asks for {len(budgets)} budgets: at most {_MOST_BUDGETS} are made")
    return list(dict.fromkeys(budgets))


def _budget_range(item: str) -> list[str | float]:
    parts = [_grid_quantity(part, item) for part in item.split(":")]
    if len(parts) != 3:
        raise InputError(f"a range of budgets is first:last:step, such as 20%:95%:5%, got {item.strip()!r}")
    units = {unit for _, unit in parts if unit}
    if len(units) > 1:
        raise InputError(f"the units of {item.strip()!r} differ: {', '.join(sorted(units))}")
    (first, _), (last, _), (step, _) = parts
    if step == 0 or last < first:
        raise InputError(f"a range of budgets counts up in steps above 0, got {item.strip()!r}")
    count = int((last - first) / step) + 1
    if count > _MOST_BUDGETS:
        raise InputError(f"{item.strip()!r} asks for {count} budgets: at most {_MOST_BUDGETS} are made")
    unit = units.pop() if units else ""
    return [_as_budget(first + step * k, unit) for k in range(count)]


def _grid_quantity(part: str, text: str) -> tuple[Decimal, str]:
    match = _GRID_QUANTITY.match(part)
    if match is None:
        raise InputError(
            f"{part.strip()!r} in {text!r} is no budget: write budgets such as 50% or 4ms, separated by "
            "commas, or a range first:last:step such as 20%:95%:5%"
        )
    # In decimals, so that steps of 0.1 meet the end.
    return Decimal(match[1]), match[2]


def _as_budget(number: Decimal, unit: str) -> str | float:
    return f"{number.normalize():f}{unit}" if unit else float(number)
