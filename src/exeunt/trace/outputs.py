"""From class probabilities or logits of every exit to what a trace keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exeunt import _arrays
from exeunt._arrays import Floats, Integers
from exeunt.errors import InputError
from exeunt.score.confidence import LOG_PROBABILITY, PROBABILITY_SCORES, Evidence, softmax
from exeunt.trace.checks import keeps_log_probability
from exeunt.trace.top_classes import LogProbability, joined, kept_form, n_kept

__all__ = ["checked_probabilities", "columns_of_evidence", "columns_of_outputs", "probabilities_of_logits"]


def columns_of_outputs(
    outputs: ArrayLike, to_probabilities: Callable[[Any, int], Floats]
) -> tuple[Integers, dict[str, Floats], LogProbability | None, int]:
    """Return predictions (n, m), scores (n, m) by name, log-probabilities (n, m, k) if kept, and k.

    `outputs` (n, m, k); `to_probabilities` makes class probabilities of those of one exit.
    """
    values = _checked_outputs(outputs)
    n, m, k = values.shape
    said = (Evidence(to_probabilities(values[:, exit_], exit_)) for exit_ in range(m))
    return *columns_of_evidence(said, n, m), k


def columns_of_evidence(
    said: Iterable[Evidence], n: int, m: int
) -> tuple[Integers, dict[str, Floats], LogProbability | None]:
    """Return predictions (n, m), scores (n, m) by name and log-probabilities (n, m, k), if a trace keeps so many.

    `said`: the evidence of each of m exits, taken one at a time.
    """
    prediction = np.empty((n, m), dtype=np.int64)
    scores = {name: np.empty((n, m)) for name in PROBABILITY_SCORES}
    logs = []
    for exit_, shown in enumerate(said):
        prediction[:, exit_] = shown["prediction"]
        for name, score in scores.items():
            score[:, exit_] = shown[name]
        if keeps_log_probability(n_kept(n * m, shown.probabilities.shape[1])):
            logs.append(kept_form(shown[LOG_PROBABILITY].astype(np.float32)[:, None]))
    return prediction, scores, joined(logs, axis=1) if logs else None


def _checked_outputs(outputs: ArrayLike) -> NDArray[Any]:
    """Return outputs as an array (n, m, k) of at least one class."""
    try:
        values = np.asarray(outputs)
    except ValueError as error:
        raise InputError(f"outputs must be a regular array (inputs, exits, classes): {error}") from error
    if values.ndim != 3 or values.shape[2] == 0:
        raise InputError(f"outputs must have shape (inputs, exits, classes), got {values.shape}")
    return values


def checked_probabilities(values: Any, exit_: int) -> Floats:
    """Return the class probabilities (n, k) of one exit: 0 or above, in rows that sum to 1 (to 1e-3)."""
    probabilities = _arrays.floats(values, f"probabilities of exit {exit_}", ndim=2)
    total = probabilities.sum(axis=1)
    bad = (np.abs(total - 1) > 1e-3) | (probabilities < 0).any(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"probabilities must be 0 or above and sum to 1, but input {row} at exit {exit_} sums to "
            f"{total[row]:g} (lowest {probabilities[row].min():g}); for logits use ExitTrace.from_logits"
        )
    return probabilities


def probabilities_of_logits(values: Any, exit_: int) -> Floats:
    """Return the softmax (n, k) of one exit's logits, which must be finite."""
    logits = _arrays.floats(values, f"logits of exit {exit_}", ndim=2)
    if not np.isfinite(logits).all():
        row = int(np.argmax(~np.isfinite(logits).all(axis=1)))
        raise InputError(f"logits must be finite, got infinity for input {row} at exit {exit_}")
    return softmax(logits)
