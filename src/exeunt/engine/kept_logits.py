"""An executor that keeps the logits of every row at the exits it runs: they give the probabilities of all classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from exeunt._arrays import Booleans, Integers
    from exeunt.engine.executor import Executor, Segments

__all__ = ["LogitsKeeper"]


class _State(NamedTuple):
    inner: Any
    rows: Integers


class LogitsKeeper:
    """Runs `executor`. `logits` of the batch begun last: by exit, (n, k), NaN in rows that did not get there."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.name, self.device, self.n_exits = executor.name, executor.device, executor.n_exits
        self.segments: Segments = executor.segments
        self.logits: dict[int, NDArray[Any]] = {}
        self._n = 0

    def start(self, inputs: Any) -> tuple[_State, Booleans]:
        """Begin a batch, and forget the one before."""
        inner, valid = self._executor.start(inputs)
        self.logits, self._n = {}, len(valid)
        return _State(inner, np.arange(self._n)), valid

    def signature(self, state: _State) -> Hashable:
        """Return that of the executor."""
        return self._executor.signature(state.inner)

    def run(self, segment: int, state: _State, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], _State]:
        """Run a segment, and keep the logits."""
        found, inner = self._executor.run(segment, state.inner, wanted)
        for exit_, logits in zip(wanted, found, strict=True):
            kept = self.logits.setdefault(exit_, np.full((self._n, logits.shape[1]), np.nan))
            kept[state.rows] = logits
        return found, _State(inner, state.rows)

    def gather(self, parts: Sequence[tuple[_State, Integers | slice | None]]) -> _State:
        """Join rows of several states."""
        inner = self._executor.gather([(state.inner, rows) for state, rows in parts])
        rows = [state.rows if keep is None else state.rows[keep] for state, keep in parts]
        return _State(inner, np.concatenate(rows))

    def compact(self, state: _State, rows: Integers) -> tuple[_State, Integers]:
        """Drop rows."""
        inner, order = self._executor.compact(state.inner, rows)
        return _State(inner, state.rows[order]), order

    def wait(self) -> None:
        """Wait for the executor."""
        self._executor.wait()
