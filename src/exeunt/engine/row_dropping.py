"""Rows in flight, and dropping those that have answered: the last rows move into the places of those that leave.

A state is megabytes. To copy all rows that stay because a few leave takes as long as a block of a small network. To
move only as many as leave takes next to nothing. It changes the order of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exeunt._arrays import Booleans, Integers
    from exeunt.engine.answers import OpenBatch
    from exeunt.engine.executor import Executor
    from exeunt.policy import PolicyState

__all__ = ["Wave", "compacted", "moves", "without"]


@dataclass(slots=True)
class Wave:
    """Rows in flight before the same segment.

    `state`: the executor's, of `height` rows. `rows`: which of these are in the wave, ascending, None for all.
    `slot`: their places in the table of batches. `memory`: what the policy remembers of them. `alone`: whether no
    other wave has rows of the same state.
    """

    state: Any
    height: int
    rows: Integers | slice | None
    slot: Integers
    memory: PolicyState
    alone: bool = True

    def keep(self, which: Any) -> None:
        """Keep only these rows: a boolean mask or indices."""
        rows = self.rows
        if rows is None or isinstance(rows, slice):
            rows = np.arange(self.height)[slice(None) if rows is None else rows]
        self.rows, self.slot, self.memory = rows[which], self.slot[which], self.memory.take(which)

    def part(self, start: int, stop: int) -> Wave:
        """Return the wave of its rows from start to stop."""
        if stop - start == len(self.slot):
            return self
        cut = slice(start, stop)
        rows = self.rows[cut] if isinstance(self.rows, np.ndarray) else cut
        return Wave(self.state, self.height, rows, self.slot[cut], self.memory.take(cut), alone=False)

    def only(self, mine: Booleans) -> Wave:
        """Return the wave of these rows. The state stays whole, so that others may be in waves of their own."""
        kept = replace(self, alone=False)
        if not mine.all():
            kept.keep(mine)
        return kept

    @property
    def has_gaps(self) -> bool:
        """Whether the state is the wave's own and holds rows, here and there, that are not in it."""
        return self.alone and isinstance(self.rows, np.ndarray)

    def compact(self, executor: Executor) -> None:
        """Drop the rows from a state with gaps that are not in the wave; the others change their order."""
        kept: Any = self.rows
        self.state, rows = executor.compact(self.state, kept)
        order = np.searchsorted(kept, rows)
        self.height, self.rows = len(order), None
        self.slot, self.memory = self.slot[order], self.memory.take(order)


def without(batch: OpenBatch, waves: list[Wave]) -> list[Wave]:
    """Return waves without the rows of a batch."""
    left = [wave.only(~mine) if (mine := batch.owns(wave.slot)).any() else wave for wave in waves]
    return [wave for wave in left if len(wave.slot)]


def moves(keep: Integers) -> tuple[Integers, Integers, Integers]:
    """Return (holes, movers, order) that leave the rows `keep`, ascending, at the front.

    Rows `movers` go to the places `holes`; `order` (len(keep),) is then which row is at which place.
    """
    order = np.arange(len(keep))
    leaves = np.ones(len(keep), dtype=bool)
    leaves[keep[keep < len(keep)]] = False
    holes, movers = order[leaves], keep[keep >= len(keep)]
    order[holes] = movers
    return holes, movers, order


def compacted(array: NDArray[Any], keep: Integers, *, axis: int = 0) -> NDArray[Any]:
    """Return a view of an array's front, changed to hold the rows `keep` in the order of `moves`."""
    holes, movers, _ = moves(keep)
    rows = np.moveaxis(array, axis, 0)
    rows[holes] = rows[movers]
    return np.moveaxis(rows[: len(keep)], 0, axis)
