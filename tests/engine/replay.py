"""What a policy makes of recorded logits, row by row: the answers that the loop must give, however it is run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from exeunt.score.confidence import Evidence, softmax

CERTAIN = 1 - 1e-12


@dataclass(frozen=True)
class MeanScore:
    """The mean margin of the exits so far. If `strict` it raises at exit 1 for a row that is `certain` there."""

    strict: bool = True
    name: str = "mean"
    remembers: ClassVar[bool] = True

    def init(self, n):
        return {"sum": np.zeros(n)}

    def __call__(self, exit_, evidence, memory):
        if self.strict and exit_ == 1 and (evidence["margin"] > CERTAIN).any():
            raise ValueError("the score does not take this row")
        total = memory["sum"] + evidence["margin"]
        return total / (exit_ + 1), {"sum": total}


@dataclass
class Replay:
    """What comes of each row (n,). `reach`: the last exit whose logits were asked for, -1 for none.

    `nearest`: least distance on its way of its score to a threshold, and of its class to another one where it answers;
    at every exit, if the score remembers.
    """

    exit: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    cost: np.ndarray
    reach: np.ndarray
    nearest: np.ndarray


def replayed(policy, logits, id_, finite, segments) -> Replay:
    """Ask the policy about every row at every exit, whether it has answered or not; its first "leave" counts.

    `finite` (n,): whether the row's input is. `segments`: a row pays for all of the segments that it enters.
    """
    n, m = logits.shape[:2]
    if isinstance(policy.score, MeanScore):
        policy = replace(policy, score=MeanScore(strict=False))
    found = Replay(
        exit=np.full(n, -1), label=np.full(n, -1), confidence=np.full(n, np.nan), cost=np.zeros(n),
        reach=np.full(n, -1), nearest=np.full(n, np.inf),
    )  # fmt: skip
    alive, state = finite.copy(), policy.init(n, id=id_)
    exact = getattr(policy.score, "in_steps", False)
    for exit_ in np.flatnonzero(policy.needs):
        evidence, whole = shown(logits[:, exit_])
        leave, score, answer, state = policy.decide(exit_, evidence, state)
        limit = policy.thresholds[exit_]
        found.reach[alive] = exit_
        (end,) = (last for first, last in segments if first <= exit_ <= last)
        found.cost[alive] = policy.cost.cumulative[end]
        alive &= whole
        if exit_ < m - 1 and np.isfinite(limit) and not exact:
            found.nearest[alive] = np.minimum(found.nearest, abs(score - limit))[alive]
        now = alive & leave
        shows = alive if policy.score.remembers else now
        found.nearest[shows] = np.minimum(found.nearest, answer["margin"])[shows]
        found.exit[now], found.label[now] = exit_, answer["prediction"][now]
        found.confidence[now] = answer["max_probability"][now]
        alive &= ~leave
    return found


def shown(logits):
    """Return (evidence of logits (n, k), which rows are finite). Those that are not count as 0."""
    whole = np.isfinite(logits).all(axis=1)
    return Evidence(softmax(np.where(whole[:, None], logits, 0).astype(np.float64))), whole


def certain(logits):
    """Return whether the margin of logits (n, k) is all but 1."""
    evidence, whole = shown(logits)
    return whole & (evidence["margin"] > CERTAIN)
