"""Values from files: whether they are of the kinds that dataclasses and typed dictionaries declare."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from exeunt.errors import InputError

T = TypeVar("T")

_WHOLE = 1 << 64
_PLAIN: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("a text", lambda field: type(field) is str),
    bool: ("true or false", lambda field: type(field) is bool),
    int: ("a whole number", lambda field: type(field) is int and abs(field) < _WHOLE),
    float: (
        "a finite number",
        lambda field: _is_whole(field) or (type(field) is float and math.isfinite(field)),
    ),
    NoneType: ("null", lambda field: field is None),
}


def of_kinds(record: T) -> T:
    """Return a dataclass whose fields are of their kinds. Raises InputError, which names the field, for others."""
    check_fields(type(record), {field.name: getattr(record, field.name) for field in fields(record)})  # type: ignore[arg-type]
    return record


def check_fields(of: type, values: Mapping[str, Any]) -> None:
    """Raise InputError, which names the field, unless values by name are of the kinds of a dataclass's fields."""
    kinds = _hints(of)
    for name, field in values.items():
        check_kind(field, kinds[name], name)


def check_kind(field: Any, kind: Any, name: str) -> Any:
    """Return a value of a kind: a type, or a hint of several. Raises InputError, which names what is wrong, for others.

    Looked at: texts, numbers, booleans, None, literals, and tuples, lists, mappings and typed dictionaries of these. A
    value of any other kind passes, such as an array. Whole numbers are below 2^64, others finite.
    """
    if problem := _problem(field, kind, name):
        raise InputError(problem)
    return field


def check_unchanged(written: Any, body: Any, name: str = "") -> None:
    """Raise InputError, which names the place, if what was made of values from a file is written as other values.

    So a text in the place of a number, or null, is refused and not taken for some number. Entries that only one of the
    two has are not compared: older files have others.
    """
    where = f"{name}." if name else ""
    if isinstance(body, Mapping) and isinstance(written, Mapping):
        for key in body.keys() & written.keys():
            check_unchanged(written[key], body[key], f"{where}{key}")
    elif isinstance(body, list | tuple) and isinstance(written, list | tuple) and len(body) == len(written):
        for place, element in enumerate(body):
            check_unchanged(written[place], element, f"{name}[{place}]")
    elif not _is_same(written, body):
        raise InputError(f"{name or 'it'} cannot be {body!r:.60}: it would be read as {written!r:.60}")


def _is_same(written: Any, body: Any) -> bool:
    if isinstance(written, float) and type(body) in (int, float):
        return written == float(body)
    return isinstance(written, bool) is isinstance(body, bool) and bool(written == body)


def _problem(field: Any, kind: Any, name: str) -> str:
    """Return what is wrong with a value, "" if nothing is."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        problems = [_problem(field, alternative, name) for alternative in inside]
        return "" if "" in problems else problems[0]
    if origin is Literal:
        is_one = any(type(field) is type(literal) and field == literal for literal in inside)
        return "" if is_one else _must_be(" or ".join(map(repr, inside)), field, name)
    if origin in (tuple, list):
        return _problem_of_list(field, origin, inside, name)
    if origin is Mapping:
        parts = field.items() if (is_mapping := isinstance(field, Mapping)) else ()
        wrong = _first(_problem(entry, inside[1], f"{name}.{key}") for key, entry in parts)
        return wrong if is_mapping else _must_be("values by name", field, name)
    if is_typeddict(kind):
        return _problem_of_dictionary(field, kind, name)
    words, fits = _PLAIN.get(kind, ("", lambda _: True))
    return "" if fits(field) else _must_be(words, field, name)


def _problem_of_list(field: Any, origin: Any, inside: tuple[Any, ...], name: str) -> str:
    if not isinstance(field, origin):
        return _must_be("a list", field, name)
    any_number = origin is list or inside[-1] is ...
    kinds = inside[:1] * len(field) if any_number else inside
    if len(kinds) != len(field):
        return _must_be(f"{len(kinds)} values", field, name)
    pairs = enumerate(zip(field, kinds, strict=True))
    return _first(_problem(element, its, f"{name}[{place}]") for place, (element, its) in pairs)


def _problem_of_dictionary(field: Any, kind: Any, name: str) -> str:
    if not isinstance(field, Mapping):
        return _must_be("values by name", field, name)
    where = f"{name}." if name else ""
    if missing := sorted(kind.__required_keys__ - field.keys()):
        return f"{where}{missing[0]} is missing"
    known = {key: its for key, its in _hints(kind).items() if key in field}
    return _first(_problem(field[key], its, f"{where}{key}") for key, its in known.items())


def _first(problems: Iterable[str]) -> str:
    return next(filter(None, problems), "")


def _must_be(words: str, field: Any, name: str) -> str:
    return f"{name or 'it'} must be {words}, got {field!r:.60}"


def _is_whole(number: Any) -> bool:
    return _PLAIN[int][1](number)


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(kind)
