"""JSON and texts that others write, such as providers and clients, read with bounds: depth, numbers, length, time."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any, NoReturn

DEEPEST = 100
"""Levels at most: Python's own limit, which is higher, may be reached only where it does harm."""
_BRACKETS = 500_000
"""Lists and objects at most, and what looks like them in texts: millions take seconds to read."""
_LARGEST = 1 << 63
_DIGITS = len(str(-_LARGEST))
_PIECE = 256
"""Characters that are normalised at once, or up to twice as many: the time grows with the square of how many marks
follow each other.
"""


def outside_json(text: str | bytes) -> Any:
    """Return what JSON holds. Raises ValueError for what is none, as NaN is, and for what the checks below refuse."""
    check_brackets(text)
    try:
        document = json.loads(text, parse_int=_whole, parse_float=finite_number, parse_constant=no_number)
    except RecursionError:
        raise ValueError(f"it has more than {DEEPEST} levels") from None
    check_outside(document)
    return document


def check_brackets(text: str | bytes) -> None:
    """Raise ValueError for JSON that would take long to read."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    brackets = data.count(b"[") + data.count(b"{")
    if brackets > _BRACKETS:
        raise ValueError(f"it may have {_BRACKETS:,} opening brackets, and has {brackets:,}")


def check_outside(document: Any) -> None:
    """Raise ValueError for JSON of too many levels, and for whole numbers that 64 bits do not hold."""
    level, depth = [document], 0
    while level := [container for container in level if isinstance(container, dict | list)]:
        if depth == DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} levels")
        held = (container.values() if isinstance(container, dict) else container for container in level)
        level, depth = [element for each in held for element in each], depth + 1
        if any(type(element) is int and not -_LARGEST <= element < _LARGEST for element in level):
            raise ValueError("it holds a whole number that 64 bits do not hold")


def nfkc(text: str) -> str:
    """Return a text in Unicode's form NFKC, in time that grows with its length alone.

    Of more than 256 marks that follow each other, parts are put in this form by themselves.
    """
    pieces, start = [], 0
    while start < len(text):
        end = start + _PIECE
        while end < min(len(text), start + 2 * _PIECE) and not _may_part(text[start:end], text[end]):
            end += 1
        pieces.append(unicodedata.normalize("NFKC", text[start:end]))
        start = end
    return "".join(pieces)


def _may_part(before: str, after: str) -> bool:
    """Return whether a text and the character after it have the same form where each is normalised by itself."""
    if unicodedata.combining(after):
        return False
    first, other, both = (unicodedata.normalize("NFKC", each) for each in (before, after, before + after))
    return both == first + other


def _whole(text: str) -> int:
    return int(text) if len(text) <= _DIGITS else no_number(text)


def finite_number(text: str) -> float:
    """Return a number. Raises ValueError for one that is not finite."""
    return number if math.isfinite(number := float(text)) else no_number(text)


def no_number(text: str) -> NoReturn:
    """Raise ValueError for what is no number."""
    raise ValueError(f"it holds {text:.20}, which is no number here")
