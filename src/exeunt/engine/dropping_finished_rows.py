"""Groups of rows in flight, and dropping the finished rows from the state of the executor that holds them.

A group's rows share one state; they are of any tickets and under any policies. A state holds megabytes. Copying all
rows that stay takes as long as a block of a small network, even if only a few leave. `RowGroup.compact` moves as many
rows as leave, which takes next to nothing, but changes their order: the last rows move into the places of those that
leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Booleans, Integers
from exeunt.engine.decider import Decider
from exeunt.engine.executor import Executor
from exeunt.engine.plan import Plan
from exeunt.engine.row_table import RowTable
from exeunt.policy import PolicyState

ALL = slice(None)


@dataclass(slots=True, eq=False)
class PolicyRows:
    """The rows of a group that one policy decides about.

    `decider`: None for rows that have not run yet and take the policy that is active when they do.
    `at`: their places among the group's rows, `ALL` for all. `memory`: the policy's state of them. Before rows run, it
    holds their keys in place of the tie-breaks.
    """

    decider: Decider | None
    at: Integers | slice
    memory: PolicyState


@dataclass(slots=True, eq=False)
class RowGroup:
    """Rows in flight before the same segment.

    `state`: the executor's, of `state_rows` rows. `places`: which of these are in the group, ascending, None for all.
    `rows`: their numbers in the table. `parts`: the rows by policy. `owns_state`: whether no other group has rows of
    the same state.
    """

    state: Any
    state_rows: int
    places: Integers | slice | None
    rows: Integers
    parts: list[PolicyRows]
    owns_state: bool = True

    def copied(self) -> RowGroup:
        """Return a group of the same rows and state."""
        return RowGroup(self.state, self.state_rows, self.places, self.rows, self.parts, self.owns_state)

    def keep(self, which: Any) -> None:
        """Keep only these rows: a boolean mask, ascending indices or a slice."""
        places, n = self.places, len(self.rows)
        if isinstance(which, np.ndarray) and which.dtype == np.bool_:
            which = which.nonzero()[0]  # taken several times, which is faster by indices
        if isinstance(places, slice) or (places is None and isinstance(which, slice)):
            places = np.arange(self.state_rows)[slice(None) if places is None else places]
        self.places, self.rows = which if places is None else places[which], self.rows[which]
        if len(self.parts) == 1:
            (part,) = self.parts
            self.parts = [PolicyRows(part.decider, ALL, part.memory.take(which))]
            return
        stays = np.zeros(n, dtype=np.bool_)
        stays[which] = True
        after = np.cumsum(stays) - 1
        self.parts = [
            PolicyRows(part.decider, after[part.at[mine]], part.memory.take(mine))
            for part in self.parts
            if isinstance(part.at, np.ndarray) and (mine := stays[part.at]).any()
        ]
        if len(self.parts) == 1:  # it is now all rows, in their order
            (part,), order = self.parts, np.argsort(self.parts[0].at)  # type: ignore[arg-type]
            self.parts = [PolicyRows(part.decider, ALL, part.memory.take(order))]

    def drop_finished(self, table: RowTable) -> None:
        """Keep only rows without an answer. The group was taken out of its queue."""
        if not (waiting := table.still_waiting(self.rows)).all():
            self.keep(waiting)

    def between(self, start: int, stop: int) -> RowGroup:
        """Return the group of its rows from start to stop."""
        if stop - start == len(self.rows):
            return self
        group = replace(self, owns_state=False)
        group.keep(slice(start, stop))
        if not isinstance(self.places, np.ndarray):
            first = 0 if self.places is None else self.places.start
            group.places = slice(first + start, first + stop)
        return group

    def where(self, mine: Booleans) -> RowGroup:
        """Return the group of these rows. The state stays whole, so that other rows may be in groups of their own."""
        group = replace(self, owns_state=False)
        if not mine.all():
            group.keep(mine)
        return group

    @property
    def has_gaps(self) -> bool:
        """Whether the state is the group's own and holds other rows between those of the group."""
        return self.owns_state and isinstance(self.places, np.ndarray)

    def needs_drop(self, segment: int, plan: Plan) -> bool:
        """Whether all rows but the group's are dropped from its state before this segment."""
        if self.places is None:
            return False
        if not self.owns_state:
            return True  # the other rows of the state run in another call
        too_large = plan.calls(segment, self.state_rows) > 1
        return too_large or plan.drops(segment, self.state_rows, len(self.rows))

    def compact(self, executor: Executor) -> None:
        """Drop all other rows from a state with gaps. The rows of the group may change their order."""
        places_left: Any = self.places
        self.state, places = executor.compact(self.state, places_left)
        self.state_rows, self.places = len(places), None
        if places is not places_left:  # else they are in their order
            order = np.searchsorted(places_left, places)
            back = np.argsort(order)
            self.rows = self.rows[order]
            self.parts = [
                PolicyRows(part.decider, back[part.at], part.memory)
                if isinstance(part.at, np.ndarray)
                else PolicyRows(part.decider, ALL, part.memory.take(order))
                for part in self.parts
            ]


def joined(executor: Executor, groups: Sequence[RowGroup]) -> RowGroup:
    """Return one group of these, in a new state of its own."""
    state = executor.gather([(group.state, group.places) for group in groups])
    rows = groups[0].rows if len(groups) == 1 else np.concatenate([group.rows for group in groups])
    return RowGroup(state, len(rows), None, rows, _joined_parts(groups))


def _joined_parts(groups: Sequence[RowGroup]) -> list[PolicyRows]:
    deciders = {id(part.decider): part.decider for group in groups for part in group.parts}
    if len(deciders) == 1:
        states = [group.parts[0].memory for group in groups]
        return [PolicyRows(groups[0].parts[0].decider, ALL, PolicyState.joined(states))]
    places: dict[int, list[Integers]] = {key: [] for key in deciders}
    states_of: dict[int, list[PolicyState]] = {key: [] for key in deciders}
    first = 0
    for group in groups:
        indices = np.arange(first, first + len(group.rows))
        for part in group.parts:
            places[id(part.decider)].append(indices[part.at])
            states_of[id(part.decider)].append(part.memory)
        first += len(group.rows)
    return [
        PolicyRows(decider, np.concatenate(places[key]), PolicyState.joined(states_of[key]))
        for key, decider in deciders.items()
    ]


def moves(keep: Integers) -> tuple[Integers, Integers, Integers]:
    """Return (holes, movers, order) that bring the rows `keep`, ascending, to the front.

    Rows `movers` go to the places `holes`; `order` (len(keep),) then says which row is at each place.
    """
    order = np.arange(len(keep))
    leaves = np.ones(len(keep), dtype=bool)
    leaves[keep[keep < len(keep)]] = False
    holes, movers = order[leaves], keep[keep >= len(keep)]
    order[holes] = movers
    return holes, movers, order


def compacted(array: NDArray[Any], keep: Integers) -> NDArray[Any]:
    """Return a view of an array's front, which now holds the rows `keep` in the order of `moves`."""
    holes, movers, _ = moves(keep)
    array[holes] = array[movers]
    return array[: len(keep)]
