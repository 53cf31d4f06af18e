"""Exit shares met inside a batch: each exit releases its surest inputs, so the budget holds under drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from exeunt._arrays import Floats, Integers
from exeunt.calibration import checked_rates, exits_under, last_exit, planned_counts, sequential_thresholds
from exeunt.score.tie_breaking import distinct_tie_breaks
from exeunt.trace import ExitTrace
from exeunt.trace.scoring import score_matrix

if TYPE_CHECKING:
    from exeunt.score.kinds import Score

__all__ = ["release_batch", "route_batch"]


def route_batch(
    trace: ExitTrace, rates: ArrayLike, *, score: str | Score | None = None, seed: int = 0
) -> Integers:
    """Return the exit (n,) of each input of a whole batch, with the planned shares met inside the batch.

    `rates` (m,): shares of the batch per exit. `score`: by default "margin", or the trace's only score.
    The spend never exceeds that of the rates and falls short by at most one input per exit. No calibration
    set is needed and no drift can hurt, but an answer depends on the batch that the input came in.
    """
    return release_batch(score_matrix(score, trace), distinct_tie_breaks(trace.id, seed), rates)


def release_batch(scores: Floats, ties: Floats, rates: ArrayLike) -> Integers:
    """Return the exit (n,) of each input of a batch with scores (n, m), equal ones in order of `ties` (n,)."""
    shares = checked_rates(rates, scores.shape[1])
    last = last_exit(shares)
    limits = sequential_thresholds(scores, ties, planned_counts(shares, len(scores)), last)
    return exits_under(scores, ties, limits)
