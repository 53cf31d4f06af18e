"""The score that an option names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exeunt.policy import score_matrix
from exeunt.score.confidence import NamedScore

if TYPE_CHECKING:
    from exeunt._arrays import Floats
    from exeunt.score.kinds import Score
    from exeunt.trace import ExitTrace

__all__ = ["chosen_score", "chosen_scores"]


def chosen_score(score: str | Score | None, trace: ExitTrace) -> Score:
    """Return the score of this name, by default the trace's own; a score object is returned as it is."""
    if score is None:
        return NamedScore(trace.default_score)
    return NamedScore(score) if isinstance(score, str) else score


def chosen_scores(score: str | Score | None, trace: ExitTrace) -> Floats:
    """Return the scores (n, m) of the option on a trace."""
    return score_matrix(chosen_score(score, trace), trace)
