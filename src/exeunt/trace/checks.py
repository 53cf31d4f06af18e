"""Checks of the arrays that a trace is made of, with errors that name the culprit."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exeunt import _arrays
from exeunt._arrays import Floats, Integers, Keys
from exeunt._text import counted
from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.score.tie_breaking import scramble
from exeunt.trace.top_classes import LogProbability, TopClasses, arrays_of, kept_form

__all__ = [
    "check_cost",
    "checked_label",
    "checked_log_probability",
    "checked_score",
    "content_keys",
    "keeps_log_probability",
    "usual_score",
]

_SINGLE, _HALF = 1 << 26, 1 << 28  # 256 and 512 MB


def check_cost(cost: Any, n: int, m: int) -> None:
    """Raise InputError unless this is a CostModel of n inputs, or of any, at m exits."""
    if not isinstance(cost, CostModel):
        raise InputError(f"cost must be a CostModel, got {cost!r}: write exeunt.CostModel({cost!r})")
    if m != cost.n_exits:
        raise InputError(f"the trace has {counted(m, 'exit')} but the costs are of {cost.n_exits}: {cost}")
    if cost.varies and cost.per_input is None and n > 0:
        raise InputError(
            f"inputs differ in what they cost, and the trace needs a row for each, got means: {cost}"
        )
    if len(rows := cost.of_inputs(n)) != n:
        raise InputError(f"the trace has {counted(n, 'input')} but the costs are of {len(rows)}")


def checked_score(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """Return a score of this shape (n, m), without NaN."""
    score = _arrays.floats(value, f"score {name!r}", ndim=2)
    if score.shape != shape:
        raise InputError(f"score {name!r} has shape {score.shape} but prediction has {shape}")
    return score


def checked_label(label: ArrayLike, n: int, n_classes: int | None = None) -> Integers:
    """Return n labels of 0 or above, and below the number of classes if that is known."""
    values = _arrays.integers(label, "label", ndim=1)
    _arrays.check_length(values, "label", n)
    too_high = n_classes is not None and values >= n_classes
    bad = (values < 0) | too_high
    if np.any(bad):
        row = int(np.argmax(bad))
        allowed = "0 or above" if n_classes is None else f"0 to {n_classes - 1}"
        raise InputError(f"labels must be {allowed}, got {values[row]} at row {row}")
    return values


def checked_log_probability(value: ArrayLike | TopClasses, shape: tuple[int, ...]) -> LogProbability | None:
    """Return log-probabilities (n, m, k) of this many inputs and exits, which are 0 or below, as a trace keeps them.

    Of more than 256 classes the likeliest 32 are kept. Up to 2^26 numbers are kept in single precision, up to 2^28 in
    half precision, more (None) not at all.
    """
    logs = kept_form(value)
    if len(logs.shape) != 3 or logs.shape[:2] != shape or logs.shape[2] == 0:
        raise InputError(f"log_probability must have shape {(*shape, 'k')}, got {logs.shape}")
    if not keeps_log_probability(logs.size):
        return None
    if logs.size > _SINGLE or logs.dtype not in (np.float16, np.float32):
        logs = logs.astype(np.float32 if logs.size <= _SINGLE else np.float16)
    if not all((numbers <= 0).all() for numbers in arrays_of(logs)[:2]):
        raise InputError("log-probabilities must be 0 or below, and not NaN")
    return logs if isinstance(logs, TopClasses) else _arrays.frozen(logs)


def keeps_log_probability(size: int) -> bool:
    """Return whether a trace keeps so many log-probabilities."""
    return size <= _HALF


def content_keys(prediction: Integers, scores: Mapping[str, Floats]) -> Keys:
    """Return keys that differ between rows and between traces of different content."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (prediction, *scores.values()):
        digest.update(np.ascontiguousarray(array).data)
    base = np.frombuffer(digest.digest(), dtype=np.uint64)
    return scramble(base ^ scramble(np.arange(len(prediction), dtype=np.uint64)))


def usual_score(scores: Collection[str]) -> str:
    """Return the name of the score that presets use: "margin" (the paper's choice), else the only one."""
    if "margin" in scores:
        return "margin"
    if len(scores) == 1:
        return next(iter(scores))
    raise InputError(f"the trace has several scores and none is 'margin': choose one of {sorted(scores)}")
