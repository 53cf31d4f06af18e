"""Some of a network's exits, as a network of these exits alone: the heads of the others are never run."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from exeunt._arrays import Booleans, Integers
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.engine.executor import Executor, Segments

__all__ = ["SelectedExits"]


class SelectedExits:
    """An executor of the exits `exits` of another one, ascending; nothing is run beyond the last of them.

    Raises InputError if a segment of the executor up to there holds none of them: rows are dropped nowhere else.
    """

    def __init__(self, executor: Executor, exits: Sequence[int]) -> None:
        self._executor, self._exits = executor, tuple(exits)
        self.name, self.device, self.restarts = executor.name, executor.device, executor.restarts
        self.border = executor.border
        self.n_exits = len(self._exits)
        ends = [last for _, last in executor.segments]
        places = [bisect_left(ends, exit_) for exit_ in self._exits]
        used = range(places[-1] + 1)
        if sorted({*places}) != list(used):
            raise InputError(
                f"segments {executor.segments} are finer than the exits that are run, {self._exits}"
            )
        self.segments: Segments = tuple((places.index(k), bisect_right(places, k) - 1) for k in used)

    def start(self, inputs: Any) -> tuple[Any, Booleans]:
        """Return the executor's own state."""
        return self._executor.start(inputs)

    def signature(self, state: Any) -> Hashable:
        """Return the executor's own signature."""
        return self._executor.signature(state)

    def run(self, segment: int, state: Any, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], Any]:
        """Run a segment for the wanted ones of the exits."""
        return self._executor.run(segment, state, [self._exits[place] for place in wanted])

    def gather(self, parts: Sequence[tuple[Any, Integers | slice | None]]) -> Any:
        """Join rows as the executor does."""
        return self._executor.gather(parts)

    def compact(self, state: Any, rows: Integers) -> tuple[Any, Integers]:
        """Drop rows as the executor does."""
        return self._executor.compact(state, rows)

    def wait(self) -> None:
        """Wait for the executor."""
        self._executor.wait()
