"""A batch in hand: its spend is the plan, whatever the scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exeunt as ex
from exeunt.policy import allocation

WEIGHTS = st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any)


@given(st.integers(0, 60), WEIGHTS, st.integers(1, 5), st.integers(0, 10**6))
def test_the_cost_is_the_plan_within_one_input_per_exit(n, weights, values, seed):
    rng, m = np.random.default_rng(seed), len(weights)
    cost = ex.CostModel(np.cumsum(rng.uniform(0.1, 1, m)))
    scores, ids = rng.integers(0, values, (n, m)), rng.integers(0, 4 * values, n)  # inputs repeat
    trace = ex.ExitTrace.from_scores(scores, np.zeros((n, m)), cost=cost, id=ids)
    rates = np.array(weights) / sum(weights)
    exits = ex.route_batch(trace, rates)
    used, planned = cost.cumulative[exits].sum(), n * (rates @ cost.cumulative)
    assert used <= planned * (1 + 1e-9)
    assert used > planned - np.diff(cost.cumulative).sum() - 1e-9
    used = np.bincount(exits, minlength=m)
    assert (used[rates == 0] == 0).all()
    assert np.abs(used - n * rates).max(initial=0) < 1 + 1e-6


def test_the_surest_survivors_leave():
    score = np.array([[0.9, 0.1], [0.5, 0.9], [0.7, 0.5], [0.1, 0.2]])
    trace = ex.ExitTrace.from_scores(score, np.zeros((4, 2)), cost=ex.CostModel([1, 2]))
    assert ex.route_batch(trace, [0.5, 0.5]).tolist() == [0, 1, 0, 1]
    assert ex.route_batch(trace, [0.0, 1.0]).tolist() == [1, 1, 1, 1]
    assert ex.route_batch(trace, [1.0, 0.0]).tolist() == [0, 0, 0, 0]


def test_drift_cannot_hurt(parts):
    fit, _, test = parts
    rates = allocation.exponential_weights(fit.risk, fit.cost, "60%", spend="exactly")
    faded = replace(test, scores={"score": test.scores["score"] ** 3 - 5})
    np.testing.assert_array_equal(ex.route_batch(faded, rates), ex.route_batch(test, rates))


def test_order_does_not_matter_even_with_ties(make_trace):
    trace = make_trace(301, ties=True)
    order = np.random.default_rng(0).permutation(301)
    rates = [0.3, 0.3, 0.2, 0.2]
    exits = ex.route_batch(trace, rates)
    np.testing.assert_array_equal(ex.route_batch(trace.take(order), rates), exits[order])
    assert (ex.route_batch(trace, rates, seed=1) != exits).any()


@pytest.mark.parametrize(
    ("rates", "options", "shown"),
    [([0.5, 0.5], {}, r"\(2,\)"), ([0.5, 0.5, 0.5, 0.5], {}, "sum 2"), ([0.25] * 4, {"score": "x"}, "'x'")],
)
def test_bad_plans_are_refused_by_value(make_trace, rates, options, shown):
    with pytest.raises(ex.InputError, match=shown):
        ex.route_batch(make_trace(5), rates, **options)
