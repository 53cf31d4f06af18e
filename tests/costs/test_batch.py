from __future__ import annotations

import math
import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_distributions import distributions
from scipy import stats

from exeunt.costs import mean_cost as batch
from exeunt.costs.dirichlet_tails import ULPS
from exeunt.costs.mean_cost import MeanCostDistribution


def brute_force(n_inputs, alpha, cost):
    """Every composition of T: its mean cost and probability."""
    means, weights = [], []
    for head in product(range(n_inputs + 1), repeat=len(alpha) - 1):
        if sum(head) <= n_inputs:
            counts = np.array([*head, n_inputs - sum(head)])
            ways = [math.comb(int(k + a - 1), int(k)) for k, a in zip(counts, alpha, strict=True)]
            means.append(float(counts @ cost) / n_inputs)
            weights.append(math.prod(ways))
    return np.array(means), np.array(weights) / math.comb(n_inputs + int(sum(alpha)) - 1, n_inputs)


def share_of(cost):
    return (cost - cost[0]) / (cost[-1] - cost[0])


# -- all outcomes listed ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    whole=st.booleans(),
    n_inputs=st.integers(1, 9),
    q=st.floats(0.001, 0.999),
    unit=st.sampled_from([1e-6, 1.0, 0.1, 1e9]),
)
def test_small_batches_against_all_compositions(counts, whole, n_inputs, q, unit):
    steps = np.array([1, 3, 2, 5, 4])[: len(counts)] + (0 if whole else np.pi / 50) * np.arange(len(counts))
    distribution = MeanCostDistribution(counts, np.cumsum(steps) * unit)
    means, weights = brute_force(n_inputs, distribution._alpha, distribution.cost)
    for budget in (*np.unique(means)[:: max(1, len(means) // 12)], distribution.mean):
        for asked, attained in ((budget, 1 + 1e-12), (budget * (1 - 1e-11), 1 - 1e-11)):
            within = weights[means <= budget * attained].sum()
            assert distribution.batch_probability_within(asked, n_inputs) == pytest.approx(within, abs=1e-11)
    order = np.argsort(means)
    reached = np.cumsum(weights[order])
    least = means[order][np.searchsorted(reached, q - 1e-10)]
    most = means[order][min(np.searchsorted(reached, q + 1e-10), len(means) - 1)]
    assert least * (1 - 1e-12) <= distribution.batch_quantile(q, n_inputs) <= most * (1 + 1e-12)


def test_one_further_input_leaves_by_the_expected_shares():
    distribution = MeanCostDistribution([30, 0, 50, 19], [1.0, 2.0, 3.0, 7.0])
    for budget, p in zip(distribution.cost, np.cumsum(distribution.mean_shares), strict=True):
        assert distribution.batch_probability_within(budget, 1) == pytest.approx(p, abs=1e-12)
    assert [distribution.batch_quantile(q, 1) for q in (0.2, 0.7, 0.9)] == [1.0, 3.0, 7.0]
    # A quantile that is attained exactly, up to rounding, is not passed.
    for first in range(1, 99):
        assert MeanCostDistribution([first, 98 - first], [1.0, 2.0]).batch_quantile(first / 99, 1) == 1.0


@pytest.mark.parametrize("n_inputs", [7, 1000, 30_000])
@pytest.mark.parametrize("counts", [(3, 5), (700, 300), (1, 0), (60_000, 40_000)])
def test_two_exits_are_a_beta_binomial_distribution(n_inputs, counts):
    distribution = MeanCostDistribution(counts, [0.1, 0.7])
    late = np.arange(n_inputs + 1)
    exact = np.cumsum(np.exp(stats.betabinom.logpmf(late, n_inputs, counts[1] + 1, counts[0])))
    for q in (0.01, 0.49, 0.99):
        k = int(np.searchsorted(exact, q))
        budget = ((n_inputs - k) * 0.1 + k * 0.7) / n_inputs
        # From 1e-12 below the attainable mean on, it is not within.
        for asked, within in ((budget, exact[k]), (budget * (1 - 1e-12), exact[k - 1] if k else 0)):
            assert distribution.batch_probability_within(asked, n_inputs) == pytest.approx(within, abs=1e-7)
        assert distribution.batch_quantile(q, n_inputs) == pytest.approx(budget, rel=1e-9)


@pytest.mark.parametrize(("counts", "n_inputs"), [((300, 500, 199), 300), ((1, 40, 0), 200), ((9, 1, 2), 90)])
def test_three_exits_against_two_steps(counts, n_inputs):
    # The last exit's count first, then the middle one's among the others.
    distribution = MeanCostDistribution(counts, [1.0, 2.0, 4.5])
    a, b, c = distribution._alpha
    last = np.arange(n_inputs + 1)
    weight = stats.betabinom.pmf(last, n_inputs, c, a + b)
    for budget in distribution.mean + distribution.std * np.array([-2.1, -0.3, 0.4, 1.7, 3.3]):
        room = np.floor((budget - 1) * n_inputs - 3.5 * last + 1e-9)
        exact = weight @ stats.betabinom.cdf(room, n_inputs - last, b, a)
        assert distribution.batch_probability_within(budget, n_inputs) == pytest.approx(exact, abs=1e-9)


def test_equal_neighbours_act_as_one_exit():
    split = MeanCostDistribution([30, 50, 10, 9], [1.0, 2.0, 2.0 * (1 + 1e-14), 5.0])
    merged = MeanCostDistribution([30, 60, 9], [1.0, 2.0, 5.0])
    for n_inputs in (20, 10**4):
        for q in (0.05, 0.5, 0.999):
            x = merged.batch_quantile(q, n_inputs) * (1 + 1e-12)
            assert split.batch_quantile(q, n_inputs) == pytest.approx(x, rel=1e-9)
            p, of_split = (one.batch_probability_within(x, n_inputs) for one in (merged, split))
            assert of_split == pytest.approx(p, abs=1e-9)


def test_outcomes_are_listed_only_where_they_are_few(monkeypatch):
    unit, alpha = np.linspace(0, 1, 3), np.array([300.0, 300, 400])
    few = batch.list_totals(1000, alpha, unit)
    assert few is not None
    assert np.all(np.diff(few[0]) >= 0)
    assert few[1][-1] == 1
    assert batch.list_totals(10**5, alpha, unit) is None
    # Next to nothing lies in the corners of the box of counts: 432 wide at each of two exits.
    assert 1e5 < len(few[0]) < 0.8 * 432**2
    # The one exit whose counts are listed is the one with the fewer.
    rare = batch.list_totals(10**9, np.array([1e12, 1.0]), np.array([0.0, 1.0]))
    assert rare is not None
    assert len(rare[0]) < 20
    # All of 11 counts are possible here; there, those of the middle.
    for n_inputs, alpha, n_listed in ((10, np.array([20.0, 30]), 11), (10**5, np.array([1e4, 3e4]), 5183)):
        monkeypatch.setattr(batch, "_MOST_LISTED", n_listed)
        assert batch.list_totals(n_inputs, alpha, unit[::2]) is not None
        monkeypatch.setattr(batch, "_MOST_LISTED", n_listed - 1)
        assert batch.list_totals(n_inputs, alpha, unit[::2]) is None


def test_a_budget_short_of_a_cost_by_the_slack_for_rounding_is_within():
    distribution, n_inputs = MeanCostDistribution([3, 4, 2], [1.0, 1.5, 2.0]), 1
    for cost, within in zip(distribution.cost, np.cumsum(distribution.mean_shares), strict=True):
        budget = cost - ULPS * cost
        assert budget + ULPS * budget == cost
        assert distribution.batch_probability_within(budget, n_inputs) == pytest.approx(within, abs=1e-12)
        assert distribution.batch_probability_within(cost - 2 * ULPS * cost, n_inputs) < within - 0.1
    # Where outcomes are too many to be listed, too.
    wide = MeanCostDistribution([1000] * 5, [1.0, 1.2, 1.5, 1.7, 2.0])
    assert batch.list_totals(10**5, wide._alpha, share_of(wide.cost)) is None
    assert wide.batch_probability_within(2 - ULPS * 2, 10**5) == 1
    # And where half of such batches cost that.
    late = MeanCostDistribution([1] * 39 + [10**4], np.linspace(1, 2, 40))
    assert batch.list_totals(100, late._alpha, share_of(late.cost)) is None
    assert late.batch_probability_within(2 - ULPS * 2, 100) == 1


def test_a_list_takes_memory_for_what_it_lists_alone():
    alpha = np.array([1e12, 1e12])
    tracemalloc.start()
    try:
        totals, _ = batch.list_totals(2 * 10**7, alpha, np.array([0.0, 1.0]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Of 10^7 leave at each, give or take some thousands.
    assert 1e4 < len(totals) < 1e5
    assert peak < 200 * len(totals)


# -- three moments matched --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [(2, 3, 1), (1, 1), (9, 1, 4)])
@pytest.mark.parametrize("n_inputs", [2, 5, 12])
def test_three_moments_are_those_of_the_batch(alpha, n_inputs):
    alpha, cost = np.array(alpha, dtype=float), np.array([0.0, 0.3, 1.0])[-len(alpha) :]
    means, weights = brute_force(n_inputs, alpha, cost)
    share = alpha / alpha.sum()
    off = cost - share @ cost
    concentration, scale = batch._matched(n_inputs, float(alpha.sum()))
    second = scale**2 * float(share @ off**2) / (concentration + 1)
    third = 2 * scale**3 * float(share @ off**3) / (concentration + 1) / (concentration + 2)
    total = n_inputs * (means - weights @ means)
    assert second == pytest.approx(float(weights @ total**2), rel=1e-10)
    assert third == pytest.approx(float(weights @ total**3), rel=1e-9, abs=1e-12)


def shapes(m):
    """Calibration counts and costs of m exits: even, one exit that takes most, exits hardly used."""
    rng = np.random.default_rng(m)
    even = rng.dirichlet(np.full(m, 5.0))
    first, rare = np.full(m, 0.1 / (m - 1)), np.full(m, 1e-5)
    first[0], rare[:2] = 0.9, 0.5
    for steps in (np.ones(m), rng.uniform(0.5, 2, m), 1.5 ** np.arange(m)):
        for p in (even, first, first[::-1], rare):
            for n in (50, 10**5):
                yield MeanCostDistribution(rng.multinomial(n, p / p.sum()) + 1, np.cumsum(steps))


SLOW_SIZES = [pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((3, 1000), (5, 40))]


@pytest.mark.parametrize(("m", "n_inputs"), [(2, 10**4), (4, 110), (10, 9), *SLOW_SIZES])
def test_matched_batches_err_by_half_an_input_to_the_safe_side(m, n_inputs):
    """Two of six quantiles for each distribution."""
    compared = 0
    for number, distribution in enumerate(shapes(m)):
        alpha, share = distribution._alpha, share_of(distribution._reached)
        listed = batch.list_totals(n_inputs, alpha, share)
        if listed is None:
            continue
        compared += 1
        totals, reached = listed
        for q in (0.5, 0.9, 0.95, 0.99, 0.999, 0.9999)[number % 3 :: 3]:
            at = int(np.searchsorted(reached, q))
            error = batch.matched_quantile(q, n_inputs, alpha, share) - totals[at]
            assert -1e-9 <= error <= 1.25
            # The attainable total, and just below it.
            for total, within in ((totals[at], reached[at]), (totals[at] - 1e-9, reached[at - 1])):
                if at or total == totals[at]:
                    assert batch.matched_probability(total, n_inputs, alpha, share) <= within + 2e-4
    assert compared > 8


@pytest.mark.parametrize(("m", "n", "n_inputs"), [(3, 1000, 50_000), (6, 10, 300), (12, 50, 10**6)])
def test_probability_and_quantile_of_matched_batches_are_inverse(m, n, n_inputs):
    distribution = MeanCostDistribution([n] * m, np.cumsum(np.linspace(1, 1.7, m)))
    for q in (1e-6, 0.05, 0.5, 0.9, 1 - 1e-6):
        x = distribution.batch_quantile(q, n_inputs)
        assert distribution.batch_probability_within(x, n_inputs) == pytest.approx(q, rel=1e-6)


def test_where_hardly_anything_leaves_late_a_quantile_is_next_to_the_first_exit():
    # Of 100 inputs all leave at the first of 40 exits with probability 0.96: too many outcomes for a list.
    alpha, unit = np.array([1e5] + [1.0] * 39), np.linspace(0, 1, 40)
    assert batch.list_totals(100, alpha, unit) is None
    assert 0 <= batch.matched_quantile(0.5, 100, alpha, unit) <= 0.5


@pytest.mark.parametrize(
    ("m", "n", "n_inputs"), [(3, 1000, 50_000), (10, 1000, 99), (6, 10, 300), (9, 50, 30)]
)
@pytest.mark.parametrize("lattice", [True, False])
def test_batches_against_simulation(m, n, n_inputs, lattice):
    rng = np.random.default_rng(m)
    counts = rng.multinomial(n, rng.dirichlet(np.full(m, 2.0)))
    cost = 1 + np.cumsum(rng.integers(1, 4, m) if lattice else rng.uniform(0.5, 1, m))
    distribution = MeanCostDistribution(counts, cost)
    drawn = rng.multinomial(n_inputs, rng.dirichlet(distribution._alpha, size=20_000))
    means = drawn @ distribution._reached / n_inputs
    input_ = (distribution._reached[-1] - distribution._reached[0]) / n_inputs
    for q in (0.05, 0.5, 0.9, 0.99):
        x = distribution.batch_quantile(q, n_inputs)
        assert distribution.batch_probability_within(x, n_inputs) == pytest.approx(q, abs=1e-6)
        # A right distribution fails one of these bounds once in 10^6 runs: at least q within x, no more an input lower.
        low, high = stats.binom.ppf([5e-7, 1 - 5e-7], len(means), q)
        assert np.sum(means <= x * (1 + 1e-12)) >= low
        assert np.sum(means <= x - input_) <= high


@pytest.mark.parametrize(("m", "n"), [(2, 1), (2, 10**4), (3, 50), (7, 1), (7, 10**4), (30, 50)])
def test_huge_batches_tend_to_the_long_run(m, n):
    distribution = MeanCostDistribution([n] * m, np.cumsum(np.linspace(1, 1.7, m)))
    for q in (0.001, 0.05, 0.9, 0.9999):
        for n_inputs in (10**9, 10**15):
            relative = 3 * (distribution.n_calibration + 1) / n_inputs + 1e-6
            half = float(distribution.cost[-1] - distribution.cost[0]) / (2 * n_inputs)
            x, long_run = distribution.batch_quantile(q, n_inputs), distribution.quantile(q)
            assert x - half == pytest.approx(long_run, abs=relative * distribution.std)
            for budget, error in ((x, 1e-6), (long_run, relative)):
                assert distribution.batch_probability_within(budget, n_inputs) == pytest.approx(q, abs=error)


def test_a_batch_strays_less_the_longer_it_is():
    distribution = MeanCostDistribution([200, 300, 100, 399], [1.0, 2.0, 3.5, 7.0])
    lengths = (1, 3, 30, 200, 3000, 10**5, 10**7)
    spreads = [distribution.batch_quantile(0.95, t) - distribution.batch_quantile(0.05, t) for t in lengths]
    assert np.all(np.diff(spreads) < 0)
    assert spreads[-1] == pytest.approx(distribution.quantile(0.95) - distribution.quantile(0.05), rel=1e-3)


# -- both -------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    distribution=distributions(most_exits=6),
    n_inputs=st.one_of(st.integers(1, 60), st.integers(10**4, 10**12)),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
    q=st.floats(1e-6, 1 - 1e-6),
)
def test_batch_probability_and_quantile_are_monotone_and_bounded(distribution, n_inputs, low, high, q):
    low, high = sorted((low, high))
    first, last = distribution.cost[[0, -1]]
    asked = (first * 0.999, first + low * (last - first), first + high * (last - first), last)
    none, p, r, all_ = (distribution.batch_probability_within(budget, n_inputs) for budget in asked)
    assert (none, all_) == (0, 1)
    assert 0 <= p <= r + 1e-9 <= 1 + 1e-9
    reached = distribution.cost[np.append(distribution.counts[:-1] > 0, True)]
    x = distribution.batch_quantile(q, n_inputs)
    assert reached[0] <= x <= reached[-1] * (1 + 1e-15)
    assert distribution.batch_probability_within(x, n_inputs) >= q - 1e-6
    assert distribution.batch_quantile(q / 2, n_inputs) <= x
    assert distribution.batch_quantile(0, n_inputs) == reached[0]
    assert distribution.batch_quantile(1, n_inputs) == reached[-1]


@settings(max_examples=20, deadline=None)
@given(
    distribution=distributions(most_exits=5),
    n_inputs=st.sampled_from([1, 11, 10**5]),
    at=st.floats(0.01, 0.99),
)
def test_the_unit_of_cost_does_not_matter_to_a_batch(distribution, n_inputs, at):
    scaled = MeanCostDistribution(distribution.counts, distribution.cost * 2.0**-20)
    budget = distribution.batch_quantile(at, n_inputs)
    assert scaled.batch_quantile(at, n_inputs) == pytest.approx(budget * 2.0**-20, rel=1e-14)
    p = distribution.batch_probability_within(budget, n_inputs)
    assert scaled.batch_probability_within(budget * 2.0**-20, n_inputs) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("counts", [(10**14, 1, 5 * 10**14, 3, 10), (10**15 - 1, 0), (1, 0), (0, 0, 1)])
@pytest.mark.parametrize("n_inputs", [1, 100, 10**9, 10**15])
def test_extreme_sizes_have_a_distribution(counts, n_inputs):
    distribution = MeanCostDistribution(counts, np.cumsum(np.arange(1.0, len(counts) + 1)))
    found = [distribution.batch_quantile(q, n_inputs) for q in (1e-9, 0.3, 0.5, 0.95, 1 - 1e-9)]
    assert distribution._reached[0] <= found[0]
    assert np.all(np.diff(found) >= 0)
    assert found[-1] <= distribution._reached[-1]
    if n_inputs == 10**15:
        long_run = [distribution.quantile(q) for q in (0.3, 0.5, 0.95)]
        assert found[1:4] == pytest.approx(long_run, abs=distribution.std + 4 / n_inputs)
