from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exeunt.policy.allocation_search import (
    RatePath,
    ascend,
    common_threshold_path,
    mean_of_paths,
    objective,
    price_path,
    shares,
)


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


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), m=st.integers(1, 6), p=st.integers(0, 5), share=st.floats(0, 1))
def test_any_budget_is_met_exactly(seed, m, p, share):
    rng = np.random.default_rng(seed)
    cost = np.cumsum(rng.uniform(0.1, 1, m))
    rates = rng.dirichlet(np.ones(m), p) if p else np.empty((0, m))
    budget = cost[0] + share * (cost[-1] - cost[0])
    path, straight = RatePath.through(rates, cost), RatePath.through(np.empty((0, m)), cost)
    for given_rates in (path(budget), mean_of_paths([path, straight], budget)):
        assert given_rates @ cost == pytest.approx(budget, rel=1e-9)
        assert (given_rates >= 0).all()
        assert given_rates.sum() == pytest.approx(1)


def test_its_own_rates_come_back():
    cost, rates = np.array([1.0, 2.0, 4.0]), np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    path = RatePath.through(rates, cost)
    for row in rates:
        assert path(row @ cost) == pytest.approx(row)


def test_shares_count_the_first_exit_that_lets_go():
    leaves = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]], dtype=bool)
    assert shares(leaves) == pytest.approx([0.25, 0.25, 0.5])


def test_a_common_threshold_on_perfect_order_is_found_by_the_path():
    score = np.array([[0.9, 0.95, 1.0], [0.1, 0.8, 1.0], [0.2, 0.3, 1.0]])
    cost = np.array([1.0, 2.0, 3.0])
    # Threshold 0.8: one leaves at each exit.
    assert common_threshold_path(score, cost)(2.0) == pytest.approx([1 / 3, 1 / 3, 1 / 3])
