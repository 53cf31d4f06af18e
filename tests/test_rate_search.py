from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exeunt.rate_search import ascend, objective, price_path


def _random(seed, n, m, ties):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 4, (n, m)).astype(float) if ties else rng.uniform(size=(n, m))
    return score, rng.integers(0, 2, (n, m)).astype(float)


def _never(m):
    return np.array([np.inf] * (m - 1) + [-np.inf])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), ties=st.booleans())
def test_two_exits_are_solved_exactly(seed, n, ties):
    score, correct = _random(seed, n, 2, ties)
    value = correct - 0.3 * np.array([0.4, 1.0])
    found, reached = ascend(score, np.argsort(-score, axis=0), value, _never(2))
    best = max(objective(score, value, np.array([t, -np.inf])) for t in [np.inf, *score[:, 0].tolist()])
    assert reached == pytest.approx(best)
    assert objective(score, value, found) == reached


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_no_single_threshold_can_improve_what_was_found(seed, ties):
    score, correct = _random(seed, 15, 4, ties)
    value = correct - 0.5 * np.linspace(0.2, 1, 4)
    found, reached = ascend(score, np.argsort(-score, axis=0), value, _never(4), sweeps=50)
    for exit_ in range(3):
        for candidate in [np.inf, *score[:, exit_]]:
            changed = found.copy()
            changed[exit_] = candidate
            assert objective(score, value, changed) <= reached + 1e-9


def test_it_comes_close_to_the_best_of_all_thresholds():
    gaps = []
    for seed in range(10):
        score, correct = _random(seed, 10, 3, False)
        value = correct - 0.4 * np.array([0.3, 0.6, 1.0])
        _, reached = ascend(score, np.argsort(-score, axis=0), value, _never(3), sweeps=50)
        every = itertools.product([np.inf, *score[:, 0]], [np.inf, *score[:, 1]])
        best = max(objective(score, value, np.array([a, b, -np.inf])) for a, b in every)
        assert reached <= best + 1e-12
        gaps.append(best - reached)
    assert np.mean(gaps) < 0.05


def test_infinite_and_constant_scores_do_no_harm():
    constant = np.zeros((20, 3))
    correct = np.tile([0.0, 0.0, 1.0], (20, 1))
    rates = price_path(constant, correct, np.array([1.0, 2.0, 3.0]))(3.0)
    assert rates == pytest.approx([0, 0, 1])
