"""Cells that the watch counts inputs in: what it needs of the calibration inputs, small enough for the policy's file.

Calibration inputs are cut into blocks by the exit that answers, these by the score at the first exit, and these by the
score at the exit that answers. All sizes were fixed before a calibration input was seen, so the edges between cells are
order statistics, and cells are statistically equivalent blocks. So the numbers of future inputs in the cells follow a
Polya urn, exactly, where these are exchangeable with the calibration inputs (docs/explanation/watch.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from exeunt._support import arrays
from exeunt._support.arrays import Floats, Integers, Keys
from exeunt.errors import InputError
from exeunt.policy.calibration import NEVER, Ranked, Thresholds, at_least
from exeunt.policy.score_bins import Breaks, CalibrationInputs, ScoreBins, numbers, whole
from exeunt.score.tie_breaking import scramble, tie_breaks
from exeunt.trace.groups import Groups

_SHARES = (0.05, 0.1, 0.2, 0.3, 0.2, 0.1, 0.05)
"""Of the inputs that an exit answers, in bins by the first exit's score: many drifts show at its ends."""
_BINS = 3
"""Bins of each of these, by the score at the exit that answers."""
_LEAST = 10
"""Calibration inputs in a bin, at least, where there is more than one."""
_MOST = 1 << 20
"""Of more calibration inputs, scores are not held in memory and sorted."""
_DRAWS = 0x5EED
"""Sets the numbers that the watch draws apart from those that break the policy's ties."""
MOST_COUNTED = 1 << 53
"""Calibration inputs that a policy may have counted."""
_LEVELS = ("exit_bins", "first_bins", "score_bins")


@dataclass(frozen=True, eq=False)
class WatchedCells:
    """Cells (c,) of exit, score at the first exit and score at the exit that answers, each time the surest first.

    `counts` (c,): calibration inputs, or groups, in each; fixed in advance. `cell_exits` (c,): the exit that each cell
    was planned for, None where only the score at exit `first`, the first that can answer, is watched: of policies whose
    thresholds were chosen by what calibration inputs cost or lose. `exit_bins`: bins of all exits (m,), one for each
    that answers; the watch breaks ties between copies at random, and takes some for inputs of a later exit.
    `first_bins`: bins of these by the score at `first`. `score_bins`: bins of those by the score at the exit that
    answered, which are the cells. `repeats`: how many contents there are among the calibration inputs of each number of
    copies. `plans`: how many plans the policy was chosen from by labels of other calibration inputs.
    """

    counts: Integers
    cell_exits: Integers | None
    exit_bins: ScoreBins
    first_bins: ScoreBins
    score_bins: ScoreBins
    first: int = 0
    repeats: Mapping[int, int] = field(default_factory=dict)
    plans: int = 1

    @property
    def by_exit(self) -> bool:
        """Whether the cells are of exits; else of the first exit's score alone."""
        return self.cell_exits is not None

    @property
    def has_copies(self) -> bool:
        """Whether calibration inputs repeat."""
        return any(copies > 1 for copies in self.repeats)

    @cached_property
    def used(self) -> Integers:
        """The exits that there are cells of, (u,)."""
        return np.array([self.first]) if self.cell_exits is None else np.unique(self.cell_exits)

    def of(self, exits: Integers, scores: Floats | None, first_scores: Floats, breaks: Breaks) -> Integers:
        """Return the cell of each input (n,), by its exit, its score there, and its score at the first exit.

        `scores` are needed where cells are `by_exit`.
        """
        if scores is None or self.cell_exits is None:
            return self.first_bins.of(np.zeros(len(exits), dtype=np.int64), first_scores, breaks)
        places = self.exit_bins.of(exits, scores, breaks)
        bins = self.first_bins.of(places, first_scores, breaks)
        if np.count_nonzero(later := self.used.take(places) != exits):
            scores = np.where(later, np.inf, scores)
        return self.score_bins.of(bins, scores, breaks)

    @cached_property
    def positions(self) -> tuple[Floats, Floats]:
        """Where the middle of each cell (c,) lies among calibration inputs, in [0, 1] and 0 the surest.

        First by the score at the first exit, as if what goes on had no other scores there the later it answers; then by
        the exit and the score there. Both are fixed in advance.
        """
        of_exit = _repeated(self.first_bins.firsts, len(self.score_bins.firsts))
        of_bin = _repeated(self.score_bins.firsts, len(self.counts))
        per_bin = np.bincount(of_bin, weights=self.counts, minlength=len(of_exit))
        per_exit = np.bincount(of_exit, weights=per_bin, minlength=len(self.used))
        cell_exit, n, at_first = of_exit[of_bin], max(per_exit.sum(), 1), per_exit[0]
        first = _middles(per_bin, of_exit)[of_bin]
        score = np.where(cell_exit == 0, first, _middles(self.counts, of_bin))
        by_first = np.where(cell_exit == 0, at_first * first, at_first + (n - at_first) * first)
        before = np.cumsum(per_exit) - per_exit
        return by_first / n, (before[cell_exit] + per_exit[cell_exit] * score) / n

    def exit_counts(self, m: int) -> Integers:
        """Return how many calibration inputs the exits (m,) were planned to answer."""
        if self.cell_exits is None:
            raise InputError("these cells are of the first exit's score alone")
        counts: Integers = np.bincount(self.cell_exits, weights=self.counts, minlength=m).astype(np.int64)
        return counts

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
            "cell_exits": None if self.cell_exits is None else self.cell_exits.tolist(),
            **{name: getattr(self, name).to_dict() for name in _LEVELS},
            "first": self.first,
            "repeats": [[copies, number] for copies, number in self.repeats.items()],
            "plans": self.plans,
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> WatchedCells:
        """Rebuild from `to_dict`. Raises InputError for cells that do not fit their edges."""
        levels = {name: ScoreBins.from_dict(body[name]) for name in _LEVELS}
        cells = cls(
            counts=arrays.integers(body["counts"], "counts", ndim=1),
            cell_exits=None
            if body["cell_exits"] is None
            else arrays.integers(body["cell_exits"], "cell_exits", ndim=1),
            **levels,
            first=int(body["first"]),
            repeats={int(copies): int(number) for copies, number in body["repeats"]},
            plans=int(body["plans"]),
        )
        numbers = [len(cells.used), cells.first_bins.n_bins, cells.score_bins.n_bins]
        if numbers != [len(cells.first_bins.firsts), len(cells.score_bins.firsts), len(cells.counts)]:
            raise InputError(f"{len(cells.counts)} watched cells do not fit the edges between them")
        cells._check()
        return cells

    def _check(self) -> None:
        """Raise InputError for numbers that no calibration inputs have."""
        if self.cell_exits is not None:
            arrays.check_length(self.cell_exits, "cell_exits", len(self.counts))
        numbers_of = [*self.repeats, *self.repeats.values(), self.plans]
        if self.counts.min() < 0 or not 0 < self.counts.sum() < MOST_COUNTED or min(numbers_of) < 1:
            raise InputError("watched cells count at least one calibration input")

    def check_exits(self, m: int) -> None:
        """Raise InputError unless these are cells of a policy of m exits."""
        places = [self.first, *self.used.tolist()]
        if min(places) < 0 or max(places) >= m or (self.by_exit and len(self.exit_bins.firsts) != m):
            raise InputError(f"cells of the exits {places} do not belong to {m} exits")


def scored_exits(used: list[int], last: int, n: int) -> list[int]:
    """Return at which exits the scores of n calibration inputs must be known: `used`, and the last for the watch."""
    return [*used, last] if n <= _MOST else used


def cells_of_plan(
    inputs: Ranked, planned: Integers, last: int, limits: Thresholds, counts: Integers, seed: int
) -> WatchedCells | None:
    """Make cells of the exits of a plan, and of bins of the scores at the first of them and there.

    `planned` (m,): how many inputs were to leave at each exit, `last` being the one that answers what is left; `counts`
    (m,): how many do. Of more than a million inputs the cells are the exits alone, and there are none if copies left
    together.
    """
    used = np.array([exit_ for exit_ in range(last + 1) if planned[exit_] or exit_ == last])
    (n, m), edges = inputs.shape, used[:-1]
    if n > _MOST:
        if not np.array_equal(planned, counts):
            return None
        edge_limits = Thresholds(limits.score[edges], limits.tie[edges])
        exit_bins = ScoreBins(np.searchsorted(edges, np.arange(m)), edges, edge_limits, drawn(edges, seed))
        return WatchedCells(planned[used], used, exit_bins, whole(len(used)), whole(len(used)), int(used[0]))
    exits, scores = np.full(n, -1), np.zeros(n)
    for exit_ in used.tolist():
        here, ties = inputs.at(exit_)
        leaves = (exits < 0) & (
            (exit_ == last) | at_least(here, ties, limits.score[exit_], limits.tie[exit_])
        )
        exits[leaves], scores[leaves] = exit_, here[leaves]
    calibration = CalibrationInputs(ties, _draws(exits, scores, ties, seed), np.zeros(n, dtype=np.bool_))
    sizes = planned[used]
    exit_bins, places, calibration = calibration.runs(sizes, m, exits, scores)
    of_first = [_divided(int(size), _SHARES) for size in sizes]
    first_bins, bins, calibration = calibration.cut(of_first, places, inputs.at(int(used[0]))[0])
    # A copy that is taken for an input of a later exit has no score there: it is the surest.
    scores = np.where(used[places] == exits, scores, np.inf)
    of_score = [np.array([size]) for size in of_first[0]]
    of_score += [_equally(int(size)) for counts_of_bin in of_first[1:] for size in counts_of_bin]
    score_bins, *_ = calibration.cut(of_score, bins, scores)
    per_exit = [
        part.sum() for part in np.split([len(bin_counts) for bin_counts in of_score], first_bins.firsts[1:])
    ]
    return WatchedCells(
        np.concatenate(of_score),
        np.repeat(used, per_exit),
        exit_bins,
        first_bins,
        score_bins,
        int(used[0]),
        repeats=_repeats(ties),
    )


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
    block, counts = np.zeros(len(scores), dtype=np.int64), _divided(len(scores), _SHARES)
    calibration = CalibrationInputs(ties, _draws(block, scores, ties, seed), block.astype(np.bool_))
    bins, *_ = calibration.cut([counts], block, scores)
    return WatchedCells(counts, None, whole(1), bins, whole(len(counts)), first, repeats=_repeats(ties))


def drawn(numbers: Integers | Keys, seed: int) -> Floats:
    """Return a number in [0, 1) for each of these numbers of inputs (n,), by which the watch breaks ties."""
    return tie_breaks(scramble(numbers.astype(np.uint64)), seed ^ _DRAWS)


def _draws(exits: Integers, scores: Floats, ties: Floats, seed: int) -> Floats:
    """Return a number for each calibration input (n,), by its place, so that the order of rows makes no difference."""
    draws = np.empty(len(ties))
    draws[np.lexsort((-ties, -numbers(scores), exits))] = drawn(np.arange(len(ties)), seed)
    return draws


def _repeats(ties: Floats) -> dict[int, int]:
    copies = np.unique(np.unique(ties, return_counts=True)[1], return_counts=True)
    return dict(zip(*(some.tolist() for some in copies), strict=True))


def _divided(count: int, shares: Sequence[float]) -> Integers:
    """Divide a number of inputs into bins by these shares; bins that are too small are joined with the next one."""
    bins, inside = list[int](), 0
    for size in np.diff(np.round(np.cumsum([0.0, *shares]) * count).astype(np.int64)).tolist():
        inside += size
        if inside >= _LEAST:
            bins.append(inside)
            inside = 0
    if bins:
        bins[-1] += inside
    return np.array(bins or [count])


def _equally(count: int) -> Integers:
    """Divide a number of inputs into at most `_BINS` bins that are as equal as possible."""
    bins = max(1, min(_BINS, count // _LEAST))
    return np.diff(np.arange(bins + 1) * count // bins).astype(np.int64)


def _repeated(firsts: Integers, total: int) -> Integers:
    """Return the block of each of so many bins, whose firsts are these."""
    return np.repeat(np.arange(len(firsts)), np.diff(np.append(firsts, total)))


def _middles(counts: Any, blocks: Integers) -> Floats:
    """Return where the middle of each bin lies in its block, as a share of it."""
    total = np.bincount(blocks, weights=counts)
    before = np.cumsum(total) - total
    middles: Floats = (np.cumsum(counts) - counts / 2 - before[blocks]) / np.maximum(total, 1)[blocks]
    return middles
