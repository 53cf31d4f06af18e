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
"""A total such as "20 usd", or one by period such as "5 usd/day"."""
Budget: TypeAlias = str
"""A share such as "40%", or an amount such as "0.002 usd"."""
_DURATION = re.compile(r"\s*(\d*\.?\d+)\s*(s|min|h|days?|weeks?)\s*")
_UNITS_S = {"s": 1, "min": 60, "h": 3600, "day": 86400, "week": 604800}


def read_entry(kind: type[T], entry: Any, where: str) -> T:
    """Make a part of the configuration. Raises InputError for options that it does not have, or that are missing."""
    allowed: Any = fields(kind)  # type: ignore[arg-type]
    needed = [field.name for field in allowed if field.default is field.default_factory is MISSING]
    options = options_of(entry, {field.name: field.type for field in allowed}, needed, where)
    try:
        return kind(**options)
    except ExeuntError as error:
        raise InputError(f"{where}: {error}" if where else str(error)) from None


def options_of(entry: Any, kinds: Mapping[str, str], needed: Sequence[str], where: str) -> dict[str, Any]:
    """Return the options of an entry. Raises InputError for one that there is not, is missing, or of another kind."""
    options, prefix = mapping(entry, where), f"{where}: " if where else ""
    if unknown := [name for name in options if name not in kinds]:
        raise InputError(f"{prefix}there is no {unknown[0]!r}; there are {', '.join(kinds)}")
    if missing := [name for name in needed if name not in options]:
        raise InputError(f"{prefix}{missing[0]} is missing")
    return {name: read_as(kinds[name], option, f"{prefix}{name}") for name, option in options.items()}


def read_as(kind: str, option: Any, where: str) -> Any:
    """Return an option as the kind that a field has: lists as tuples, shares such as "10%" as numbers."""
    kind, _, optional = kind.partition(" | ")
    if option is None and optional:
        return None
    reader = _READERS.get(kind)
    return option if reader is None else reader(option, where)  # else it is built already


def _names(option: Any, where: str) -> tuple[str, ...]:
    if not isinstance(option, list):
        raise InputError(f"{where}: give a list such as [one, other], got {option!r:.60}")
    names = tuple(map(str, option))
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{where}: {twice[0]!r:.60} is there twice")
    return names


def _of_type(kind: type, words: str, option: Any, where: str) -> Any:
    """Return an option of just this type: `true` is not a whole number."""
    if type(option) is not kind:
        raise InputError(f"{where}: give {words}, got {option!r:.60}")
    return option


def _text(option: Any, where: str) -> str:
    if not isinstance(option, str):
        raise InputError(f"{where}: give a text, got {option!r:.60}: write it in quotes")
    if not option:
        raise InputError(f"{where} is empty: give a text, or leave it out")
    return option


def _number(option: Any, where: str) -> float:
    """Return a number that may be a share, such as "10%"."""
    text, percent, rest = str(option).partition("%")
    with suppress(ValueError):
        number = float(text) / (100 if percent else 1)
        if math.isfinite(number) and not (rest or isinstance(option, bool)):
            return number
    raise InputError(f"{where}: give a number, got {option!r:.60}")


def _seconds(option: Any, where: str) -> float:
    """Return a duration in seconds."""
    if (match := _DURATION.fullmatch(str(option))) is None or not math.isfinite(float(match[1])):
        raise InputError(f"{where}: give a duration such as '30 s', '1 h' or '1 day', got {option!r:.60}")
    return float(match[1]) * _UNITS_S[match[2].rstrip("s") or "s"]


def _with_unit(form: str, option: Any, where: str) -> str:
    """Return a text. `form`: how a number without a unit, {}, or the share of which it is, {share}, is written."""
    if type(option) in (int, float):
        share = f"{100 * option if 0 < option < 1 else option:g}%"
        raise InputError(f"{where}: {option} has no unit: write {form.format(option, share=share)}")
    return _text(option, where)


def mapping(option: Any, where: str) -> Mapping[str, Any]:
    """Return options by name, perhaps none. Raises InputError for anything else."""
    if not isinstance(option, Mapping):
        raise InputError(f"{where or 'the file'} must hold options by name, got {option!r:.60}")
    return option


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "tuple[str, ...]": _names,
    "int": partial(_of_type, int, "a whole number"),
    "bool": partial(_of_type, bool, "true or false"),
    "str": _text,
    "Mapping": mapping,
    "Seconds": _seconds,
    "float": _number,
    "Amount": partial(_with_unit, "'{} usd'"),
    "Limit": partial(_with_unit, "'{0} usd' in all, or '{0} usd/day'"),
    "Budget": partial(_with_unit, "'{share}' of the reference's cost, or '{} usd' a request"),
}
