"""A batch of raw inputs: what is prepared later, or never."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Booleans
from exeunt.errors import InputError

__all__ = ["raw_batch", "raw_rows"]


def raw_batch(inputs: Any) -> tuple[NDArray[Any], Booleans]:
    """Return raw inputs as one array, of numbers or of objects, a row each, and which are finite, (n,)."""
    given = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    raw = np.asarray(given[0]) if len(given) == 1 else None
    if raw is None or raw.ndim == 0:
        raise InputError(
            f"this takes 1 array(s), of raw inputs, a row each; got {len(given)}: make it with runner.prepare"
        )
    valid: Booleans = np.ones(len(raw), dtype=np.bool_)
    if raw.dtype.kind == "f":
        valid &= np.isfinite(raw).all(axis=tuple(range(1, raw.ndim)))
    return raw, valid


def raw_rows(values: Sequence[Any]) -> NDArray[Any]:
    """Return values as an array of objects (n,)."""
    rows = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        rows[place] = value
    return rows
