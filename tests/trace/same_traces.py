"""When two traces are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import exeunt as ex


def same_trace(a: ex.ExitTrace, b: ex.ExitTrace) -> bool:
    labels = (a.label is None and b.label is None) or np.array_equal(a.label, b.label)
    logs = [None if t.log_probability is None else np.asarray(t.log_probability).tobytes() for t in (a, b)]
    return (
        labels
        and logs[0] == logs[1]
        and a.cost == b.cost
        and np.array_equal(a.id, b.id)
        and np.array_equal(a.row, b.row)
        and np.array_equal(a.prediction, b.prediction)
        and a.scores.keys() == b.scores.keys()
        and all(a.scores[name].tobytes() == b.scores[name].tobytes() for name in a.scores)
    )
