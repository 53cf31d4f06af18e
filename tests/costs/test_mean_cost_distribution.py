from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_distributions import distributions
from scipy import integrate, special, stats

from exeunt.costs.cost_model import CostModel
from exeunt.costs.mean_cost import MeanCostDistribution
from exeunt.errors import InputError


@pytest.mark.parametrize(("n", "unit"), [(1, 1e-6), (10, 1e15), (1000, 1.0), (10**5, 1e-6), (10**7, 1e15)])
@pytest.mark.parametrize("share", [0.0, 0.003, 0.5, 0.97, 1.0])
def test_two_exits_are_a_beta_distribution(n, share, unit):
    first = max(1, round(n * share))
    distribution = MeanCostDistribution([first, n - first], [unit, 3 * unit])
    for q in (1e-12, 1e-4, 0.05, 0.5, 0.95, 0.9999):
        budget = unit + 2 * unit * special.betaincinv(n - first + 1, first, q)
        p = special.betainc(n - first + 1, first, (budget / unit - 1) / 2)
        assert distribution.probability_within(budget) == pytest.approx(p, abs=2e-9)
        assert distribution.quantile(q) == pytest.approx(budget, rel=1e-9)


@pytest.mark.parametrize("counts", [(1, 1, 0), (3, 2, 4), (50, 30, 19), (1, 60, 0)])
def test_three_exits_against_quadrature(counts):
    cost = np.array([1.0, 2.3, 4.0])
    distribution = MeanCostDistribution(counts, cost)
    a, b, c = counts[0], counts[1], counts[2] + 1
    for budget in (1.4, 2.0, 2.3, 2.6, 3.3):

        def given_last(p, budget=budget):
            # p leave at the last exit; of the rest, a Beta(b, a) share leaves at the middle one.
            room = (budget - p * cost[2]) / (1 - p)
            return stats.beta.pdf(p, c, a + b) * stats.beta.cdf((room - cost[0]) / (cost[1] - cost[0]), b, a)

        kinks = np.clip([(budget - x) / (cost[2] - x) for x in cost[:2]], 0, 1)
        parts = [part for part in pairwise([0.0, *sorted(kinks), 1 - 1e-15]) if part[1] > part[0]]
        area = sum(integrate.quad(given_last, *part, epsabs=1e-12, limit=200)[0] for part in parts)
        assert distribution.probability_within(budget) == pytest.approx(area, abs=1e-8)


def test_shares_uniform_on_the_simplex_give_a_spline():
    # Dirichlet(1, ..., 1): P(K <= x) = 1 - sum over b_l > x of (b_l - x)^(m-1) / prod_(j != l) (b_l - b_j).
    for m in (2, 3, 5, 8):
        cost = np.cumsum(np.linspace(1, 2, m))
        distribution = MeanCostDistribution([1] * (m - 1) + [0], cost)
        apart = {b: np.prod([b - other for other in cost if other != b]) for b in cost}
        for budget in np.linspace(cost[0], cost[-1], 13)[1:-1]:
            tail = sum((b - budget) ** (m - 1) / apart[b] for b in cost if b > budget)
            assert distribution.probability_within(budget) == pytest.approx(1 - tail, abs=1e-10)


@pytest.mark.parametrize("n", [3, 200, 50_000, 10**7])
def test_nearly_all_leave_at_the_middle_of_three_exits(n):
    # Dirichlet(1, n, 1). Below the middle cost P(K <= B) is ((B - b_1) / (b_3 - b_1)) (1 + (b_2 - B) / (B - b_1))^-n
    # and above it 1 less the same from the other end.
    distribution = MeanCostDistribution([1, n, 0], [1.0, 2.0, 4.0])
    for far in (1e-6, 0.01, 0.3, 1, 4):
        step = far / n
        if step < 1:
            below = (1 - step) / 3 * math.exp(-n * math.log1p(step / (1 - step)))
            assert distribution.probability_within(2 - step) == pytest.approx(below, rel=1e-8)
        beyond = (2 - step) / 3 * math.exp(-n * math.log1p(step / (2 - step)))
        assert distribution.probability_within(2 + step) == pytest.approx(1 - beyond, rel=1e-8)


def test_draws_follow_the_distribution_and_reach_exits_in_use_alone():
    distribution, n = MeanCostDistribution([3, 0, 2, 0], [1.0, 1.5, 2.0, 3.0]), 1000
    draws = distribution.sample(n, np.random.default_rng(0))
    assert draws.shape == (n,)
    assert stats.kstest(draws, np.vectorize(distribution.probability_within)).pvalue > 1e-6
    two = MeanCostDistribution([3, 2], [1.0, 3.0]).sample(n, np.random.default_rng(1))
    assert stats.kstest((two - 1) / 2, stats.beta(3, 3).cdf).pvalue > 1e-6


def test_equal_neighbours_act_as_one_exit():
    # Costs that nearly coincide must give the distribution with their counts merged.
    split = MeanCostDistribution([10**6, 2 * 10**6, 10**6, 10**6], [1.0, 2.0, 2.0 * (1 + 1e-13), 5.0])
    merged = MeanCostDistribution([10**6, 3 * 10**6, 10**6], [1.0, 2.0, 5.0])
    for q in (1e-9, 0.3, 0.999):
        assert split.quantile(q) == pytest.approx(merged.quantile(q), rel=1e-11)


@pytest.mark.parametrize(("m", "n"), [(5, 40), (27, 1000), (100, 10**4), (100, 10**7)])
def test_against_simulation(m, n):
    rng = np.random.default_rng(m)
    counts = rng.multinomial(n, rng.dirichlet(np.full(m, 0.5)))
    distribution = MeanCostDistribution(counts, np.cumsum(rng.uniform(0.2, 3, m)))
    draws = distribution.sample(20_000, rng)
    assert draws.mean() == pytest.approx(distribution.mean, abs=5 * distribution.std / math.sqrt(20_000))
    assert draws.std() == pytest.approx(distribution.std, rel=0.05)
    for q in (0.05, 0.5, 0.95):
        # A right distribution fails one of these bounds once in 10^6 runs.
        low, high = stats.binom.ppf([5e-7, 1 - 5e-7], len(draws), q)
        assert low <= np.sum(draws <= distribution.quantile(q)) <= high


def test_sequential_thresholds_follow_the_distribution():
    rng = np.random.default_rng(3)
    counts, cost, spends = np.array([6, 9, 4]), np.array([1.0, 2.0, 4.0]), []
    for _ in range(3000):
        calibration, alive = rng.uniform(size=(19, 3)), np.ones(19, dtype=bool)
        remaining, spend = 1.0, 0.0
        for exit_ in (0, 1):
            scores = np.where(alive, calibration[:, exit_], -1)
            threshold = np.sort(scores)[-counts[exit_]]
            alive &= calibration[:, exit_] < threshold
            spend += remaining * (1 - threshold) * cost[exit_]  # scores are uniform, exits independent
            remaining *= threshold
        spends.append(spend + remaining * cost[2])
    distribution = MeanCostDistribution(counts, cost)
    for q in (0.05, 0.5, 0.95):
        low, high = stats.binom.ppf([5e-7, 1 - 5e-7], len(spends), q)
        assert low <= np.sum(np.array(spends) <= distribution.quantile(q)) <= high


@settings(max_examples=60, deadline=None)
@given(distribution=distributions(), q=st.floats(1e-6, 1 - 1e-6), other=st.floats(1e-6, 1 - 1e-6))
def test_quantile_and_probability_are_inverse_and_monotone(distribution, q, other):
    reached = distribution.cost[np.append(distribution.counts[:-1] > 0, True)]
    assert distribution.probability_within(reached[-1]) == 1
    assert distribution.probability_within(reached[0] * (1 - 1e-9)) == 0
    x, y = distribution.quantile(q), distribution.quantile(other)
    assert reached[0] <= x <= reached[-1]
    assert (q <= other) <= (x <= y)
    if len(reached) > 1 and reached[0] * (1 + 1e-9) < x < reached[-1] * (1 - 1e-9):
        assert distribution.probability_within(x) == pytest.approx(q, rel=1e-5)
    assert distribution.quantile(0) == reached[0]
    assert distribution.quantile(1) == reached[-1]


@settings(max_examples=40, deadline=None)
@given(distribution=distributions(), factor=st.sampled_from([2.0**-20, 0.5, 2.0**30]), at=st.floats(0, 1))
def test_the_unit_of_cost_does_not_matter(distribution, factor, at):
    scaled = MeanCostDistribution(distribution.counts, distribution.cost * factor)
    budget = distribution.cost[0] + at * (distribution.cost[-1] - distribution.cost[0])
    p = distribution.probability_within(budget)
    assert scaled.probability_within(budget * factor) == pytest.approx(p, abs=1e-12)
    assert scaled.mean == pytest.approx(distribution.mean * factor, rel=1e-14)


@settings(max_examples=40, deadline=None)
@given(distribution=distributions(), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_larger_budget_is_never_less_likely(distribution, low, high):
    low, high = sorted((low, high))
    span = distribution.cost[-1] - distribution.cost[0]
    p, q = (distribution.probability_within(distribution.cost[0] + at * span) for at in (low, high))
    assert p <= q + 1e-12


def test_moments_and_edges():
    distribution = MeanCostDistribution([2, 0, 1], CostModel([1.0, 2.0, 4.0]))
    assert distribution.mean == pytest.approx((2 * 1 + 1 * 4 + 4) / 4)
    np.testing.assert_allclose(distribution.mean_shares, [0.5, 0, 0.5])
    assert distribution.std == pytest.approx(3 * stats.beta(2, 2).std())
    nothing = MeanCostDistribution([0, 0], [1.0, 2.0])  # without calibration everything runs to the end
    assert (nothing.mean, nothing.quantile(0.2), nothing.std) == (2.0, 2.0, 0.0)
    assert (nothing.probability_within(2.0), nothing.probability_within(1.99)) == (1.0, 0.0)
    assert nothing.batch_quantile(0.5, 10) == 2.0
    assert MeanCostDistribution([7], [3.0]).probability_within(0.1 + 0.2 + 2.7) == 1.0
    assert MeanCostDistribution([10**15, 0], [1.0, 2.0]).n_calibration == 10**15
    assert distribution != MeanCostDistribution([2, 0, 1], [1.0, 2.0, 4.0])
    with pytest.raises(AttributeError):
        distribution.counts = np.zeros(3)
    with pytest.raises(ValueError, match="read-only"):
        distribution.counts[0] = 5


def made(counts, cost=(1.0, 2.0)):
    return MeanCostDistribution(counts, cost)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: made([1, -2]), "-2"),
        (lambda: made([0, 2 * 10**15]), r"got 2e\+15"),
        (lambda: made([10**15, 1]), r"got 1e\+15"),
        (lambda: made([0.5, 0.5]), "^counts .* whole"),
        (lambda: made([1, np.nan]), "^counts has 1 NaN"),
        (lambda: made([1, 2, 3]), r"^counts .*\(2,\)"),
        (lambda: made([1, 2], [2.0, 1.0]), "increasing"),
        (lambda: made([1, 2]).quantile(1.2), "^q .* got 1.2"),
        (lambda: made([1, 2]).probability_within(math.nan), "^budget .*finite"),
        (lambda: made([1, 2]).batch_quantile(-0.1, 5), "^q .* got -0.1"),
        (lambda: made([1, 2]).batch_quantile(0.1, 0), "at least 1"),
        (lambda: made([1, 2]).batch_probability_within(1.5, 2.5), "^n_inputs .* whole"),
    ],
)
def test_mistakes_are_named(call, named):
    with pytest.raises(InputError, match=named):
        call()
