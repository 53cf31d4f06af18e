"""Several budgets in one text: "20%:95%:5%", or "30%, 50%, 4ms"."""

from __future__ import annotations

import re
from decimal import Decimal

from exeunt.errors import InputError

__all__ = ["budget_grid"]

_QUANTITY = re.compile(r"^\s*(\d*\.?\d+(?:[eE][-+]?\d+)?)\s*([^\s:,\d]*)\s*$")
_MOST = 1000


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
        budgets += _range(item) if ":" in item else [_budget(*_quantity(item, text))]
    if len(budgets) > _MOST:
        raise InputError(f"{text!r} asks for {len(budgets)} budgets: at most {_MOST} are made")
    return list(dict.fromkeys(budgets))


def _range(item: str) -> list[str | float]:
    parts = [_quantity(part, item) for part in item.split(":")]
    if len(parts) != 3:
        raise InputError(f"a range of budgets is first:last:step, such as 20%:95%:5%, got {item.strip()!r}")
    units = {unit for _, unit in parts if unit}
    if len(units) > 1:
        raise InputError(f"the units of {item.strip()!r} differ: {', '.join(sorted(units))}")
    (first, _), (last, _), (step, _) = parts
    if step == 0 or last < first:
        raise InputError(f"a range of budgets counts up in steps above 0, got {item.strip()!r}")
    count = int((last - first) / step) + 1
    if count > _MOST:
        raise InputError(f"{item.strip()!r} asks for {count} budgets: at most {_MOST} are made")
    unit = units.pop() if units else ""
    return [_budget(first + step * k, unit) for k in range(count)]


def _quantity(part: str, text: str) -> tuple[Decimal, str]:
    match = _QUANTITY.match(part)
    if match is None:
        raise InputError(
            f"{part.strip()!r} in {text!r} is no budget: write budgets such as 50% or 4ms, separated by "
            "commas, or a range first:last:step such as 20%:95%:5%"
        )
    # In decimals, so that steps of 0.1 meet the end.
    return Decimal(match[1]), match[2]


def _budget(number: Decimal, unit: str) -> str | float:
    return f"{number.normalize():f}{unit}" if unit else float(number)
