"""Shares of exits as planned, whatever the inputs: the surest of the recent rows leave, and enough at any time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exeunt._support.arrays import Booleans, Floats
from exeunt.policy import Policy
from exeunt.policy.calibration import of_those_left
from exeunt.policy.state import Decision, PolicyState

_RECENT = 256
"""Rows at an exit whose scores a row is compared with."""
_AHEAD = 16
"""Rows that may have left an exit beyond its share, so that a run of unsure ones need not leave."""


class Quota:
    """Which rows leave at exits (m,) that answer these shares of all rows.

    Of the rows that come to an exit, at least its share has left at any time. So no more rows than planned come to any
    exit, and the mean cost is at most that of the shares, whatever the scores. Rows without a score go on all the same:
    no model has answered them.
    """

    def __init__(self, shares: Floats) -> None:
        self._shares = of_those_left(shares)[1].tolist()
        self._came, self._left = [0] * len(shares), [0] * len(shares)
        self._recent = [np.empty(0)] * len(shares)

    def leave(self, exit_: int, scores: Floats, ties: Floats) -> Booleans:
        """Return which rows (n,) leave, by their scores and ties (n,), and take note of them."""
        share, scored = self._shares[exit_], scores > -math.inf
        recent = self._recent[exit_] = np.append(self._recent[exit_], scores[scored])[-_RECENT:]
        self._came[exit_] += int(scored.sum())
        least = math.ceil(share * self._came[exit_] - 1e-9) - self._left[exit_]
        surest = int((scores > np.quantile(recent, 1 - share)).sum()) if len(recent) else 0
        n = min(max(surest, least), least + _AHEAD)
        order = np.lexsort((-ties, -scores, ~scored))[: min(n, int(scored.sum()))]
        self._left[exit_] += len(order)
        leaves = np.zeros(len(scores), dtype=np.bool_)
        leaves[order] = True
        return leaves


@dataclass(frozen=True, eq=False)
class QuotaPolicy(Policy):
    """A policy whose thresholds give way to a quota."""

    quota: Quota = field(kw_only=True)

    def decide(self, exit_: int, evidence: Mapping[str, Any], state: PolicyState) -> Decision:
        """Decide as any policy does, but who leaves."""
        decision = super().decide(exit_, evidence, state)
        if exit_ == self.n_exits - 1:
            return decision
        return decision._replace(leave=self.quota.leave(exit_, decision.score, state.tie))
