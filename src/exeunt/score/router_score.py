"""Whom to ask next: what the answer is worth now, and after each model that may be asked.

A tree of exits, in which an input takes a path. At each exit on it, linear functions of what is known predict the value
of answering here and of going on to each exit that may follow: the quality in the end less its further cost, at a price
per unit of quality (docs/explanation/method.md). The largest one decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt.errors import InputError
from exeunt.score.confidence import FEATURES, StartsEmpty
from exeunt.score.kernel_regression import KernelRegression
from exeunt.score.learned import Grid, features

NEXT = "next exit"
"""Name of the exit that follows for each row, in the memory of a `Routing`."""
_QUALITY = "predicted quality"


@dataclass(frozen=True, eq=False)
class RouterInputs:
    """What is known at the exits of a tree, as columns. `grid`: ranks scores; None where no exit has any.

    `classes`: those whose prediction has columns of its own. `quality`: by exit, what its features tell of the quality
    of all models. `silent`: exits that answer nothing.
    """

    grid: Grid | None
    classes: tuple[int, ...]
    quality: Mapping[int, KernelRegression]
    silent: frozenset[int]

    def columns(
        self, exit_: int, evidence: Mapping[str, Any], memory: Mapping[str, Any], predicted: Any = None
    ) -> tuple[Floats, dict[str, Any], Any]:
        """Return columns (rows, f) with a 1 first, the memory for the next exits, and which rows are like no others.

        `predicted` (rows, q): qualities in place of those that features tell.
        """
        memory_after = {name: column for name, column in memory.items() if name not in (NEXT, _QUALITY)}
        quality, unlike = memory.get(_QUALITY), None
        if exit_ in self.quality:
            if FEATURES not in evidence:
                raise InputError(
                    "this router decides by features of the input, and the evidence has none: give them, of a live "
                    "encoder as a FeatureModel"
                )
            told_quality, unlike = self.quality[exit_](evidence[FEATURES])
            quality = told_quality if predicted is None else predicted
        columns = [np.ones(len(evidence["prediction"]))]
        if self.grid is not None and exit_ not in self.silent:
            main, further, memory_after = features(self.grid, evidence, memory_after, history=True)
            of_class = [(evidence["prediction"] == k) * 1.0 for k in self.classes]
            columns += [*main, *further, *of_class, *(indicator * main[0] for indicator in of_class)]
        if quality is not None:
            columns += list(quality.T)
            memory_after = {**memory_after, _QUALITY: quality}
        return np.stack(columns, axis=1), memory_after, unlike


@dataclass(frozen=True, eq=False)
class Routing(StartsEmpty):
    """How much more it is worth to answer at an exit than to go on, and where to go on to.

    `following`: the exits that may follow each exit (m,). `weights`: of the columns of `known` at each exit that others
    may follow, (f, 1 + those): the value of answering there comes first. `safe`: by exit with features, the one that
    follows for inputs that are like none that was learned from.
    """

    known: RouterInputs
    following: Sequence[Sequence[int]]
    weights: Sequence[Floats]
    safe: Mapping[int, int]
    name: str = "value of answering"
    remembers: ClassVar[bool] = True

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the score (rows,), at least 0 where the input should be answered, and the memory with `NEXT`."""
        columns, memory_after, unlike = self.known.columns(exit_, evidence, memory)
        score, follows = self.decided(exit_, columns, unlike)
        return score, {**memory_after, NEXT: follows} if self.following[exit_] else memory_after

    def decided(self, exit_: int, columns: Floats, unlike: Any) -> tuple[Floats, Integers]:
        """Return the score (rows,) at an exit, and the exit that follows (rows,), of the columns of what is known."""
        if not self.following[exit_]:
            return np.full(len(columns), np.inf), np.full(len(columns), -1)
        worth = columns @ self.weights[exit_]
        # Rounded: inputs that are alike must have equal scores in any batch, so that ties part them.
        score = np.round(worth[:, 0] - worth[:, 1:].max(axis=1), 9)
        follows = np.asarray(self.following[exit_])[worth[:, 1:].argmax(axis=1)]
        if exit_ in self.safe:
            follows = np.where(unlike, self.safe[exit_], follows)
            score = np.where(unlike, -np.inf, score)
        if exit_ in self.known.silent:
            score = np.full(len(score), -np.inf)
        return score, follows

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back the same score to the last bit."""
        grid = self.known.grid
        return {
            "kind": "routing",
            "grid": None if grid is None else [[name, list(knots)] for name, knots in grid.knots.items()],
            "classes": list(self.known.classes),
            "quality": [[exit_, regression.to_dict()] for exit_, regression in self.known.quality.items()],
            "silent": sorted(self.known.silent),
            "following": [list(some) for some in self.following],
            "weights": [weight.tolist() for weight in self.weights],
            "safe": [list(pair) for pair in self.safe.items()],
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Routing:
        """Rebuild a score from `to_dict`."""
        grid = None if body["grid"] is None else Grid({name: tuple(knots) for name, knots in body["grid"]})
        quality = {
            int(exit_): KernelRegression.from_dict(regression) for exit_, regression in body["quality"]
        }
        weights = [np.array(matrix, dtype=np.float64) for matrix in body["weights"]]
        known = RouterInputs(grid, tuple(body["classes"]), quality, frozenset(map(int, body["silent"])))
        following = [tuple(map(int, some)) for some in body["following"]]
        return cls(known, following, weights, {int(exit_): int(to) for exit_, to in body["safe"]})
