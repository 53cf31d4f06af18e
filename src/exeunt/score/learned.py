"""A score learned from labels, such as how much better it is to answer now than at a later exit.

It is linear in features of the outputs of the exits so far. The code uses only operators and methods that NumPy arrays
and torch tensors share, so one definition serves fitting, replay and every runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, singledispatch
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exeunt._support import arrays
from exeunt._support.arrays import Floats
from exeunt.errors import InputError
from exeunt.score.confidence import StartsEmpty

_BENDS = np.array([0.15, 0.3, 0.45, 0.6, 0.75, 0.9])
_LONG_STREAK = 4.0
_USUAL = 100.0  # no probability, percentage or entropy exceeds it
_FEW_ROWS = 1000  # with more rows, an array of all pieces leaves the cache
_FEW_SUMMED = 100  # beyond them, copying the features into one array takes longer than adding each


@dataclass(frozen=True)
class Grid:
    """Knots of each score, by name, the main score first: quantiles over all exits.

    They turn a score into its rank in [0, 1], the same way at every exit.
    """

    knots: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, scores: Mapping[str, Floats], main: str, pieces: int = 24) -> Grid:
        """Make the grid of recorded scores (n, m). Raises InputError if the main score is missing."""
        if main not in scores:
            raise InputError(f"there is no score {main!r} in this trace; it has {', '.join(sorted(scores))}")
        names = [main, *sorted(set(scores) - {main})]
        return cls({name: quantile_knots(scores[name], pieces) for name in names})

    def rank(self, name: str, score: Any) -> Any:
        """Return the rank (rows,) in [0, 1] of scores (rows,): linear between the knots."""
        knots = self.knots[name]
        return score.clip(0.0, 0.0) + 0.5 if len(knots) < 2 else rank_between(score, knots)

    def ranks(self, scores: Sequence[Any]) -> Sequence[Any]:
        """Return the ranks (rows,) of all scores (rows,), in the order of the grid."""
        limit = _FEW_ROWS // len(scores)
        if self._pieces is not None and all(_is_few(score, limit) for score in scores):
            return list(_ranks_of_few(np.array(scores), self._pieces))
        return [self.rank(name, score) for name, score in zip(self.knots, scores, strict=True)]

    @cached_property
    def _pieces(self) -> _Pieces | None:
        """The pieces of all scores; None if one has none."""
        knots = list(self.knots.values())
        return _Pieces.between(knots) if min(map(len, knots)) > 1 else None


def _is_few(values: Any, limit: int = _FEW_ROWS) -> bool:
    """Whether NumPy takes less time for all pieces or features of these rows at once than for one after the other."""
    return type(values) is np.ndarray and values.size <= limit


@arrays.dispatched
def rank_between(score: Any, knots: Sequence[float]) -> Any:
    """Return the rank (rows,) in [0, 1] of scores (rows,): a knot's rank is its position among the knots."""
    if _is_few(score):
        return _ranks_of_few(score.reshape(1, -1), _pieces_of_one(tuple(knots))).reshape(score.shape)
    total = score.clip(0.0, 0.0)  # zeros, also for infinite scores
    for low, high in pairwise(knots):
        total = total + ((score - low) / (high - low)).clip(0.0, 1.0)
    return total / (len(knots) - 1)


class _Pieces(NamedTuple):
    """The pieces between the knots of several scores: where each begins and its width (p, scores, 1), and how many a
    score has, `number` (scores, 1). `exist` (p, scores, 1): 0 for pieces beyond that number; None if there are none.
    """

    low: Floats
    width: Floats
    number: Floats
    exist: Floats | None

    @classmethod
    def between(cls, knots: Sequence[Sequence[float]]) -> _Pieces:
        """Return the pieces between these knots, two or more for each score."""
        number = np.array([[len(ends) - 1.0] for ends in knots])
        low, width = np.ones((2, int(number.max()), len(knots), 1))
        for place, ends in enumerate(knots):
            low[: len(ends) - 1, place, 0], width[: len(ends) - 1, place, 0] = ends[:-1], np.diff(ends)
        exist = (np.arange(len(low))[:, None, None] < number).astype(np.float64)
        return cls(low, width, number, None if exist.all() else exist)


@lru_cache(maxsize=1024)
def _pieces_of_one(knots: tuple[float, ...]) -> _Pieces:
    return _Pieces.between([knots])


def _ranks_of_few(scores: NDArray[Any], pieces: _Pieces) -> NDArray[Any]:
    """Return the same sums for several scores (scores, rows), to the last bit."""
    steps = scores - pieces.low
    steps /= pieces.width
    np.maximum(steps, 0.0, out=steps)  # both take half the time of `clip`
    np.minimum(steps, 1.0, out=steps)
    if pieces.exist is not None:
        steps *= pieces.exist
    # NumPy adds up a single column in pairs, with other roundings.
    total = np.add.accumulate(steps, axis=0)[-1] if scores.size == 1 else np.add.reduce(steps, axis=0)
    return total / pieces.number  # type: ignore[no-any-return]


@arrays.dispatched
def bent(rank: Any, bends: Floats) -> Sequence[Any]:
    """Return by how much ranks (rows,) exceed each bend, at least 0: (rows,) each."""
    if _is_few(rank):
        return np.maximum(rank - bends[:, None], 0.0)  # type: ignore[no-any-return]
    return [(rank - bend).clip(0.0, 1.0) for bend in bends.tolist()]


@singledispatch
def larger(a: Any, b: Any) -> Any:
    """Return the larger of two numbers, in each row (rows,)."""
    first = (a >= b) * 1.0
    return a * first + b * (1.0 - first)


@larger.register(np.ndarray)
def _(a: NDArray[Any], b: Any) -> Any:
    """Return the same, also for infinite numbers."""
    return np.maximum(a, b)


@arrays.dispatched
def add_weighted(total: Any, weights: Floats, features: Sequence[Any]) -> Any:
    """Return `total` (rows,) plus a weighted sum of features, (rows,) each."""
    if _is_few(total, _FEW_SUMMED):
        terms = np.array([total, *features])
        terms[1:] *= weights[:, None]
        return np.add.accumulate(terms, axis=0)[-1]  # the same sum, to the last bit
    for weight, feature in zip(weights, features, strict=True):
        total = total + float(weight) * feature
    return total


def features(
    grid: Grid, evidence: Mapping[str, Any], memory: Mapping[str, Any], *, history: bool
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Return (main features, further features, memory for the next exit), each feature (rows,).

    Main: the rank of the main score, bent at fixed points. Further: the differences of the other scores and, with
    `history`, the agreement of the prediction with those of earlier exits.
    """
    missing = [name for name in grid.knots if name not in evidence]
    if missing:
        raise InputError(f"this policy decides by scores {list(grid.knots)}; the evidence lacks {missing}")
    rank, *others = grid.ranks([evidence[name] for name in grid.knots])
    main = [rank, *bent(rank, _BENDS)]
    further = []
    upper = larger(rank - 0.5, 0.0)
    for other in others:
        further += [other - rank, larger(other - 0.5, 0.0) - upper]
    if not history:
        return main, further, {}
    prediction, zero = evidence["prediction"], rank * 0.0
    if not memory:
        further += [zero] * 6
        return main, further, {"prediction": prediction, "rank": rank, "streak": zero, "best": zero}
    before = memory["rank"]
    same = (prediction == memory["prediction"]) * (zero + 1.0)  # in the precision of the scores
    streak = (memory["streak"] + 1.0) * same
    best = larger(memory["best"], before) * same
    further += [
        same,
        same * rank,
        (streak / _LONG_STREAK).clip(0.0, 1.0),
        same * before,
        (1.0 - same) * before,
        best,
    ]
    return main, further, {"prediction": prediction, "rank": rank, "streak": streak, "best": best}


@dataclass(frozen=True, eq=False)
class LearnedScore(StartsEmpty):
    """A learned score: a weighted sum of features at each exit before the last one that answers; 0 from there on.

    `main` (k, f), `further` (k, g): weights of the features at each of these k exits; `intercept` (k,).
    `history`: whether earlier exits' predictions count. `name`: for tables and plots.
    """

    grid: Grid
    main: Floats
    further: Floats
    intercept: Floats
    history: bool
    name: str = "advantage"

    @property
    def remembers(self) -> bool:
        """Whether it needs the evidence of every exit."""
        return self.history

    @cached_property
    def _weights(self) -> Floats:
        return np.concatenate([self.main, self.further], axis=1)

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the score (rows,) at this exit; 0 from the last one that answers on."""
        main, further, memory_after = features(self.grid, evidence, memory, history=self.history)
        total = main[0] * 0.0
        if exit_ >= len(self.intercept):
            return total, memory_after
        return add_weighted(
            total + float(self.intercept[exit_]), self._weights[exit_], [*main, *further]
        ), memory_after

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back the same score to the last bit."""
        return {
            "kind": "learned",
            "title": self.name,
            # A list, not a mapping: the order of the scores counts, and JSON objects have none.
            "grid": [[name, list(knots)] for name, knots in self.grid.knots.items()],
            "main": self.main.tolist(),
            "further": self.further.tolist(),
            "intercept": self.intercept.tolist(),
            "history": self.history,
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> LearnedScore:
        """Rebuild a score from `to_dict`."""
        rows = len(body["intercept"])
        return cls(
            Grid({name: tuple(knots) for name, knots in body["grid"]}),
            np.array(body["main"], dtype=np.float64).reshape(rows, -1 if rows else 0),
            np.array(body["further"], dtype=np.float64).reshape(rows, -1 if rows else 0),
            np.array(body["intercept"], dtype=np.float64),
            bool(body["history"]),
            body["title"],
        )


def quantile_knots(scores: Floats, pieces: int) -> tuple[float, ...]:
    """Return quantiles that single precision can tell apart.

    A few huge scores, such as -1e9 for no answer, do not merge the others into one.
    """
    finite = scores[np.isfinite(scores)]
    if finite.size == 0:
        return (0.0,)
    values = np.quantile(finite, np.linspace(0, 1, pieces + 1)).tolist()
    size = min(max(map(abs, values)), _USUAL)
    knots = values[:1]
    for knot in values[1:]:
        if knot - knots[-1] > 1e-6 * max(abs(knot), abs(knots[-1]), size, 1e-30):
            knots.append(knot)
    return tuple(knots)
