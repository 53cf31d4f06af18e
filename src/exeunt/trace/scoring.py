"""What a score says of recorded outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exeunt._arrays import Floats
from exeunt.errors import InputError
from exeunt.score.confidence import NamedScore

if TYPE_CHECKING:
    from exeunt.score.kinds import Score
    from exeunt.trace.exit_trace import ExitTrace

__all__ = ["as_score", "inverted_exits", "score_matrix"]

_FEW = 10  # right or wrong predictions, below which nothing is said of an exit


def as_score(score: str | Score | None, trace: ExitTrace) -> Score:
    """Return the score of this name, or by default the trace's own; a score object is returned as it is.

    Raises InputError for a name that the trace lacks.
    """
    if score is None:
        return NamedScore(trace.default_score)
    if isinstance(score, str):
        if score not in trace.scores:
            raise InputError(f"there is no score {score!r} in this trace; it has {sorted(trace.scores)}")
        return NamedScore(score)
    if not (callable(score) and hasattr(score, "init")):
        raise InputError(
            f"score must be a name, an object like exeunt.score.kinds.Score, or None, got {score!r}"
        )
    return score


def score_matrix(score: str | Score | None, trace: ExitTrace) -> Floats:
    """Return the scores (n, m) that a policy would see if every input ran to the end; `score` as in `as_score`."""
    rule = as_score(score, trace)
    columns, memory = [], rule.init(trace.n)
    for exit_ in range(trace.n_exits):
        column, memory = rule(exit_, trace.evidence(exit_), memory)
        columns.append(column)
    # Exits are walked one after the other, so each one's scores are kept together in memory.
    return np.stack(columns).astype(np.float64, copy=False).T


def inverted_exits(trace: ExitTrace, name: str) -> list[int]:
    """Return the exits whose score of this name is lower where they are right than where they are wrong.

    Most likely it is an uncertainty there, such as an entropy: no policy can mend that. Needs labels.
    """
    from scipy.stats import rankdata

    ranks, correct = rankdata(trace.scores[name], axis=0), trace.correct
    found = []
    for exit_ in range(trace.n_exits):
        right, wrong = (ranks[correct[:, exit_] == is_right, exit_] for is_right in (True, False))
        if min(len(right), len(wrong)) >= _FEW and right.mean() < wrong.mean() - 0.1 * trace.n:
            found.append(exit_)
    return found
