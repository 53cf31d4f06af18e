"""Where exits go: at even steps of cumulative cost, or at names that the user chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Point", "place"]


@dataclass(frozen=True)
class Point:
    """A place in a network that can carry an exit.

    `name`: of the module whose output the head reads. `cost`: multiply-adds per input up to there.
    `shape`: of that output for one input.
    """

    name: str
    cost: float
    shape: tuple[int, ...]


def place(points: Sequence[Point], exits: int | Sequence[str], *, full: float) -> list[Point]:
    """Choose the points that carry an auxiliary head, in the order of the network.

    `points`: in the order in which the network runs them. `full`: cost of the whole network, same unit.
    `exits`: a number e, placed as near as possible to the costs full * i / (e + 1), i = 1..e; or names.

    Raises InputError for a name that is not there (listing those that are), a name given twice, or more
    exits than there are points.
    """
    if isinstance(exits, (int, np.integer)):
        return _by_number(points, int(exits), full)
    return _by_name(points, list(exits))


def _by_name(points: Sequence[Point], names: list[str]) -> list[Point]:
    known = {point.name for point in points}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"there is no place for an exit named {unknown[0]!r}; the names that exist are: "
            + ", ".join(point.name for point in points)
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"exit {twice[0]!r} is named twice: name each exit once")
    if not names:
        raise InputError("exits is empty: name at least one exit, or give a number such as exits=7")
    return [point for point in points if point.name in names]


def _by_number(points: Sequence[Point], number: int, full: float) -> list[Point]:
    """Choose `number` points, in order, with costs nearest to even steps in the least-squares sense."""
    # Two points of equal cost (a block and the activation after it) are one choice: the later is richer.
    distinct = [
        p
        for p, after in zip(points, [*points[1:], None], strict=True)
        if after is None or p.cost < after.cost
    ]
    if number < 1:
        raise InputError(f"exits must be at least 1, got {number}")
    if number > len(distinct):
        raise InputError(
            f"{number} exits do not fit: this network has {len(distinct)} places of different cost for one: "
            + ", ".join(point.name for point in distinct)
        )
    costs = np.array([point.cost for point in distinct]) / full
    targets = np.arange(1, number + 1) / (number + 1)
    return [distinct[i] for i in _nearest_increasing(costs, targets)]


def _nearest_increasing(values: np.ndarray, targets: np.ndarray) -> list[int]:
    """Return strictly increasing indices i_1 < ... < i_e minimising sum (values[i_j] - targets[j])^2."""
    e, n = len(targets), len(values)
    best = np.full((e + 1, n + 1), np.inf)
    best[0] = 0.0
    took = np.zeros((e + 1, n + 1), dtype=bool)
    for j in range(1, e + 1):
        for i in range(j, n + 1):
            take = best[j - 1, i - 1] + (values[i - 1] - targets[j - 1]) ** 2
            took[j, i] = take < best[j, i - 1]
            best[j, i] = min(take, best[j, i - 1])
    chosen, j, i = [], e, n
    while j:
        if took[j, i]:
            chosen.append(i - 1)
            j -= 1
        i -= 1
    return chosen[::-1]
