"""Bins of the score: calibration inputs of a block, in order of a score, are cut into runs of fixed sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from exeunt._support import arrays
from exeunt._support.arrays import Booleans, Floats, Integers
from exeunt.errors import InputError
from exeunt.policy.calibration import Thresholds

Breaks: TypeAlias = "Callable[[], tuple[Floats, Floats]]"
"""Returns the ties of all inputs, (n,), and a number drawn for each of them; asked where scores are equal."""


@dataclass(frozen=True, eq=False)
class ScoreBins:
    """Bins of blocks (b,), the surest first. Edges (e,) between them are scores, ties and draws of calibration inputs.

    `firsts` (b,): the number of the surest bin of each block. `blocks` (e,): the block of each edge, ascending; of one
    block the surest edge comes first. `limits`, `draws` (e,): the score and tie of the last calibration input above the
    edge, and the number that was drawn for it: the watch breaks ties between copies at random.
    """

    firsts: Integers
    blocks: Integers
    limits: Thresholds
    draws: Floats

    @cached_property
    def _table(self) -> tuple[Floats, Floats, Floats]:
        """The edges of each block, padded with those that all inputs pass, (b, most edges of a block) each."""
        numbers = np.bincount(self.blocks, minlength=len(self.firsts))
        places = np.arange(len(self.blocks)) - (np.cumsum(numbers) - numbers)[self.blocks]
        padded = [np.full((len(numbers), int(numbers.max(initial=0))), -np.inf) for _ in range(3)]
        for table, values in zip(padded, (self.limits.score, self.limits.tie, self.draws), strict=True):
            table[self.blocks, places] = values
        return tuple(padded)  # type: ignore[return-value]

    @property
    def n_bins(self) -> int:
        """How many bins there are, where no two blocks share one."""
        return len(self.firsts) + len(self.blocks)

    def of(self, blocks: Integers, scores: Floats, breaks: Breaks) -> Integers:
        """Return the bin of each input (n,), by its block and its score; NaN is the lowest score."""
        bins: Integers = self.firsts.take(blocks)
        if not len(self.blocks):
            return bins
        least, tie, draw = self._table
        edges = least.take(blocks, axis=0)
        with np.errstate(invalid="ignore"):  # infinite ones of both signs
            total = scores.sum()
        if math.isnan(total):
            scores = numbers(scores)
        here = scores[:, None]
        bins += np.add.reduce(edges > here, axis=1)
        if np.count_nonzero(equal := edges == here):
            rows, places = equal.nonzero()
            places_of_edges = blocks.take(rows) * least.shape[1] + places
            ties, draws = (values.take(rows) for values in breaks())
            edge_ties, edge_draws = tie.take(places_of_edges), draw.take(places_of_edges)
            above = (edge_ties > ties) | ((edge_ties == ties) & (edge_draws > draws))
            bins += np.bincount(rows[above], minlength=len(bins))
        return bins

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {
            "firsts": self.firsts.tolist(),
            "blocks": self.blocks.tolist(),
            "limits": self.limits.to_dict(),
            "draws": self.draws.tolist(),
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> ScoreBins:
        """Rebuild from `to_dict`. Raises InputError for edges of which something is missing."""
        firsts, blocks = (arrays.integers(body[name], name, ndim=1) for name in ("firsts", "blocks"))
        bins = cls(
            firsts,
            blocks,
            Thresholds.from_dict(body["limits"]),
            arrays.floats(body["draws"], "draws", ndim=1),
        )
        lengths = {len(column) for column in (blocks, bins.limits.score, bins.limits.tie, bins.draws)}
        if len(lengths) > 1 or not np.isin(blocks, np.arange(len(firsts))).all():
            raise InputError(f"the edges of {len(firsts)} blocks of scores do not fit together")
        if (np.diff([0, *firsts, bins.n_bins - 1]) < 0).any():
            raise InputError(
                f"blocks of {bins.n_bins} bins must begin at ascending ones, got {firsts.tolist()}"
            )
        return bins


@dataclass(frozen=True)
class CalibrationInputs:
    """Inputs (n,) to cut: ties, a number drawn for each, and which are `edges` of a block.

    An edge belongs to the block above it, and is the last there whatever its score: given the edge, other inputs of the
    block are like those to come, and the edge is not.
    """

    ties: Floats
    draws: Floats
    edges: Booleans

    def cut(
        self, sizes: list[Integers], blocks: Integers, scores: Floats
    ) -> tuple[ScoreBins, Integers, CalibrationInputs]:
        """Cut blocks into bins of these sizes, one array a block. Return them, each input's bin (n,), and new edges."""
        counts, firsts = np.concatenate(sizes), np.cumsum([0, *map(len, sizes)])
        order = np.lexsort((-self.draws, -self.ties, -numbers(scores), self.edges, blocks))
        inside = np.setdiff1d(np.arange(len(counts)), firsts[1:] - 1)
        edges, bins, after = self._between(order, counts, inside)
        return ScoreBins(firsts[:-1], blocks[edges], *self._at(edges, scores)), bins, after

    def runs(
        self, counts: Integers, m: int, exits: Integers, scores: Floats
    ) -> tuple[ScoreBins, Integers, CalibrationInputs]:
        """Cut inputs into runs of these sizes, (u,), in the order of m exits and the scores there.

        Copies that leave together may fill more than one: so the last bin of an exit is the first one of the next.
        """
        order = np.lexsort((-self.draws, -self.ties, -numbers(scores), exits))
        edges, runs, after = self._between(order, counts, np.arange(len(counts) - 1))
        firsts = np.searchsorted(exits[edges], np.arange(m))
        return ScoreBins(firsts, exits[edges], *self._at(edges, scores)), runs, after

    def _between(
        self, order: Integers, counts: Integers, inside: Integers
    ) -> tuple[Integers, Integers, CalibrationInputs]:
        own = np.empty(len(order), dtype=np.int64)
        own[order] = np.repeat(np.arange(len(counts)), counts)
        edges = order[np.cumsum(counts)[inside] - 1]
        marked = self.edges.copy()
        marked[edges] = True
        return edges, own, CalibrationInputs(self.ties, self.draws, marked)

    def _at(self, edges: Integers, scores: Floats) -> tuple[Thresholds, Floats]:
        return Thresholds(numbers(scores)[edges], self.ties[edges]), self.draws[edges]


def whole(blocks: int) -> ScoreBins:
    """Return bins that are the blocks, without edges."""
    nothing = np.empty(0)
    return ScoreBins(np.arange(blocks), np.empty(0, np.int64), Thresholds(nothing, nothing), nothing)


def numbers(scores: Floats) -> Floats:
    """Return scores with the lowest in place of NaN, by which no threshold is passed."""
    return np.where(np.isnan(scores), -np.inf, scores)
