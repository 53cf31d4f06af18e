"""Entries of a configuration file: options by name, each of a kind, as frozen dataclasses have them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from functools import partial
from typing import Any, TypeAlias, TypeVar

from exeunt.errors import ExeuntError, InputError

T = TypeVar("T")

Seconds: TypeAlias = float
"""A duration, which the file gives with its unit, such as "1 h"."""
Amount: TypeAlias = str
"""An amount of money, such as "20 usd"."""
Limit: TypeAlias = str
"""A total such as "20 usd", or a rate such as "5 usd/day"."""
Budget: TypeAlias = str
"""A share such as "40%", or an amount such as "0.002 usd"."""
_DURATION = re.compile(r"\s*(\d*\.?\d+)\s*(s|min|h|days?|weeks?)\s*")
_UNITS_S = {"s": 1, "min": 60, "h": 3600, "day": 86400, "week": 604800}


def read_entry(kind: type[T], entry: Any, where: str) -> T:
    """Make a part of the configuration. Raises InputError for options that it does not have, or that are missing."""
    options_known: Any = fields(kind)  # type: ignore[arg-type]
    needed = [
        option.name
        for option in options_known
        if option.default is MISSING and option.default_factory is MISSING
    ]
    options = options_of(entry, {option.name: option.type for option in options_known}, needed, where)
    try:
        return kind(**options)
    except ExeuntError as error:
        raise InputError(f"{where}: {error}" if where else str(error)) from None


def options_of(entry: Any, kinds: Mapping[str, str], needed: Sequence[str], what: str) -> dict[str, Any]:
    """Return the options of an entry. Raises InputError for one that there is not, is missing, or of another kind."""
    given, where = mapping(entry, what), f"{what}: " if what else ""
    if unknown := [name for name in given if name not in kinds]:
        raise InputError(f"{where}there is no {unknown[0]!r}; there are {', '.join(kinds)}")
    if missing := [name for name in needed if name not in given]:
        raise InputError(f"{where}{missing[0]} is missing")
    return {name: read_as(kinds[name], value, f"{where}{name}") for name, value in given.items()}


def read_as(kind: str, value: Any, what: str) -> Any:
    """Return a value as the kind that a field has: lists as tuples, shares such as "10%" as numbers."""
    kind, _, optional = kind.partition(" | ")
    if value is None and optional:
        return None
    if kind.startswith("tuple"):
        if not isinstance(value, list):
            raise InputError(f"{what}: give a list such as [one, other], got {value!r:.60}")
        names = tuple(map(str, value))
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{what}: {twice[0]!r:.60} is there twice")
        return names
    if kind in _READERS:
        return _READERS[kind](value, what)
    if kind in ("int", "bool") and type(value).__name__ != kind:
        needed = "a whole number" if kind == "int" else "true or false"
        raise InputError(f"{what}: give {needed}, got {value!r:.60}")
    if kind == "str" and not isinstance(value, str):
        raise InputError(f"{what}: give a text, got {value!r:.60}: write it in quotes")
    if value == "":
        raise InputError(f"{what} is empty: give a text, or leave it out")
    return mapping(value, what) if kind == "Mapping" else value


def _number(value: Any, what: str) -> float:
    """Return a number that may be a share, such as "10%"."""
    text, _, rest = str(value).partition("%")
    with suppress(ValueError):
        number = float(text) / (100 if "%" in str(value) else 1)
        if math.isfinite(number) and not (rest or isinstance(value, bool)):
            return number
    raise InputError(f"{what}: give a number, got {value!r:.60}")


def _seconds(value: Any, what: str) -> float:
    """Return a duration in seconds."""
    if (match := _DURATION.fullmatch(str(value))) is None or not math.isfinite(float(match[1])):
        raise InputError(f"{what}: give a duration such as '30 s', '1 h' or '1 day', got {value!r:.60}")
    return float(match[1]) * _UNITS_S[match[2] if match[2] == "s" else match[2].rstrip("s")]


def _with_unit(form: str, value: Any, what: str) -> str:
    """Return a text. `form`: how a number without a unit, {}, or the share of which it is, {share}, is written."""
    if type(value) in (int, float):
        share = f"{100 * value if 0 < value < 1 else value:g}%"
        raise InputError(f"{what}: {value} has no unit: write {form.format(value, share=share)}")
    return str(read_as("str", value, what))


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "Seconds": _seconds,
    "float": _number,
    "Amount": partial(_with_unit, "'{} usd'"),
    "Limit": partial(_with_unit, "'{0} usd' in all, or '{0} usd/day'"),
    "Budget": partial(_with_unit, "'{share}' of the reference's cost, or '{} usd' a request"),
}


def mapping(entry: Any, what: str) -> Mapping[str, Any]:
    """Return options by name, perhaps none. Raises InputError for anything else."""
    if not isinstance(entry, Mapping):
        raise InputError(f"{what or 'the file'} must hold options by name, got {entry!r:.60}")
    return entry
