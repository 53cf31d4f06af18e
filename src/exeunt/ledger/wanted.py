"""What a user says that a ledger is: names, amounts and limits, checked, as a ledger keeps them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from decimal import ROUND_FLOOR, Context, Decimal

import numpy as np

from exeunt._support.arrays import short
from exeunt.costs.budget_text import exact_quantity
from exeunt.errors import InputError
from exeunt.ledger.books import Account
from exeunt.ledger.calendar import UTC, CalendarLimit, zone_of

_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
MOST = 2**62 // 10**9  # what SQLite's whole numbers hold, with a margin
_LONGEST = 1000  # bytes of a text; PostgreSQL's index takes 2,704 of a name and a key together
MOST_INPUTS = 10**12
# A context of our own, since that of a thread may round to few digits, or trap what is rounded.
_BILLIONTH, _CONTEXT = Decimal("1e-9"), Context(prec=40, traps=[])


def text_of(text: str, role: str) -> str:
    """Return a text as Python's own. Raise InputError for what not every database holds in an index."""
    try:
        fits = isinstance(text, str) and len(text.encode()) <= _LONGEST and "\0" not in text
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise InputError(
            f"{role} is a text of at most {_LONGEST:,} bytes without NUL and lone surrogates, got {short(text)}"
        )
    return str.__str__(text)  # an Enum may write itself otherwise


def whole(number: int, role: str, least: int) -> int:
    """Return a number of inputs as Python's own. Raise InputError for what is none."""
    try:
        integer = None if isinstance(number, bool | np.bool_) else operator.index(number)
    except TypeError:
        integer = None
    if integer is None or not least <= integer <= MOST_INPUTS:
        raise InputError(f"{role} is a whole number from {least:,} to {MOST_INPUTS:,}, got {short(number)}")
    return integer


def account_of(
    name: str,
    parent: str | None,
    *,
    total: str | None,
    rate: str | None,
    burst: str | None,
    inputs: int,
    periods: Mapping[str, str | None],
    time_zone: str | None,
) -> Account:
    """Return the account that a user describes. `periods`: the most of a day, week or month, by its name."""
    given = (total, rate, burst, *periods.values())
    if other := [limit for limit in given if limit is not None and not isinstance(limit, str)]:
        raise InputError(
            f"amounts are texts with their unit, such as '5 usd' or '2 usd/hour', got {other[0]!r}"
        )
    limits, unit = _calendar(periods, time_zone)
    if not limits:
        return _of_total_or_rate(name, parent, total, rate, burst, inputs)
    if inputs:
        raise InputError("inputs are promised an answer from a total alone: leave out day, week and month")
    total = f"{MOST} {unit}" if total is rate is None else total
    account = _of_total_or_rate(name, parent, total, rate, burst, 0)
    if account.unit != unit:
        raise InputError(f"the limits of a ledger are in {account.unit!r} and {unit!r}: use one unit")
    return account._replace(calendar=limits)


def _of_total_or_rate(
    name: str, parent: str | None, total: str | None, rate: str | None, burst: str | None, inputs: int
) -> Account:
    if total is not None:
        if rate is not None or burst is not None:
            raise InputError("give a total with the number of inputs, if it is known, or a rate with a burst")
        amount, unit = exact_quantity(total)
        unit = text_of(unit, "a unit")
        return Account(name, parent, unit, billionths(amount, ROUND_FLOOR), 0, 1, 0, inputs)
    if inputs:
        raise InputError("inputs are promised an answer from a total: give a total instead of a rate")
    amount, named = exact_quantity(rate or "")
    unit, _, period = text_of(named, "a unit").partition("/")
    if period not in _PERIODS:
        raise InputError(f"a rate is an amount per {', '.join(_PERIODS)}, such as '2 usd/hour', got {rate!r}")
    at_once, burst_unit = exact_quantity(burst) if burst is not None else (amount, unit)
    if burst_unit != unit:
        raise InputError(f"the rate is in {unit!r} and the burst in {burst_unit!r}: use one unit")
    initial = billionths(at_once, ROUND_FLOOR)
    nanoseconds = _PERIODS[period] * 10**9
    return Account(name, parent, unit, initial, billionths(amount, ROUND_FLOOR), nanoseconds, initial, 0)


def _calendar(
    periods: Mapping[str, str | None], time_zone: str | None
) -> tuple[tuple[CalendarLimit, ...], str]:
    """Return the limits by the calendar, and their unit."""
    quantities = {name: exact_quantity(limit) for name, limit in periods.items() if limit is not None}
    if time_zone is not None and not quantities:
        raise InputError("a time zone belongs to limits by day, week or month: give one, too")
    zone = UTC if time_zone is None else zone_of(time_zone).key
    units = sorted({text_of(unit, "a unit") for _, unit in quantities.values()})
    for unit in units:
        if "/" in unit or len(units) > 1:
            raise InputError(
                f"the limits of a day, week and month are amounts in one unit, such as '5 usd', got {units[0]!r}"
                + (f" and {units[1]!r}" if len(units) > 1 else "")
            )
    limits = (
        CalendarLimit(name, zone, billionths(amount, ROUND_FLOOR)) for name, (amount, _) in quantities.items()
    )
    return tuple(limits), "".join(units)


def billionths(amount: float | Decimal, rounding: str) -> int:
    """Return an amount in billionths. A float is what it is written as: 0.1 is a tenth."""
    try:
        number = Decimal(str(amount))
    except (ArithmeticError, ValueError):  # no number, or one of more digits than Python writes
        number = Decimal("nan")
    if not (number.is_finite() and 0 <= number <= MOST):
        text = amount if isinstance(amount, Decimal) else short(amount)
        raise InputError(f"an amount is a number from 0 to {MOST:,}, got {text}")
    return int(number.quantize(_BILLIONTH, rounding, _CONTEXT).scaleb(9, _CONTEXT))
