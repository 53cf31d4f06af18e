"""Checks of costs: each returns them as arrays, or raises InputError that names the culprit."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from exeunt import _arrays
from exeunt._arrays import Floats
from exeunt.errors import InputError

__all__ = ["checked_heads", "checked_means", "checked_rows"]


def checked_means(cost: ArrayLike) -> Floats:
    """Return cumulative costs (m,): positive, finite, strictly increasing."""
    values = _arrays.floats(cost, "cost", ndim=1)
    if len(values) == 0:
        raise InputError("cost is empty: give one cumulative cost per exit")
    for exit_, value in enumerate(values):
        if not np.isfinite(value) or value <= 0:
            raise InputError(f"costs must be positive and finite, got {value:g} at exit {exit_}")
    steps = np.diff(values)
    if np.any(steps <= 0):
        exit_ = int(np.argmax(steps <= 0)) + 1
        raise InputError(
            f"costs must be strictly increasing (cumulative, not per stage), got {values[exit_]:g} at exit "
            f"{exit_} after {values[exit_ - 1]:g}"
        )
    return values


def checked_heads(heads: ArrayLike, cumulative: Floats) -> Floats:
    """Return what heads cost (m,), or raise InputError naming the culprit."""
    values = _arrays.floats(heads, "heads", ndim=1)
    _arrays.check_length(values, "heads", len(cumulative))
    steps = np.diff(cumulative, prepend=0.0)
    bad = ~((values >= 0) & (values < steps * (1 + 1e-9)))
    if bad.any():
        exit_ = int(np.argmax(bad))
        raise InputError(
            f"the head of exit {exit_} must cost between 0 and what the exit adds, {steps[exit_]:g}, got "
            f"{values[exit_]:g}"
        )
    return _arrays.frozen(values.copy())


def checked_rows(rows: Floats) -> Floats:
    """Return costs (n, m) of n inputs, or raise InputError naming the culprit."""
    if rows.size == 0:
        raise InputError(f"costs per input need at least one input and one exit, got shape {rows.shape}")
    bad = (~np.isfinite(rows) | (rows <= 0)).any(axis=1) | (np.diff(rows, axis=1) <= 0).any(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            "costs of each input must be positive, finite and strictly increasing from exit to exit, got "
            f"{np.array2string(rows[row], precision=4)} in row {row}"
        )
    return _arrays.frozen(rows.copy())
