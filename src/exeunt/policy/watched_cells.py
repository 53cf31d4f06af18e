"""Cells that the watch counts inputs in: what it needs of the calibration inputs, small enough for the policy's file.

Calibration inputs are put in order, and cells are runs of that order whose sizes were fixed before a calibration input
was seen. The edges between cells then are order statistics. So the numbers of future inputs in the cells follow a Polya
urn, exactly, where these are exchangeable with the calibration inputs (docs/explanation/watch.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from exeunt import _arrays
from exeunt._arrays import Booleans, Floats, Integers, Keys
from exeunt.calibration import NEVER, Ranked, Thresholds, at_least
from exeunt.errors import InputError
from exeunt.score.tie_breaking import scramble, tie_breaks
from exeunt.trace.groups import Groups

_BINS = 4
"""Bins of the score at each exit, and half as many as there are bins of the first exit's score alone."""
_LEAST = 10
"""Calibration inputs in a bin, at least, where an exit has more than one."""
_MOST = 1 << 20
"""Of more calibration inputs, scores are not held in memory and sorted."""
_DRAWS = 0x5EED
"""Sets the numbers that the watch draws apart from those that break the policy's ties."""


@dataclass(frozen=True, eq=False)
class WatchedCells:
    """Cells (c,) of exit and score, in the order of calibration inputs: by exit, and the surest of an exit first.

    `counts` (c,): calibration inputs, or groups, in each; fixed in advance. An input beyond the last edge, (c - 1,), is
    in the last cell. `exits` (c - 1,), `limits`, `draws` (c - 1,): the exit, score and tie of the last calibration
    input of each cell but the last, and the number that was drawn for it: the watch breaks ties between copies at
    random. `cell_exits` (c,): the exit that each cell was planned for, None where cells are bins of the score at exit
    `first`, the first that can answer: of policies whose thresholds were chosen by what calibration inputs cost or
    lose. `repeats`: how many contents there are among the calibration inputs of each number of copies. `plans`: how
    many plans the policy was chosen from by labels of other calibration inputs.
    """

    counts: Integers
    exits: Integers
    limits: Thresholds
    draws: Floats
    cell_exits: Integers | None = None
    first: int = 0
    repeats: Mapping[int, int] = field(default_factory=dict)
    plans: int = 1

    @classmethod
    def at_ranks(
        cls, counts: Integers, exits: Integers, scores: Floats, ties: Floats, seed: int, **fields: Any
    ) -> WatchedCells:
        """Make cells of these sizes, (c,), of calibration inputs: their exits, and scores and ties there, (n,).

        `fields`: `cell_exits` or `first`.
        """
        scores, draws = _numbers(scores), np.empty(len(ties))
        # Copies are drawn numbers by their places, so that the order of the rows makes no difference.
        draws[np.lexsort((-ties, -scores, exits))] = drawn(np.arange(len(ties)), seed)
        order = np.lexsort((-draws, -ties, -scores, exits))
        edges = order[np.cumsum(counts)[:-1] - 1]
        limits = Thresholds(scores[edges], ties[edges])
        copies = np.unique(np.unique(ties, return_counts=True)[1], return_counts=True)
        repeats = dict(zip(*(some.tolist() for some in copies), strict=True))
        return cls(counts, exits[edges], limits, draws[edges], repeats=repeats, **fields)

    @property
    def by_exit(self) -> bool:
        """Whether the cells are of exits; else of the first exit's score alone."""
        return self.cell_exits is not None

    @property
    def has_copies(self) -> bool:
        """Whether calibration inputs repeat."""
        return any(copies > 1 for copies in self.repeats)

    @cached_property
    def _table(self) -> tuple[Integers, Floats, Floats, Floats]:
        """The number of edges before each exit, and the edges of each, padded with those that all inputs pass."""
        m = int(self.exits.max(initial=0)) + 1
        numbers = np.bincount(self.exits, minlength=m)
        before = np.append(0, np.cumsum(numbers))
        places = np.arange(len(self.exits)) - before[self.exits]
        padded = [np.full((m + 1, int(numbers.max(initial=0))), -np.inf) for _ in range(3)]
        for table, values in zip(padded, (self.limits.score, self.limits.tie, self.draws), strict=True):
            table[self.exits, places] = values
        return before, *padded  # type: ignore[return-value]

    def of(
        self, exits: Integers, scores: Floats, breaks: Callable[[Integers], tuple[Floats, Floats]]
    ) -> Integers:
        """Return the cell of each input, (n,), by its exit and its score there.

        `breaks`: returns the ties of some inputs, by their places, and a number drawn for each; for equal scores.
        """
        before, least, tie, draw = self._table
        at = np.minimum(exits, len(before) - 1)
        edges = least.take(at, axis=0)
        if math.isnan(scores.sum()):
            scores = _numbers(scores)
        passed = edges > scores[:, None]
        cells: Integers = before.take(at) + np.add.reduce(passed, axis=1)
        if np.count_nonzero(equal := edges == scores[:, None]):
            rows = np.flatnonzero(equal.any(axis=1))
            ties, draws = (values[:, None] for values in breaks(rows))
            above = (tie[at[rows]] > ties) | ((tie[at[rows]] == ties) & (draw[at[rows]] > draws))
            cells[rows] += (equal[rows] & above).sum(axis=1)
        return cells

    def exit_counts(self, m: int) -> Integers:
        """Return how many calibration inputs the exits (m,) were planned to answer."""
        if self.cell_exits is None:
            raise InputError("these cells are of the first exit's score alone")
        found: Integers = np.bincount(self.cell_exits, weights=self.counts, minlength=m).astype(np.int64)
        return found

    def expected_distinct(self, n: int) -> float:
        """Return how many different inputs there are on average among n of the calibration inputs, at most all."""
        total = sum(copies * number for copies, number in self.repeats.items())
        n = min(n, total)
        rest = np.arange(total - n, total, dtype=np.float64) + 1  # the factors of total! / (total - n)!
        missed = [
            0.0 if total - copies < n else float(np.exp(np.sum(np.log(rest - copies) - np.log(rest))))
            for copies in self.repeats
        ]
        return float(sum(k * (1 - miss) for k, miss in zip(self.repeats.values(), missed, strict=True)))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {
            "counts": self.counts.tolist(),
            "exits": self.exits.tolist(),
            "limits": self.limits.to_dict(),
            "draws": self.draws.tolist(),
            "cell_exits": None if self.cell_exits is None else self.cell_exits.tolist(),
            "first": self.first,
            "repeats": [[copies, number] for copies, number in self.repeats.items()],
            "plans": self.plans,
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> WatchedCells:
        """Rebuild from `to_dict`. Raises InputError for cells that do not fit their edges."""
        found = cls(
            counts=_arrays.integers(body["counts"], "counts", ndim=1),
            exits=_arrays.integers(body["exits"], "exits", ndim=1),
            limits=Thresholds.from_dict(body["limits"]),
            draws=_arrays.floats(body["draws"], "draws", ndim=1),
            cell_exits=None if body["cell_exits"] is None else np.array(body["cell_exits"], dtype=np.int64),
            first=int(body["first"]),
            repeats={int(copies): int(number) for copies, number in body["repeats"]},
            plans=int(body["plans"]),
        )
        edges = (found.exits, found.limits.score, found.limits.tie, found.draws)
        if {len(one) for one in edges} != {len(found.counts) - 1}:
            raise InputError(
                f"{len(found.counts)} watched cells have {len(found.counts) - 1} edges between them"
            )
        return found


def scored_exits(used: list[int], last: int, n: int) -> list[int]:
    """Return at which exits the scores of n calibration inputs must be known: `used`, and the last for the watch."""
    return [*used, last] if n <= _MOST else used


def cells_of_plan(
    inputs: Ranked, planned: Integers, last: int, limits: Thresholds, counts: Integers, seed: int
) -> WatchedCells | None:
    """Make cells of the exits of a plan, and of bins of the scores there.

    `planned` (m,): how many inputs were to leave at each exit, `last` being the one that answers what is left; `counts`
    (m,): how many do. Of more than a million inputs the cells are the exits alone, and there are none if copies left
    together.
    """
    used = np.array([exit_ for exit_ in range(last + 1) if planned[exit_] or exit_ == last])
    n, edges = inputs.shape[0], used[:-1]
    if n > _MOST:
        if not np.array_equal(planned, counts):
            return None
        kept = Thresholds(limits.score[edges], limits.tie[edges])
        return WatchedCells(planned[used], edges, kept, drawn(edges, seed), used)
    exits, scores = np.full(n, -1), np.zeros(n)
    for exit_ in used.tolist():
        here, ties = inputs.at(exit_)
        leaves = (exits < 0) & (
            (exit_ == last) | at_least(here, ties, limits.score[exit_], limits.tie[exit_])
        )
        exits[leaves], scores[leaves] = exit_, here[leaves]
    parts = [_divided(int(planned[exit_]), _BINS) for exit_ in used]
    cell_exits = np.repeat(used, [len(part) for part in parts])
    return WatchedCells.at_ranks(np.concatenate(parts), exits, scores, ties, seed, cell_exits=cell_exits)


def cells_of_first_exit(
    inputs: Ranked, limits: Thresholds, groups: Groups | None, seed: int
) -> WatchedCells | None:
    """Make cells of bins of the score at the first exit that can answer, whatever exit does.

    Of a group the first row counts. The law is exact if this is the first exit under every plan that was tried. None
    for more than a million inputs.
    """
    if inputs.shape[0] > _MOST:
        return None
    first = int(np.argmax(limits.tie < NEVER))
    rows = slice(None) if groups is None else np.unique(groups.index, return_index=True)[1]
    scores, ties = (values[rows] for values in inputs.at(first))
    counts = _divided(len(scores), 2 * _BINS)
    return WatchedCells.at_ranks(counts, np.full(len(scores), first), scores, ties, seed, first=first)


def drawn(numbers: Integers | Keys, seed: int) -> Floats:
    """Return a number in [0, 1) for each of these numbers of inputs (n,), by which the watch breaks ties."""
    return tie_breaks(scramble(numbers.astype(np.uint64)), seed ^ _DRAWS)


def _divided(count: int, bins: int) -> Integers:
    """Divide a number of inputs into bins that are as equal as possible."""
    bins = max(1, min(bins, count // _LEAST))
    return np.diff(np.arange(bins + 1) * count // bins).astype(np.int64)


def _numbers(scores: Floats) -> Floats:
    """Return scores with the lowest in place of NaN, by which no threshold is passed."""
    nothing: Booleans = np.isnan(scores)
    return np.where(nothing, -np.inf, scores)
