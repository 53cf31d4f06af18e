"""JSON, mutated: another value in some place, a name that is missing, or bytes that are no JSON any more."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from exeunt._support.sealed_json import DIGEST, content_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 5, 0.5, -2.5, 1e308, -1e308, 1e-320, 2**31, 2**53, 2**63, -(2**63), 2**64, 10**30,
    10**400, float("nan"), float("inf"), "", "a", "5", "né", "\0", "../x", "x" * 10_000, [], {}, [None], ["a"], [5],
    [0.5, "a"], [[1]], {"a": 1}, {"text": 5},
)  # fmt: skip
BYTES = ("cut", "utf-16", "latin-1", "byte-order mark", "flip", "deep", "empty", "null", "twice")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths to all values within a value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from places(item, (*path, name))


def mutated(value: Any, rng: Any) -> tuple[str, Any]:
    """Return a value with something else in one place, at any depth alike, and what was done."""
    paths = list(places(value))
    depths = sorted({len(path) for path in paths})
    depth = depths[int(rng.integers(len(depths)))]
    path = (some := [one for one in paths if len(one) == depth])[int(rng.integers(len(some)))]
    made = [copy.deepcopy(value)]
    within, at = made, 0
    for name in path:
        within, at = within[at], name  # type: ignore[assignment]
    how = rng.choice(["value", "value", "value", "missing", "renamed", "twice", "text"])
    known = within[at]
    if how == "missing" and path:
        del within[at]
    elif how == "renamed" and isinstance(within, dict):
        within[f"{at}s"] = within.pop(at)
    elif how == "twice" and isinstance(known, list):
        within[at] = known * 2
    elif how == "text" and not isinstance(known, list | dict):
        within[at] = str(known)
    else:
        found = VALUES[int(rng.integers(len(VALUES)))]
        how, within[at] = f"{found!r:.20}", found
    return f"{'/'.join(map(str, path))}: {how}", made[0] if made else None


def is_another_value(before: Any, after: Any) -> bool:
    """Whether only texts, numbers and truths differ, each from another of its kind."""
    if isinstance(before, dict) and isinstance(after, dict):
        same_names = before.keys() == after.keys()
        return same_names and all(is_another_value(before[name], after[name]) for name in before)
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(is_another_value, before, after))
    kind, other = type(before), type(after)
    alike = kind is other and kind in (type(None), str, bool, int, float)
    return alike or (kind, other) == (float, int)


def mutated_bytes(content: bytes, how: str, rng: Any) -> bytes:
    """Return a file's content that was cut, encoded otherwise, or damaged in another of the ways in BYTES."""
    middle = int(rng.integers(len(content)))
    flipped = bytes([content[middle] ^ (1 << int(rng.integers(8)))])
    made = {
        "cut": content[:middle],
        "utf-16": content.decode().encode("utf-16"),
        "latin-1": content[:middle] + b"\xe9" + content[middle:],
        "byte-order mark": b"\xef\xbb\xbf" + content,
        "flip": content[:middle] + flipped + content[middle + 1 :],
        "deep": b"[" * 100_000 + b"]" * 100_000,
        "empty": b"",
        "null": b"null",
        "twice": content * 2,
    }
    return made[how]


def resealed(document: Any) -> Any:
    """Return a sealed document, or a manifest, with the digest that fits; any other as it is."""
    if not isinstance(document, dict) or DIGEST not in document:
        return document
    body = {name: value for name, value in document.items() if name != DIGEST}
    sealed = [name for name in body if name not in ("format", "version")]
    content = body if "files" in body else body[sealed[0]] if sealed else None
    return {**document, DIGEST: content_digest(content)}


def json_mutations(content: bytes, n: int, rng: Any) -> Iterator[tuple[str, bytes]]:
    """Yield n mutations of JSON whose digest fits, one in four of them of its bytes; with what was done."""
    value = json.loads(content)
    for i in range(n):
        if i % 4 == 3:
            how = BYTES[i // 4 % len(BYTES)]
            yield how, mutated_bytes(content, how, rng)
        else:
            how, made = mutated(value, rng)
            yield how, json.dumps(resealed(made)).encode()
