"""Traces whose truth is known."""

from __future__ import annotations

from functools import cache

import numpy as np

import exeunt as ex


def trace(n=600, m=4, seed=0, k=5, classes=None):
    """Inputs of varying difficulty; an exit is right if its skill beats the difficulty, and knows it roughly."""
    rng = np.random.default_rng(seed)
    difficulty = rng.uniform(size=n)
    label = rng.integers(0, k, n)
    skill = np.linspace(0.45, 0.95, m) if m > 1 else np.array([0.9])
    logits = np.zeros((n, m, k))
    for exit_ in range(m):
        edge = 6 * (skill[exit_] - difficulty) + rng.normal(0, 1.0, n)
        logits[:, exit_] = rng.normal(0, 0.5, (n, k))
        logits[np.arange(n), exit_, label] += edge
    cost = ex.CostModel(np.cumsum(np.linspace(1, 2, m)), unit="MMACs")
    ids = np.arange(n, dtype=np.uint64) + np.uint64(seed * 1_000_000)
    return ex.ExitTrace.from_logits(logits, cost=cost, label=label, id=ids)


def parts(n=1200, m=4, seed=0):
    """Return fit, calibrate, test."""
    return trace(n, m, seed).split(fit=0.4, calibrate=0.3, test=0.3, seed=seed)


kept_parts = cache(parts)
"""The same parts each time: what is learned on them is kept from test to test."""
