"""Costs in milliseconds: the stages and heads of an early-exit network, timed as the answering loop runs them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.scores import evidence_of, softmax

if TYPE_CHECKING:
    from exeunt.runtime import Executor

__all__ = ["measured_cost"]


def measured_cost(executor: Executor, inputs: Any, *, repeats: int = 20, warmup: int = 3) -> CostModel:
    """Return cumulative milliseconds per input (m,) when a whole batch runs to each exit, heads included.

    `inputs`: a batch of the size that will be used. Each stage's time is the median over `repeats` passes; their
    spread (10 % to 90 % of passes, whole network) is told in the model's `source`. Load on the machine counts.

    Raises InputError for an empty batch or fewer than one repeat.
    """
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}")
    n = len(executor.start(inputs)[1])
    if n == 0:
        raise InputError("timing needs a batch of at least one input")
    passes = np.array([_one_pass(executor, inputs) for _ in range(warmup + repeats)][warmup:])
    milliseconds = passes * 1e3 / n
    low, high = np.quantile(milliseconds.sum(axis=1), [0.1, 0.9])
    return CostModel(
        np.cumsum(np.median(milliseconds, axis=0)),
        unit="ms",
        source=f"timed here at batch {n}, median of {repeats} passes, whole network {low:.4g} to {high:.4g} ms",
    )


def _one_pass(executor: Executor, inputs: Any) -> list[float]:
    """Return the seconds that each exit took; what exits of one segment share counts with its first."""
    state, seconds = executor.start(inputs)[0], []
    for segment, (first, last) in enumerate(executor.segments):
        began = _now()
        logits, state = executor.run(segment, state, range(first, last + 1))
        for values in logits:
            evidence_of(softmax(np.asarray(values, dtype=np.float64)))
            seconds.append(_now() - began)
            began = _now()
    return seconds


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
