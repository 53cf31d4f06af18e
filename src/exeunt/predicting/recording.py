"""Recording what every exit of an executor says on data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from exeunt._arrays import Floats
from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.trace import ExitTrace
from exeunt.trace.combining import GrowingTrace

if TYPE_CHECKING:
    from exeunt.data import Dataset
    from exeunt.engine.executor import Executor
    from exeunt.predicting.batches import PreparedBatch

__all__ = ["all_logits", "record_data"]


def record_data(
    executor: Executor,
    data: Dataset,
    batches: Iterable[PreparedBatch],
    *,
    cost: CostModel,
    progress: Callable[[int, int], None] | None = None,
) -> ExitTrace:
    """Return the trace of all inputs, in the order of `data`, by their content keys.

    `batches`: the data, prepared. `progress`: called with (done, n). Raises UnreadableInput for the first input that
    cannot be read, InputError for one that leads to values that are not finite.
    """
    recorded, places, done = GrowingTrace(), [], 0
    for batch in batches:
        if batch.unreadable:
            raise batch.unreadable[0][1]
        logits = all_logits(executor, batch)
        if not np.isfinite(logits).all():
            row = int(np.flatnonzero(~np.isfinite(logits).all(axis=(1, 2)))[0])
            raise InputError(f"the network's output for {data.name(int(batch.positions[row]))} is not finite")
        label = None if data.labels is None else data.labels[batch.positions]
        recorded.add(ExitTrace.from_logits(logits, cost=cost, label=label, id=batch.keys))
        places.append(batch.positions)
        done += len(batch.positions)
        if progress is not None:
            progress(done, len(data))
    return recorded.whole().take(np.argsort(np.concatenate(places), kind="stable"))


def all_logits(executor: Executor, batch: PreparedBatch) -> Floats:
    """Return what every exit says of a batch, (b, m, k)."""
    state, found = executor.start(batch.inputs)[0], []
    for segment, (first, last) in enumerate(executor.segments):
        logits, state = executor.run(segment, state, range(first, last + 1))
        found += logits
    return np.stack(found, axis=1)
