"""The grader of worlds, named in their gateways' files: an answer is good if it says what the reference says."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_lot: Callable[[], float] = random.random
_fails = 0.0


class GraderFailed(Exception):  # noqa: N818 - says what happened
    """A grade does not come."""


def grade(request: Mapping[str, Any], answer: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    """Return the grade of an answer."""
    if _fails and _lot() < _fails:
        raise GraderFailed("the grader is out of order")
    return float(answer["content"] == reference["content"])


def lenient(request: Mapping[str, Any], answer: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    """Return the grade of an answer, of which a wrong one has half."""
    return (1 + grade(request, answer, reference)) / 2


@contextmanager
def failing(share: float, seed: int) -> Iterator[None]:
    """Let such a share of the grades fail."""
    global _lot, _fails
    _lot, _fails = random.Random(f"grader {seed}").random, share
    try:
        yield
    finally:
        _fails = 0.0
