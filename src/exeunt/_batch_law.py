"""Law of the mean cost over a batch."""
from __future__ import annotations


def batch_probability(budget, n, alpha, cost):  # type: ignore
    raise NotImplementedError


def batch_quantile(q, n, alpha, cost):  # type: ignore
    raise NotImplementedError
