"""Budgets as people write them: a share "50%", a quantity "4ms" or "7.5 usd per 10k", a grid "20%:95%:5%"."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

from exeunt.errors import InputError, UnitError

# Units that convert into one another: name -> (dimension, size in the dimension's base unit).
_UNITS: dict[str, tuple[str, float]] = {
    **{f"{prefix}MACs": ("MACs", size) for prefix, size in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))},
    **{unit: ("s", size) for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))},
    **{unit: ("J", size) for unit, size in (("J", 1.0), ("mJ", 1e-3), ("kJ", 1e3))},
    **{unit: ("usd", size) for unit, size in (("usd", 1.0), ("cent", 1e-2))},
}
# A number, a unit, and for how many inputs it is: "7.5 usd per 10k".
_QUANTITY = re.compile(r"\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)\s*(%|[^\s:,%]*)(?:\s+per\s+(\d+)([kM]?))?\s*")
_MONEY = ("usd", "cent")
_INPUTS = {"": 1, "k": 1_000, "M": 1_000_000}
_MOST_BUDGETS = 1000


def parse_budget(text: str, *, full: float, unit: str) -> float:
    """Return a budget such as "50%" or "30 MMACs" as a number in `unit`; `full` is the full cost in this unit.

    Raises InputError for a text that is neither a share nor a quantity, UnitError for a unit that does not convert.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InputError(
            f"budget {text!r} is not understood: write a share such as '50%', or a quantity such as "
            f"'{amount_text(full / 2, unit)}'"
        )
    number, budget_unit = float(match[1]) / _inputs(match), match[2]
    if not math.isfinite(number):
        raise InputError(f"budget {text!r} is too large: the full network costs {amount_text(full, unit)}")
    if budget_unit == "%":
        return number / 100 * full
    return number * _conversion(budget_unit, unit, text)


def exact_quantity(text: str) -> tuple[Decimal, str]:
    """Return the number and the unit of a quantity. Raises InputError for anything else.

    >>> exact_quantity("0.1 usd"), exact_quantity("2 usd/hour")
    ((Decimal('0.1'), 'usd'), (Decimal('2'), 'usd/hour'))
    """
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] in ("", "%") or match[3] is not None:
        raise InputError(f"{text!r} is no amount: write a number with its unit, such as '5 usd'")
    try:
        return Decimal(match[1]), match[2]
    except InvalidOperation:
        raise InputError(f"{text!r:.80} has an exponent that no amount has") from None


def is_duration(text: str) -> bool:
    """Return whether a budget is in a unit of time.

    >>> is_duration("4ms"), is_duration("0.01 s"), is_duration("30 MMACs"), is_duration("50%")
    (True, True, False, False)
    """
    match = _QUANTITY.fullmatch(text)
    return match is not None and _UNITS.get(match[2], ("", 0.0))[0] == "s"


def amount_text(amount: float, unit: str, *, digits: int = 4) -> str:
    """Write an amount with its unit, in a form that `parse_budget` reads.

    >>> amount_text(298_512, "MACs"), amount_text(4.0, "ms")
    ('298.5 kMACs', '4 ms')
    """
    size, readable = readable_unit(amount, unit)
    return f"{amount / size:.{digits}g} {readable}"


def readable_unit(amount: float, unit: str) -> tuple[float, str]:
    """Return the (size, unit) for amounts like this. Divide amounts by the size.

    >>> readable_unit(4e7, "MACs"), readable_unit(1e-7, "usd")
    ((1000000.0, 'MMACs'), (1e-06, 'usd per 1M'))
    """
    if unit in _MONEY and 0 < amount < 1e-4:
        return 1e-6, f"{unit} per 1M"
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if unit == "MACs" and amount >= size:
            return size, f"{prefix}MACs"
    return 1.0, unit


def _conversion(budget_unit: str, unit: str, text: str) -> float:
    """Return how many `unit` one `budget_unit` is."""
    if budget_unit in ("", unit):
        return 1.0
    mine, theirs = _UNITS.get(unit), _UNITS.get(budget_unit)
    if mine is None or theirs is None or mine[0] != theirs[0]:
        known = [name for name, (dimension, _) in _UNITS.items() if mine and dimension == mine[0]] or [unit]
        raise UnitError(
            f"budget {text!r} is in {budget_unit!r}, which is no unit of these costs: write {', '.join(known)}, or a "
            "share such as '50%', or measure the costs in the unit of the budget"
        )
    return theirs[1] / mine[1]


def budget_grid(text: str) -> list[str | float]:
    """Return the budgets of a comma list whose items are budgets or ranges "first:last:step", in order.

    A range counts up from `first` to `last`, or to the last step below it. Its three
    quantities have one unit, which may be written on one of them only. Budgets with a unit or "%" are
    texts, as `CostModel.budget` takes them; bare numbers are floats. Duplicates are dropped.

    Raises InputError for anything else, steps of 0, ranges that run down, or more than 1,000 budgets.

    >>> budget_grid("20%:35%:5%, 4ms, 50")
    ['20%', '25%', '30%', '35%', '4ms', 50.0]
    """
    budgets: list[str | float] = []
    for part in text.split(","):
        budgets += _budget_range(part) if ":" in part else [_as_budget(*_grid_quantity(part, text))]
    if len(budgets) > _MOST_BUDGETS:
        raise InputError(f"{text!r} asks for {len(budgets)} budgets: at most {_MOST_BUDGETS} are made")
    return list(dict.fromkeys(budgets))


def budget_list(budgets: str | Iterable[float | str]) -> list[float | str]:
    """Return several budgets as a list: a text is read by `budget_grid`."""
    return list(budget_grid(budgets) if isinstance(budgets, str) else budgets)


def _budget_range(text: str) -> list[str | float]:
    parts = [_grid_quantity(part, text) for part in text.split(":")]
    if len(parts) != 3:
        raise InputError(f"a range of budgets is first:last:step, such as 20%:95%:5%, got {text.strip()!r}")
    units = {unit for _, unit in parts if unit}
    if len(units) > 1:
        raise InputError(f"the units of {text.strip()!r} differ: {', '.join(sorted(units))}")
    (first, _), (last, _), (step, _) = parts
    if step == 0 or last < first:
        raise InputError(f"a range of budgets counts up in steps above 0, got {text.strip()!r}")
    count = int((last - first) / step) + 1
    if count > _MOST_BUDGETS:
        raise InputError(f"{text.strip()!r} asks for {count} budgets: at most {_MOST_BUDGETS} are made")
    unit = units.pop() if units else ""
    return [_as_budget(first + step * k, unit) for k in range(count)]


def _grid_quantity(part: str, text: str) -> tuple[Decimal, str]:
    match = _QUANTITY.fullmatch(part)
    if match is None or match[1].startswith("-"):
        raise InputError(
            f"{part.strip()!r} in {text!r} is no budget: write budgets such as 50% or 4ms, separated by "
            "commas, or a range first:last:step such as 20%:95%:5%"
        )
    # In decimals, so that steps of 0.1 meet the end.
    return Decimal(match[1]) / _inputs(match), match[2]


def _inputs(match: re.Match[str]) -> int:
    """Return the number of inputs that a quantity is for; a budget is for one input."""
    if match[3] is None:
        return 1
    if int(match[3]) == 0:
        raise InputError(f"a budget is for at least one input, got {match[0].strip()!r}")
    return int(match[3]) * _INPUTS[match[4]]


def _as_budget(number: Decimal, unit: str) -> str | float:
    return f"{number.normalize():f}{unit}" if unit else float(number)
