"""The executor of a cascade: its models' segments, one model after the other, on the same raw inputs.

A model's inputs are prepared when rows reach it, and for these rows alone. So a model that few inputs reach resizes,
normalises or tokenises few.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Booleans, Integers
from exeunt.engine.dropping_finished_rows import moves
from exeunt.engine.executor import Executor, Segments
from exeunt.engine.inputs import raw_batch, raw_rows


class CascadeModel(NamedTuple):
    """A model: its executor, and the function that prepares its inputs from raw ones (rows)."""

    executor: Executor
    prepare: Callable[[NDArray[Any]], Any]


@dataclass(frozen=True)
class _State:
    """Rows before a segment of a model. `raw`: inputs of the models that have not begun; None in the last model.

    `inner`: the state of the executor of model number `model`; None if the next model has not begun. `signature`: see
    `Executor.signature`.
    """

    raw: NDArray[Any] | None
    inner: Any
    model: int
    signature: Hashable


class CascadeExecutor:
    """Runs models one after the other. Raw inputs are an array with a row per input, of numbers or of objects."""

    name, mask_scale = "cascade", 1

    def __init__(self, models: Sequence[CascadeModel]) -> None:
        self.models = tuple(models)
        executors = [model.executor for model in self.models]
        self._places = [(j, k) for j, executor in enumerate(executors) for k in range(len(executor.segments))]
        before = np.cumsum([0, *(executor.n_exits for executor in executors)]).tolist()
        self.n_exits = before[-1]
        self._first = before[:-1]
        self.segments: Segments = tuple(
            (first + self._first[j], last + self._first[j])
            for j, executor in enumerate(executors)
            for first, last in executor.segments
        )
        self.restarts = frozenset(segment for segment, (_, k) in enumerate(self._places) if k == 0)
        self.device = " and ".join(dict.fromkeys(executor.device for executor in executors))
        self.border = max(executor.border for executor in executors)

    def start(self, inputs: Any) -> tuple[_State, Booleans]:
        """Return the raw inputs before the first model, and which are finite, (n,)."""
        raw, valid = raw_batch(inputs)
        return _State(raw, None, 0, _kind(raw)), valid

    def signature(self, state: _State) -> Hashable:
        """Return the kind of the raw inputs; after a segment in `restarts`, also that of the model's inputs."""
        return state.signature

    def run(self, segment: int, state: _State, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], _State]:
        """Run a segment of a model. Before the model's first segment, its inputs are prepared."""
        j, k = self._places[segment]
        model, inner, signature = self.models[j], state.inner, state.signature
        raw = state.raw if j + 1 < len(self.models) else None
        if k == 0:
            inner, _ = model.executor.start(model.prepare(state.raw))  # type: ignore[arg-type]
            signature = (j, model.executor.signature(inner), None if raw is None else _kind(raw))
        logits, inner = model.executor.run(k, inner, [exit_ - self._first[j] for exit_ in wanted])
        if raw is not None and self._places[segment + 1][0] != j:
            inner, signature = None, _kind(raw)
        return logits, _State(raw, inner, j, signature)

    def skip(self, state: _State) -> _State:
        """Return the raw inputs alone, for a model after the one that the rows are in."""
        return replace(state, inner=None, signature=_kind(state.raw))

    def gather(self, parts: Sequence[tuple[_State, Integers | slice | None]]) -> _State:
        """Return one state with these rows of the raw inputs and of the model's state."""
        first = parts[0][0]
        raw, inner = None, first.inner
        if first.raw is not None:
            rows = [(state.raw, slice(None) if which is None else which) for state, which in parts]
            raw = _joined([raw_rows[which] for raw_rows, which in rows])  # type: ignore[index]
        if inner is not None:
            inner = self.models[first.model].executor.gather([(state.inner, which) for state, which in parts])
        return replace(first, raw=raw, inner=inner)

    def compact(self, state: _State, rows: Integers) -> tuple[_State, Integers]:
        """Drop rows as the model's executor does, and the raw inputs with them."""
        if state.inner is None:
            inner, order = None, moves(rows)[2]
        else:
            inner, order = self.models[state.model].executor.compact(state.inner, rows)
        raw = None if state.raw is None else state.raw[order]
        return replace(state, raw=raw, inner=inner), order

    def wait(self) -> None:
        """Wait for every model."""
        for model in self.models:
            model.executor.wait()


def _kind(raw: Any) -> Hashable:
    """Return what raw inputs must share to be joined. Images may differ in size: models resize them."""
    images = raw.dtype == np.uint8 and raw.ndim == 4
    return "objects" if images or raw.dtype == object else (raw.dtype, raw.shape[1:])


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len(parts) == 1:
        return parts[0]
    alike = len({(part.dtype, part.shape[1:]) for part in parts}) == 1
    return np.concatenate(parts) if alike else raw_rows([row for part in parts for row in part])
