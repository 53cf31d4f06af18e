from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exeunt.rate_search import RatePath, common_threshold_path, mean_of_paths, shares


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), m=st.integers(1, 6), p=st.integers(0, 5), share=st.floats(0, 1))
def test_any_budget_is_met_exactly(seed, m, p, share):
    rng = np.random.default_rng(seed)
    cost = np.cumsum(rng.uniform(0.1, 1, m))
    rates = rng.dirichlet(np.ones(m), p) if p else np.empty((0, m))
    budget = cost[0] + share * (cost[-1] - cost[0])
    path = RatePath.through(rates, cost)
    for given_rates in (
        path(budget),
        mean_of_paths([path, RatePath.through(np.empty((0, m)), cost)], budget),
    ):
        assert given_rates @ cost == pytest.approx(budget, rel=1e-9)
        assert (given_rates >= 0).all()
        assert given_rates.sum() == pytest.approx(1)


def test_its_own_rates_come_back():
    cost, rates = np.array([1.0, 2.0, 4.0]), np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    path = RatePath.through(rates, cost)
    for row in rates:
        assert path(row @ cost) == pytest.approx(row)


def test_shares_count_the_first_exit_that_lets_go():
    leaves = np.array(
        [[True, True, False], [False, True, False], [False, False, False], [False, False, True]]
    )
    assert shares(leaves) == pytest.approx([0.25, 0.25, 0.5])


def test_a_common_threshold_on_perfect_order_is_found_by_the_path():
    score = np.array([[0.9, 0.95, 1.0], [0.1, 0.8, 1.0], [0.2, 0.3, 1.0]])
    cost = np.array([1.0, 2.0, 3.0])
    # Threshold 0.8: one leaves at each exit.
    assert common_threshold_path(score, cost)(2.0) == pytest.approx([1 / 3, 1 / 3, 1 / 3])
