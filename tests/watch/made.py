"""Policies and streams whose law is known."""

from __future__ import annotations

import numpy as np

import exeunt as ex

RATES = np.array([0.35, 0.4, 0.25])
COST = ex.CostModel([1, 2, 3])


def traced(scores, id_=None, **options):
    """A trace of exits with these scores (n, 3); every answer is right."""
    n, m = scores.shape
    answers = np.zeros((n, m), dtype=int)
    id_ = np.random.default_rng(n).integers(0, 2**62, n) if id_ is None else id_
    return ex.ExitTrace.from_scores(scores, answers, label=answers[:, 0], cost=COST, id=id_, **options)


def planned(rng, n=1000, **options):
    """A policy with the shares `RATES`, calibrated on n inputs with independent scores."""
    fit, calibrate = traced(rng.random((50, 3)), np.arange(50)), traced(rng.random((n, 3)))
    return ex.compose(
        "planned", lambda _: RATES, fit, calibrate, budget=options.pop("budget", 1.95), **options
    )


def answered(policy, scores):
    """Where inputs are answered, their scores there, and those at the first exit."""
    leaves = np.append(scores[:, :2] >= policy.thresholds[:2], np.ones((len(scores), 1), bool), axis=1)
    exits = leaves.argmax(axis=1)
    return exits, scores[np.arange(len(scores)), exits], scores[:, 0]


def fewer_at_the_first_exit(policy, scores, rng, share=0.25):
    """Scores of which fewer are above the first exit's threshold: its share falls from .35 to `share`."""
    least, scores = policy.thresholds[0], scores.copy()
    falls = (scores[:, 0] >= least) & (rng.random(len(scores)) > share / 0.35)
    scores[falls, 0] = rng.random(falls.sum()) * least
    return scores
