from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from exeunt import _batch_law
from exeunt._batch_contour import Tilted
from exeunt._batch_exact import Enumeration
from exeunt._inversion import log_tails
from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.law import SpendLaw


@st.composite
def laws(draw, most_exits=8, most_count=1000):
    m = draw(st.integers(1, most_exits))
    counts = draw(st.lists(st.integers(0, most_count), min_size=m, max_size=m))
    steps = draw(st.lists(st.floats(0.05, 5), min_size=m, max_size=m))
    unit = 10.0 ** draw(st.integers(-6, 13))
    return SpendLaw(counts, np.cumsum(steps) * unit)


# -- the endless stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 10, 1000, 10**5, 10**7])
@pytest.mark.parametrize("share", [0.0, 0.003, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e15])
def test_two_exits_are_a_beta_law(n, share, unit):
    first = max(1, round(n * share))
    law = SpendLaw([first, n - first], [unit, 3 * unit])
    beta = stats.beta(n - first + 1, first)
    for q in (1e-12, 1e-4, 0.05, 0.5, 0.95, 0.9999):
        late = float(beta.ppf(q))
        budget = unit + 2 * unit * late
        assert law.probability_within(budget) == pytest.approx(beta.cdf((budget / unit - 1) / 2), abs=2e-9)
        assert law.quantile(q) == pytest.approx(budget, rel=1e-9)


@pytest.mark.parametrize(("first", "last"), [(3, 5), (40, 2), (1, 300), (10**5, 2 * 10**4), (10**7, 10**7)])
def test_small_tails_keep_their_digits(first, last):
    # The costs 1/4 and 5/4 make the difference of budget and cost exact.
    alpha, cost = np.array([first, last], dtype=float), np.array([0.25, 1.25])
    beta = stats.beta(last, first)
    middle = last / (first + last)
    step = math.sqrt(middle * (1 - middle) / (first + last + 1))
    for far in (0.5, 3, 8, 20, 30):
        for late, exact, side in (
            (middle - far * step, beta.logcdf, 0),
            (middle + far * step, beta.logsf, 1),
        ):
            budget = 0.25 + late
            if 0 < late < 1 and -600 < exact(budget - 0.25) < -0.2:
                found = log_tails(budget, alpha, cost)[side]
                assert found == pytest.approx(exact(budget - 0.25), rel=1e-8)


@pytest.mark.parametrize("counts", [(1, 1, 0), (3, 2, 4), (50, 30, 19), (1, 60, 0)])
def test_three_exits_against_quadrature(counts):
    cost = np.array([1.0, 2.3, 4.0])
    law = SpendLaw(counts, cost)
    a, b, c = counts[0], counts[1], counts[2] + 1
    for budget in (1.4, 2.0, 2.3, 2.6, 3.3):

        def given_last(p, budget=budget):
            # p leave at the last exit; of the rest, a Beta(b, a) share leaves at the middle one.
            room = (budget - p * cost[2]) / (1 - p)
            return stats.beta.pdf(p, c, a + b) * stats.beta.cdf((room - cost[0]) / (cost[1] - cost[0]), b, a)

        edges = [(budget - x) / (cost[2] - x) for x in cost[:2]]
        kinks = [min(max(e, 0.0), 1.0) for e in edges]
        area = sum(
            integrate.quad(given_last, low, high, epsabs=1e-12, limit=200)[0]
            for low, high in zip([0.0, *sorted(kinks)], [*sorted(kinks), 1 - 1e-15], strict=True)
            if high > low
        )
        assert law.probability_within(budget) == pytest.approx(area, abs=1e-8)


def test_shares_uniform_on_the_simplex_give_a_spline():
    # Dirichlet(1, ..., 1): P(K <= x) = 1 - sum over b_l > x of (b_l - x)^(m-1) / prod_(j != l) (b_l - b_j).
    for m in (2, 3, 5, 8):
        cost = np.cumsum(np.linspace(1, 2, m))
        law = SpendLaw([1] * (m - 1) + [0], cost)
        for budget in np.linspace(cost[0], cost[-1], 13)[1:-1]:
            tail = sum(
                (b - budget) ** (m - 1) / np.prod([b - other for other in cost if other != b])
                for b in cost
                if b > budget
            )
            assert law.probability_within(budget) == pytest.approx(1 - tail, abs=1e-10)


def test_equal_neighbours_act_as_one_exit():
    # Costs that nearly coincide must give the law with their counts merged.
    split = SpendLaw([10**6, 2 * 10**6, 10**6, 10**6], [1.0, 2.0, 2.0 * (1 + 1e-13), 5.0])
    merged = SpendLaw([10**6, 3 * 10**6, 10**6], [1.0, 2.0, 5.0])
    for q in (1e-9, 0.3, 0.999):
        assert split.quantile(q) == pytest.approx(merged.quantile(q), rel=1e-11)


@pytest.mark.parametrize(("m", "n"), [(5, 40), (27, 1000), (100, 10**4), (100, 10**7)])
def test_against_simulation(m, n):
    rng = np.random.default_rng(m)
    counts = rng.multinomial(n, rng.dirichlet(np.full(m, 0.5)))
    law = SpendLaw(counts, np.cumsum(rng.uniform(0.2, 3, m)))
    draws = law.sample(20_000, rng)
    assert draws.mean() == pytest.approx(law.mean, abs=5 * law.std / math.sqrt(20_000))
    assert draws.std() == pytest.approx(law.std, rel=0.05)
    for q in (0.05, 0.5, 0.95):
        # A right law fails one of these bounds once in 10^6 runs.
        low, high = stats.binom.ppf([5e-7, 1 - 5e-7], len(draws), q)
        assert low <= np.sum(draws <= law.quantile(q)) <= high


def test_sequential_thresholds_follow_the_law():
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
    law = SpendLaw(counts, cost)
    for q in (0.05, 0.5, 0.95):
        low, high = stats.binom.ppf([5e-7, 1 - 5e-7], len(spends), q)
        assert low <= np.sum(np.array(spends) <= law.quantile(q)) <= high


@settings(max_examples=60, deadline=None)
@given(law=laws(), q=st.floats(1e-6, 1 - 1e-6), other=st.floats(1e-6, 1 - 1e-6))
def test_quantile_and_probability_are_inverse_and_monotone(law, q, other):
    reached = law.cost[np.append(law.counts[:-1] > 0, True)]
    assert law.probability_within(reached[-1]) == 1
    assert law.probability_within(reached[0] * (1 - 1e-9)) == 0
    x, y = law.quantile(q), law.quantile(other)
    assert reached[0] <= x <= reached[-1]
    assert (q <= other) <= (x <= y)
    if len(reached) > 1 and reached[0] * (1 + 1e-9) < x < reached[-1] * (1 - 1e-9):
        assert law.probability_within(x) == pytest.approx(q, rel=1e-5)
    assert law.quantile(0) == reached[0]
    assert law.quantile(1) == reached[-1]


@settings(max_examples=40, deadline=None)
@given(law=laws(), factor=st.sampled_from([2.0**-20, 0.5, 2.0**30]), at=st.floats(0, 1))
def test_the_unit_of_cost_does_not_matter(law, factor, at):
    scaled = SpendLaw(law.counts, law.cost * factor)
    budget = law.cost[0] + at * (law.cost[-1] - law.cost[0])
    assert scaled.probability_within(budget * factor) == pytest.approx(
        law.probability_within(budget), abs=1e-12
    )
    assert scaled.mean == pytest.approx(law.mean * factor, rel=1e-14)


@settings(max_examples=40, deadline=None)
@given(law=laws(), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_larger_budget_is_never_less_likely(law, low, high):
    low, high = sorted((low, high))
    span = law.cost[-1] - law.cost[0]
    p, q = (law.probability_within(law.cost[0] + at * span) for at in (low, high))
    assert p <= q + 1e-12


def test_moments_and_edges():
    law = SpendLaw([2, 0, 1], CostModel([1.0, 2.0, 4.0]))
    assert law.mean == pytest.approx((2 * 1 + 1 * 4 + 4) / 4)
    np.testing.assert_allclose(law.mean_shares, [0.5, 0, 0.5])
    assert law.std == pytest.approx(3 * stats.beta(2, 2).std())
    nothing = SpendLaw([0, 0], [1.0, 2.0])  # without calibration everything runs to the end
    assert (nothing.mean, nothing.quantile(0.2), nothing.std) == (2.0, 2.0, 0.0)
    assert (nothing.probability_within(2.0), nothing.probability_within(1.99)) == (1.0, 0.0)
    assert nothing.batch_quantile(0.5, 10) == 2.0
    assert SpendLaw([7], [3.0]).probability_within(0.1 + 0.2 + 2.7) == 1.0
    assert "counts" in repr(law)
    with pytest.raises(AttributeError):
        law.counts = np.zeros(3)
    with pytest.raises(ValueError, match="read-only"):
        law.counts[0] = 5


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: SpendLaw([1, -2], [1.0, 2.0]), "-2"),
        (lambda: SpendLaw([0.5, 0.5], [1.0, 2.0]), "whole"),
        (lambda: SpendLaw([1, np.inf], [1.0, 2.0]), "inf"),
        (lambda: SpendLaw([1, np.nan], [1.0, 2.0]), "NaN"),
        (lambda: SpendLaw([1, 2, 3], [1.0, 2.0]), r"\(2,\)"),
        (lambda: SpendLaw([1, 2], [2.0, 1.0]), "increasing"),
        (lambda: SpendLaw([1, 2], [0.0, 1.0]), "positive"),
        (lambda: SpendLaw([1, 2], [1.0, 2.0]).quantile(1.2), "1.2"),
        (lambda: SpendLaw([1, 2], [1.0, 2.0]).probability_within(math.nan), "finite"),
        (lambda: SpendLaw([1, 2], [1.0, 2.0]).batch_quantile(-0.1, 5), "-0.1"),
        (lambda: SpendLaw([1, 2], [1.0, 2.0]).batch_quantile(0.1, 0), "at least 1"),
        (lambda: SpendLaw([1, 2], [1.0, 2.0]).batch_probability_within(1.5, 2.5), "whole"),
    ],
)
def test_mistakes_are_named(call, told):
    with pytest.raises(InputError, match=told):
        call()


# -- batches ----------------------------------------------------------------------------------------------


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
    law = SpendLaw(counts, np.cumsum(steps) * unit)
    means, weights = brute_force(n_inputs, law._alpha, law.cost)
    for budget in (*np.unique(means)[:: max(1, len(means) // 12)], law.mean):
        within = weights[means <= budget * (1 + 1e-12)].sum()
        assert law.batch_probability_within(budget, n_inputs) == pytest.approx(within, abs=1e-11)
    order = np.argsort(means)
    reached = np.cumsum(weights[order])
    least = means[order][np.searchsorted(reached, q - 1e-10)]
    most = means[order][min(np.searchsorted(reached, q + 1e-10), len(means) - 1)]
    assert least * (1 - 1e-12) <= law.batch_quantile(q, n_inputs) <= most * (1 + 1e-12)


def test_one_further_input_leaves_by_the_expected_shares():
    law = SpendLaw([30, 0, 50, 19], [1.0, 2.0, 3.0, 7.0])
    reached = np.cumsum(law.mean_shares)
    for budget, p in zip(law.cost, reached, strict=True):
        assert law.batch_probability_within(budget, 1) == pytest.approx(p, abs=1e-12)
    assert [law.batch_quantile(q, 1) for q in (0.2, 0.7, 0.9)] == [1.0, 3.0, 7.0]


@pytest.mark.parametrize("n_inputs", [7, 1000, 100_000])
@pytest.mark.parametrize("counts", [(3, 5), (700, 300), (1, 0), (60_000, 40_000)])
def test_two_exits_are_a_beta_binomial_law(n_inputs, counts):
    law = SpendLaw(counts, [0.1, 0.7])
    late = np.arange(n_inputs + 1)
    exact = np.cumsum(np.exp(stats.betabinom.logpmf(late, n_inputs, counts[1] + 1, counts[0])))
    for q in (0.01, 0.49, 0.99):
        k = int(np.searchsorted(exact, q))
        budget = ((n_inputs - k) * 0.1 + k * 0.7) / n_inputs
        assert law.batch_probability_within(budget, n_inputs) == pytest.approx(exact[k], abs=1e-7)
        # From 1e-12 below the attainable mean on, it is not within.
        below = exact[k - 1] if k else 0
        assert law.batch_probability_within(budget * (1 - 1e-12), n_inputs) == pytest.approx(below, abs=1e-7)
        assert law.batch_quantile(q, n_inputs) == pytest.approx(budget, rel=1e-9)


@pytest.mark.parametrize(
    ("counts", "n_inputs"),
    [((300, 500, 200), 40), ((30, 50, 20), 900), ((300, 500, 200, 99), 300), ((9, 8, 7, 7), 80)],
)
def test_the_contour_agrees_with_the_list_on_a_lattice(counts, n_inputs):
    steps = np.array([0, 1, 3, 4])[: len(counts)]
    cost, alpha = steps / steps[-1], np.array(counts, dtype=float)
    listed, spacing = Enumeration(n_inputs, alpha, cost), 1 / steps[-1]
    for at in (0.02, 0.2, 0.35, 0.45, 0.5, 0.6, 0.9):
        total = (math.floor(at * n_inputs / spacing) + 0.5) * spacing
        found = Tilted.at(n_inputs, alpha, cost, spacing, total).probability(total)
        assert found == pytest.approx(listed.probability(total), abs=1e-9)


@pytest.mark.parametrize(("counts", "n_inputs"), [((400, 300, 200, 99), 900), ((90, 70, 90, 60, 80), 150)])
def test_the_contour_agrees_with_the_list_off_lattices(counts, n_inputs):
    cost = np.sqrt([0.0, 2, 3, 5, 7])[: len(counts)]
    cost, alpha = cost / cost[-1], np.array(counts, dtype=float)
    listed = Enumeration(n_inputs, alpha, cost)
    rng = np.random.default_rng(0)
    centre = n_inputs * float(alpha @ cost / alpha.sum())
    for total in centre * rng.uniform(0.8, 1.2, 4):
        contour = Tilted.at(n_inputs, alpha, cost, 0.0, total)
        assert abs(contour.probability(total) - listed.probability(total)) < 4 * contour.error + 1e-9


def test_costs_rounded_up_never_overstate():
    # Nearly on a lattice: the atoms are clusters, which a continuous law cannot show.
    cost, alpha, n_inputs = np.array([0, 0.3333, 0.6671, 1]), np.array([40.0, 30, 20, 10]), 50
    listed = Enumeration(n_inputs, alpha, cost)
    contour = Tilted.at(n_inputs, alpha, cost, 0.0, 17.0)
    rounded = _batch_law._rounded_up(contour, 17.0)
    for total in np.linspace(5, 30, 40):
        found = rounded.probability((math.floor(total / rounded.spacing) + 0.5) * rounded.spacing)
        assert found <= listed.probability(total) + 4 * rounded.error
        assert found >= listed.probability(total - n_inputs * rounded.spacing) - 4 * rounded.error


@pytest.mark.parametrize("ratio", [10, 25])
@pytest.mark.parametrize(
    ("alpha", "steps"), [((4, 2, 5, 1), (0, 1, 2, 3)), ((1, 1, 23), (0, 1, 4)), ((1, 1, 1), (0, 4, 5))]
)
def test_large_batches_are_corrected_to_second_order(ratio, alpha, steps):
    alpha, cost = np.array(alpha, dtype=float), np.array(steps) / steps[-1]
    n_inputs = ratio * int(alpha.sum())
    listed = Enumeration(n_inputs, alpha, cost)
    law = _batch_law._large_batch(n_inputs, alpha, cost, 1 / steps[-1])
    for at in np.linspace(0.05, 0.95, 15):
        total = law.midpoint(at * n_inputs)
        exact = listed.probability(total)
        assert exact - 1 / ratio**2 <= law.probability(total) <= exact


@pytest.mark.parametrize(
    ("m", "n", "n_inputs"), [(3, 1000, 50_000), (10, 1000, 100), (27, 1000, 1000), (6, 10, 300), (12, 50, 30)]
)
@pytest.mark.parametrize("lattice", [True, False])
def test_batches_against_simulation(m, n, n_inputs, lattice):
    rng = np.random.default_rng(m)
    counts = rng.multinomial(n, rng.dirichlet(np.full(m, 2.0)))
    cost = 1 + np.cumsum(rng.integers(1, 4, m) if lattice else rng.uniform(0.5, 1, m))
    law = SpendLaw(counts, cost)
    drawn = rng.multinomial(n_inputs, rng.dirichlet(law._alpha, size=20_000))
    means = drawn @ law._reached / n_inputs
    for q in (0.05, 0.9):
        x = law.batch_quantile(q, n_inputs)
        p = law.batch_probability_within(x, n_inputs)
        assert p >= q - 1e-7
        low, high = stats.binom.ppf([5e-7, 1 - 5e-7], len(means), p)
        inside = np.sum(means <= x * (1 + 1e-12))
        assert low <= inside
        assert inside <= high + 0.005 * len(means)  # rounding up may understate p by a little


@pytest.mark.parametrize("m", [2, 3, 7])
def test_huge_batches_tend_to_the_endless_stream(m):
    law = SpendLaw([50] * m, np.cumsum(np.linspace(1, 1.7, m)))
    for q in (0.05, 0.9):
        budget = law.quantile(q)
        assert law.batch_probability_within(budget, 3 * 10**5) == pytest.approx(q, abs=2e-3)
        assert law.batch_quantile(q, 3 * 10**5) == pytest.approx(budget, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(law=laws(most_exits=6), n_inputs=st.integers(1, 60), low=st.floats(0, 1), high=st.floats(0, 1))
def test_batch_probability_is_monotone_and_bounded(law, n_inputs, low, high):
    low, high = sorted((low, high))
    span = law.cost[-1] - law.cost[0]
    p, q = (law.batch_probability_within(law.cost[0] + at * span, n_inputs) for at in (low, high))
    assert 0 <= p <= q + 2e-6
    assert law.batch_probability_within(law.cost[-1], n_inputs) == 1
    assert law.batch_probability_within(law.cost[0] * 0.999, n_inputs) == 0
