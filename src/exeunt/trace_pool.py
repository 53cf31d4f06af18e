"""Several traces of one network as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exeunt.errors import InputError
from exeunt.trace import ExitTrace

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["pool"]


def pool(traces: Sequence[ExitTrace]) -> ExitTrace:
    """Return the inputs of several traces of one network as one trace, with the scores that all have.

    Raises InputError for no traces or different costs. Labels are kept only if all traces have them.
    """
    if not traces or any(trace.cost != traces[0].cost for trace in traces):
        raise InputError(f"pool at least one trace, all of the same costs, got {[t.cost for t in traces]}")
    names = [name for name in traces[0].scores if all(name in trace.scores for trace in traces)]
    labels = [trace.label for trace in traces if trace.label is not None]
    return ExitTrace(
        np.concatenate([trace.prediction for trace in traces]),
        {name: np.concatenate([trace.scores[name] for trace in traces]) for name in names},
        traces[0].cost,
        np.concatenate(labels) if len(labels) == len(traces) else None,
        np.concatenate([trace.id for trace in traces]),
    )
