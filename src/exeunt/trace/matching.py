"""CascadeTrace' inputs matched by their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exeunt._arrays import Keys
from exeunt._text import counted
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.trace.exit_trace import ExitTrace

__all__ = ["check_distinct", "in_order_of"]


def check_distinct(name: str, id_: Keys) -> None:
    """Raise InputError if an id occurs twice in the model of this name."""
    keys, count = np.unique(id_, return_counts=True)
    if len(keys) < len(id_):
        raise InputError(
            f"{counted(len(id_) - len(keys), 'input')} of {name!r} have an id that another has, such as "
            f"{keys[count > 1][0]}: inputs are matched by id, so drop copies"
        )


def in_order_of(first: str, order: ExitTrace, name: str, trace: ExitTrace) -> ExitTrace:
    """Return a model's trace with its inputs in the order of the first model's.

    Raises InputError if some inputs are not known of both, or their labels differ.
    """
    if not np.array_equal(trace.id, order.id):
        missing = np.setxor1d(trace.id, order.id)
        if len(missing):
            raise InputError(
                f"{counted(len(missing), 'input is', 'inputs are')} known of {first!r} or {name!r} alone, such as id "
                f"{missing[0]}: record all models on the same inputs, with the same ids"
            )
        rows = np.argsort(trace.id)[np.argsort(np.argsort(order.id))]
        trace = trace.take(rows)
    labels = (order.label, trace.label)
    if (labels[0] is None) != (labels[1] is None) or not np.array_equal(*labels):  # type: ignore[arg-type]
        raise InputError(f"the labels of {first!r} and {name!r} differ: models answer the same question")
    return trace
