"""Rows in flight: those of one state of the executor, of any tickets and under any policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._arrays import Booleans, Integers
from exeunt.policy import PolicyState

if TYPE_CHECKING:
    from exeunt.engine.deciding import Decider
    from exeunt.engine.executor import Executor
    from exeunt.engine.row_table import RowTable

__all__ = ["Share", "Wave", "joined"]


@dataclass(slots=True, eq=False)
class Share:
    """The rows of a wave that one policy decides about.

    `decider`: None for rows that were not run and take the active policy when they are.
    `at`: their places among the wave's rows, None for all. `memory`: what the policy remembers of them. Before rows are
    run it holds their keys in the place of the tie-breaks.
    """

    decider: Decider | None
    at: Integers | None
    memory: PolicyState


@dataclass(slots=True, eq=False)
class Wave:
    """Rows in flight before the same segment.

    `state`: the executor's, of `height` rows. `place`: which of these are in the wave, ascending, None for all.
    `rows`: their numbers in the table. `alone`: whether no other wave has rows of the same state.
    """

    state: Any
    height: int
    place: Integers | slice | None
    rows: Integers
    shares: list[Share]
    alone: bool = True

    def keep(self, which: Any) -> None:
        """Keep only these rows: a boolean mask, ascending indices or a slice."""
        place = self.place
        if place is None or isinstance(place, slice):
            place = np.arange(self.height)[slice(None) if place is None else place]
        n = len(self.rows)
        self.place, self.rows = place[which], self.rows[which]
        if len(self.shares) == 1:
            (share,) = self.shares
            self.shares = [Share(share.decider, None, share.memory.take(which))]
            return
        kept = np.zeros(n, dtype=np.bool_)
        kept[which] = True
        after = np.cumsum(kept) - 1
        self.shares = [
            Share(share.decider, after[share.at[mine]], share.memory.take(mine))
            for share in self.shares
            if share.at is not None and (mine := kept[share.at]).any()
        ]
        self._simplify()

    def drop_answered(self, table: RowTable) -> None:
        """Keep only rows without an answer. The wave was taken out of what waits."""
        if not (waits := table.still_waiting(self.rows)).all():
            self.keep(waits)

    def _simplify(self) -> None:
        """Let a share that is the only one be of all rows, in their order."""
        if len(self.shares) == 1 and (at := self.shares[0].at) is not None:
            share = self.shares[0]
            self.shares = [Share(share.decider, None, share.memory.take(np.argsort(at)))]

    def _reorder(self, order: Integers) -> None:
        self.rows = self.rows[order]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        self.shares = [
            Share(share.decider, None, share.memory.take(order))
            if share.at is None
            else Share(share.decider, back[share.at], share.memory)
            for share in self.shares
        ]

    def part(self, start: int, stop: int) -> Wave:
        """Return the wave of its rows from start to stop."""
        if stop - start == len(self.rows):
            return self
        cut = slice(start, stop)
        kept = replace(self, alone=False)
        kept.keep(cut)
        if not isinstance(self.place, np.ndarray):
            first = 0 if self.place is None else self.place.start
            kept.place = slice(first + start, first + stop)
        return kept

    def only(self, mine: Booleans) -> Wave:
        """Return the wave of these rows. The state stays whole, so that others may be in waves of their own."""
        kept = replace(self, alone=False)
        if not mine.all():
            kept.keep(mine)
        return kept

    @property
    def has_gaps(self) -> bool:
        """Whether the state is the wave's own and holds rows, here and there, that are not in it."""
        return self.alone and isinstance(self.place, np.ndarray)

    def compact(self, executor: Executor) -> None:
        """Drop the rows from a state with gaps that are not in the wave; the others change their order."""
        kept: Any = self.place
        self.state, places = executor.compact(self.state, kept)
        self.height, self.place = len(places), None
        if places is not kept:  # else they are in their order
            self._reorder(np.searchsorted(kept, places))


def joined(executor: Executor, waves: Sequence[Wave]) -> Wave:
    """Return one wave of these, in a new state of its own."""
    state = executor.gather([(wave.state, wave.place) for wave in waves])
    rows = waves[0].rows if len(waves) == 1 else np.concatenate([wave.rows for wave in waves])
    return Wave(state, len(rows), None, rows, _shares(waves))


def _shares(waves: Sequence[Wave]) -> list[Share]:
    deciders = {id(share.decider): share.decider for wave in waves for share in wave.shares}
    if len(deciders) == 1:
        states = [wave.shares[0].memory for wave in waves]
        return [Share(waves[0].shares[0].decider, None, PolicyState.joined(states))]
    places: dict[int, list[Integers]] = {key: [] for key in deciders}
    states_of: dict[int, list[PolicyState]] = {key: [] for key in deciders}
    first = 0
    for wave in waves:
        for share in wave.shares:
            at = np.arange(len(wave.rows)) if share.at is None else share.at
            places[id(share.decider)].append(at + first)
            states_of[id(share.decider)].append(share.memory)
        first += len(wave.rows)
    return [
        Share(decider, np.concatenate(places[key]), PolicyState.joined(states_of[key]))
        for key, decider in deciders.items()
    ]
