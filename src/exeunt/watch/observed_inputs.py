"""What a watch is told of inputs: checked, without those that do not count, and as the cells that they fall into."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support import arrays
from exeunt._support.arrays import Booleans, Floats, Integers
from exeunt._support.checked_types import check_kind
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.policy.watched_cells import WatchedCells, drawn
from exeunt.trace.fields import id_keys
from exeunt.watch.e_detectors import UrnDetectors


class ObservedBatch(NamedTuple):
    """Inputs that count, (n,) each. `first_scores`: at the first exit that can answer. None where not given."""

    exits: Integers
    scores: Floats | None
    first_scores: Floats | None
    ties: Floats | None

    def only(self, rows: slice | Booleans) -> ObservedBatch:
        """Return some of the inputs."""
        return ObservedBatch(
            self.exits[rows], *(None if column is None else column[rows] for column in self[1:])
        )


_GROUPS = 10_000
"""A group is known again among so many recent groups."""
_OF_TIES, _OF_COPIES = np.uint64(1 << 62), np.uint64(1 << 63)
"""Set the numbers drawn for inputs of the stream apart from each other, and from those drawn in calibration."""
_EIGHTHS = 8
_STAKE = 0.3
"""How much of the capital is staked on less sure inputs: enough for shifts of some percent of the mean rank."""
_END = 1e-3
"""Keeps the values of the ends finite."""


class ObservedInputs:
    """Inputs that a policy answered. `scored`: whether they have scores, None before the first. `groups`: recent."""

    def __init__(self, policy: Policy, cells: WatchedCells) -> None:
        self._policy, self._cells = policy, cells
        self.scored: bool | None = None
        self.groups: OrderedDict[int, None] = OrderedDict()
        exits = np.zeros(1, dtype=np.int64) if cells.cell_exits is None else cells.cell_exits
        self._used, exit_of = np.unique(exits, return_inverse=True)
        self._exit_of: Integers = exit_of.astype(np.int64)
        self._place = np.full(policy.n_exits, -1 if cells.by_exit else 0)
        self._place[self._used] = np.arange(len(self._used))

    def told(
        self,
        exits: ArrayLike,
        scores: ArrayLike | None,
        first_scores: ArrayLike | None,
        ties: ArrayLike | None,
        groups: ArrayLike | None,
        decided: ArrayLike | None,
    ) -> ObservedBatch:
        """Return the inputs that count; see `Watch.update`, also for errors."""
        known = isinstance(exits, np.ndarray) and exits.dtype == np.int64 and exits.ndim == 1
        exits_of: Integers = exits if known else arrays.integers(exits, "exits", ndim=1)  # type: ignore[assignment]
        n = len(exits_of)
        score, first = _numbers(scores, "scores", n), _numbers(first_scores, "first_scores", n)
        observed = ObservedBatch(exits_of, score, first, tie := _numbers(ties, "ties", n))
        if groups is not None or decided is not None:
            observed = observed.only(self._kept(n, groups, decided))
        if not len(observed.exits):
            return observed
        try:
            possible = np.minimum.reduce(self._place.take(observed.exits) | observed.exits) >= 0
        except IndexError:
            possible = False
        if not possible:
            own = np.flatnonzero(self._place >= 0)
            other = observed.exits[~np.isin(observed.exits, own)][0]
            answers = ", ".join(map(str, own))
            raise InputError(
                f"an input was answered at exit {other}, and this policy answers at {answers}: leave out inputs "
                "without an answer, or decided by a deadline, a breaker or a ledger, with decided="
            )
        if tie is None and self._cells.has_copies and self._policy.ties == "content":
            raise InputError(
                "calibration inputs repeat, and copies leave together: give all scores and ties, which tell copies "
                "from other inputs of the same score"
            )
        scored = first is not None
        if scored != self.scored:
            self._begin(scored=scored)
        if self._cells.by_exit and scored != (score is not None):
            raise InputError(
                f"give the scores at the exits that answered (scores=) and those at exit {self._cells.first} "
                "(first_scores=), or neither to watch exits alone"
            )
        return observed

    def _begin(self, *, scored: bool) -> None:
        if self.scored is not None:
            raise InputError("either all inputs have scores or none: make another watch for the others")
        if not scored and not self._cells.by_exit:
            raise InputError(
                "the thresholds of this policy were not planned by counts, so its exits follow no known law: give "
                f"the scores at exit {self._cells.first} as first_scores="
            )
        self.scored = scored

    def _kept(self, n: int, groups: ArrayLike | None, decided: ArrayLike | None) -> Booleans:
        counted = np.ones(n, dtype=np.bool_)
        if decided is not None:
            own = np.asarray(decided, dtype=np.bool_)
            arrays.check_length(own, "decided", n)
            counted &= own
        if groups is not None:
            for i, key in enumerate(id_keys(groups, n, "groups").tolist()):
                if key in self.groups:
                    self.groups.move_to_end(key)
                    counted[i] = False
                elif counted[i]:
                    self.groups[key] = None
                    if len(self.groups) > _GROUPS:  # at once, so that it matters not how inputs are batched
                        self.groups.popitem(last=False)
        return counted

    def urn(self) -> UrnDetectors:
        """Return the detectors of inputs with scores, or without.

        Bets on recent shares of the exits and of eight groups of cells by exit and score. Bets that inputs are less
        sure, by the first exit's score and by exit and score; and that more are among the surest, or the least sure, by
        the first exit's score.
        """
        cells = self._cells
        if not self.scored:
            counts = cells.exit_counts(self._policy.n_exits)[self._used]
            middle = (np.cumsum(counts) - counts / 2) / counts.sum()
            return UrnDetectors(counts, [np.arange(len(counts))], _less_sure(middle)[:, None])
        by_first, by_score = cells.positions
        divisions, bets = [_eighths(by_score, cells.counts)], [by_first]
        if cells.by_exit:
            divisions, bets = [self._exit_of, *divisions], [by_first, by_score]
        ends = [(share + _END) ** -0.5 for share in (by_first, 1 - by_first)]
        return UrnDetectors(cells.counts, divisions, np.stack([*map(_less_sure, bets), *ends], axis=1))

    def cells_of(self, observed: ObservedBatch, before: int) -> Integers:
        """Return the cell of each input (n,), as the urn numbers them. `before`: how many inputs came before."""
        exits, scores, first_scores, ties = observed
        if first_scores is None:
            return self._place.take(exits)

        @cache
        def breaks() -> tuple[Floats, Floats]:
            numbers, seed = np.arange(before, before + len(exits), dtype=np.uint64), self._policy.seed
            draws = drawn(numbers + _OF_COPIES, seed)
            if ties is not None:
                return ties, draws
            # An input with the score of its exit's threshold has left, so its tie is at least that one's.
            limits = self._policy.limits
            bound = False if scores is None else self._cells.by_exit & (scores == limits.score[exits])
            low = np.where(bound, np.maximum(limits.tie[exits], 0.0), 0.0)
            return low + (1 - low) * drawn(numbers + _OF_TIES, seed), draws

        return self._cells.of(exits, scores, first_scores, breaks)


def _numbers(values: ArrayLike | None, name: str, n: int) -> Floats | None:
    if values is None:
        return None
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be numbers: {error}") from error
    arrays.check_length(array, name, n)
    return array


def _less_sure(positions: Floats) -> Floats:
    """Return values of cells (c,), larger the less sure."""
    return 1 + _STAKE * (2 * positions - 1)


def _eighths(positions: Floats, counts: Integers) -> Integers:
    """Return at most eight groups of cells (c,) in the order of their positions, as equal in inputs as cells allow."""
    order = np.argsort(positions, kind="stable")
    middle = np.empty(len(counts))
    middle[order] = np.cumsum(counts[order]) - counts[order] / 2
    groups = np.unique((_EIGHTHS * middle / counts.sum()).astype(np.int64), return_inverse=True)[1]
    return groups.astype(np.int64)  # type: ignore[no-any-return]


REMEMBERED = 4096
_Batch: TypeAlias = "tuple[Integers, Integers, Floats | None]"


class _Latest(TypedDict):
    exits: list[int]
    cells: list[int]
    ties: list[float] | None


class LatestInputs:
    """Exits, cells and ties of the last `REMEMBERED` inputs, or a batch more."""

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self._n = 0

    def add(self, exits: Integers, cells: Integers, ties: Floats | None) -> None:
        """Remember a batch: copies, since callers may use their arrays again."""
        self._batches.append((exits.copy(), cells, None if ties is None else ties.copy()))
        self._n += len(exits)
        while self._n - len(self._batches[0][0]) >= REMEMBERED:
            self._n -= len(self._batches.popleft()[0])

    @property
    def exits(self) -> Integers:
        """The exits (n,)."""
        return np.concatenate([exits for exits, _, _ in self._batches] or [np.empty(0, np.int64)])

    @property
    def cells(self) -> Integers:
        """The cells (n,)."""
        return np.concatenate([cells for _, cells, _ in self._batches] or [np.empty(0, np.int64)])

    @property
    def ties(self) -> Floats | None:
        """The ties (n,); None unless all inputs had them."""
        batches = [ties for _, _, ties in self._batches if ties is not None]
        return np.concatenate(batches) if batches and len(batches) == len(self._batches) else None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        ties = self.ties
        return {
            "exits": self.exits.tolist(),
            "cells": self.cells.tolist(),
            "ties": None if ties is None else ties.tolist(),
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> LatestInputs:
        """Rebuild from `to_dict`. Raises InputError for what are no inputs."""
        check_kind(body, _Latest, "latest")
        exits, cells = (arrays.integers(body[name], name, ndim=1) for name in ("exits", "cells"))
        ties = None if body["ties"] is None else arrays.floats(body["ties"], "ties", ndim=1)
        for name, values in (("cells", cells), ("ties", exits if ties is None else ties)):
            arrays.check_length(values, name, len(exits))
        latest = cls()
        if len(exits):
            latest.add(exits, cells, ties)
        return latest

    def check_below(self, m: int, n_cells: int) -> None:
        """Raise InputError unless all are of the first m exits and n cells."""
        for name, values, limit in (("exits", self.exits, m), ("cells", self.cells, n_cells)):
            if len(values) and not 0 <= values.min() <= values.max() < limit:
                raise InputError(f"{name} of the latest inputs must be from 0 to {limit - 1}")
