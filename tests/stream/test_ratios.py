"""Means per request over drawn units: the ratio and its interval against slow formulas, and how often it covers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm, t

from exeunt.stream.ratios import FEWEST, LOSSES, RatioSums

UNITS = st.lists(
    st.tuples(st.floats(-20, 20), st.integers(1, 20), st.sampled_from([0.05, 0.2, 1.0])), min_size=10, max_size=40
)  # fmt: skip


def sums_of(units):
    sums = RatioSums()
    for x, y, probability in units:
        sums.add(x, y, probability)
    return sums


def slow_ratio(units, extremes=()):
    """Return the ratio and its t interval, of units one by one; further ones are of mean size.

    The variance of the ratio is sum(h_i^2 v) for shares h and units' means of equal variance v, and that of a residual
    is v (1 - 2 h_i + sum(h^2)): what the squares are divided by is their expectation over what they estimate.
    """
    weighed = [(x / p, y / p) for x, y, p in units]
    mean = sum(x for x, _ in weighed) / sum(y for _, y in weighed)
    size = sum(y for _, y in weighed) / len(weighed)
    with_more = [*weighed, *((size * extreme, size) for extreme in extremes)]
    total = sum(y for _, y in with_more)
    shares = np.array([y / total for _, y in with_more])
    of_residual = np.eye(len(shares)) - shares  # each unit's mean less the weighted mean of all
    expected = shares**2 @ (of_residual**2).sum(axis=1) / (shares**2).sum()
    centre = sum(x for x, _ in with_more) / total
    spread = math.sqrt(sum((x - mean * y) ** 2 for x, y in with_more) / expected) / total
    of_squares = of_residual.T @ np.diag(shares**2) @ of_residual
    freedom = np.trace(of_squares) ** 2 / np.trace(of_squares @ of_squares)
    half = t.ppf(0.975, max(freedom, 1)) * spread
    low, high = min(centre - half, mean), max(centre + half, mean)
    return mean, max(low, min(extremes, default=low)), min(high, max(extremes, default=high))


@given(units=UNITS, extremes=st.sampled_from([(), (-1.0, 1.0), (-20.0, 5.0)]))
def test_ratio_and_interval_are_those_of_a_loop(units, extremes):
    if extremes:
        units = [(float(np.clip(x, y * extremes[0], y * extremes[1])), y, p) for x, y, p in units]
    found = sums_of(units).ratio(extremes)
    assert found == pytest.approx(slow_ratio(units, extremes), rel=1e-6, abs=1e-5)
    mean, low, high = found
    assert low <= mean <= high
    assert mean == sums_of(units).ratio()[0]


def test_where_all_units_are_alike_the_interval_is_a_point():
    assert sums_of([(0.5, 2, 0.3)] * 100).ratio() == pytest.approx((0.25, 0.25, 0.25))


def test_of_too_few_units_there_is_no_interval():
    units = [(float(k % 2), 2, 0.5) for k in range(FEWEST)]
    assert FEWEST == 10
    for n in (0, 1, 2, FEWEST - 1):
        assert sums_of(units[:n]).ratio() is None
        assert sums_of(units[:n]).ratio(LOSSES) is None  # those that are made up do not count
    assert sums_of(units).ratio() is not None
    assert sums_of([(0.0, 0, 1.0)] * 20).ratio() is None  # nothing to divide by
    assert sums_of([(0.0, 0, 1.0)] * 20 + [(1.0, 3, 0.1)]).ratio(LOSSES) is None  # one holds all
    _, low, high = sums_of([*units, (50.0, 1_000, 0.5)]).ratio(LOSSES)
    assert high - low > 1  # one holds nearly all


def world(rng, n):
    """Return rows, losses and probabilities of units, of which long ones lose more, and all rows or none of a unit are
    likely to; and which are drawn.
    """
    rows = np.minimum(rng.geometric(0.4, n), 20)
    difficulty = np.where(rows > 3, 0.3, 0.1)
    lost = rng.binomial(rows, rng.beta(difficulty, 1 - difficulty))
    probability = rng.choice([0.1, 0.5], n)
    return rows, lost, probability, rng.random(n) < probability


def test_the_interval_covers_the_mean_per_request_of_units_that_depend_and_differ_in_probability():
    rng, runs, n = np.random.default_rng(0), 300, 1000
    sizes = np.arange(1, 20)
    shares = np.array([0.4 * 0.6 ** (k - 1) for k in sizes] + [0.6**19])
    sizes = np.append(sizes, 20)
    truth = (shares * sizes) @ np.where(sizes > 3, 0.3, 0.1) / (shares @ sizes)
    covered = by_row = 0
    for _ in range(runs):
        rows, lost, probability, drawn = world(rng, n)
        units = (each[drawn].tolist() for each in (lost, rows, probability))
        _, low, high = sums_of(zip(*units, strict=True)).ratio()
        covered += low <= truth <= high
        mean, rows_drawn = lost[drawn].sum() / rows[drawn].sum(), rows[drawn].sum()
        by_row += abs(mean - truth) <= 1.96 * math.sqrt(mean * (1 - mean) / rows_drawn)
    assert covered >= binom.ppf(1e-6, runs, 0.93)
    assert by_row < binom.ppf(1e-6, runs, 0.93)  # rows as if each were a draw: the test would notice


@pytest.mark.parametrize(("n", "mean"), [(10, 0.03), (30, 0.03), (100, 0.01), (100, 0.2)])
def test_where_losses_are_rare_the_careful_interval_covers_them(n, mean):
    rng, runs = np.random.default_rng(0), 300
    covered = 0
    for lost in rng.random((runs, n)) < mean:
        _, low, high = sums_of([(float(one), 1, 0.2) for one in lost]).ratio(LOSSES)
        covered += low <= mean <= high
    assert covered >= binom.ppf(1e-6, runs, 0.93)


def heavy_world(rng, n):
    """Return requests and losses of units, of which a tenth hold most requests and lose all or few of them."""
    heavy = rng.random(n) < 0.1
    rows = np.where(heavy, rng.integers(20, 201, n), 1)
    return rows, rng.binomial(rows, np.where(heavy, rng.beta(0.3, 0.7, n), rng.random(n) < 0.1))


@pytest.mark.parametrize(("n", "least"), [(100, 0.9), (300, 0.92)])
def test_the_interval_covers_where_a_tenth_of_the_units_hold_most_requests(n, least):
    rng, runs, truth = np.random.default_rng(0), 500, (0.1 * 110 * 0.3 + 0.9 * 0.1) / (0.1 * 110 + 0.9)
    covered = as_if_equal = 0
    for _ in range(runs):
        rows, lost = heavy_world(rng, n)
        found = sums_of(zip(lost.tolist(), rows.tolist(), [1.0] * n, strict=True)).ratio()
        covered += found is not None and found.low <= truth <= found.high
        mean = lost.sum() / rows.sum()
        as_if_equal += abs(mean - truth) <= 1.96 * math.sqrt(((lost - mean * rows) ** 2).sum()) / rows.sum()
    assert covered >= binom.ppf(1e-6, runs, least)
    assert n > 100 or as_if_equal <= covered - 20  # without the corrections: the test would notice


def test_over_all_looks_an_interval_misses_seldom_and_one_for_a_single_look_often():
    """Whoever looks after each ten units until the interval misses finds such a look."""
    rng, worlds, looks = np.random.default_rng(5), 150, range(30, 1_001, 10)
    missed = np.zeros(2, int)
    for _ in range(worlds):
        rows = rng.integers(1, 5, 1_000)
        lost = rng.binomial(rows, 0.3)
        sums, miss, n = RatioSums(), [False, False], 0
        for look in looks:
            for k in range(n, look):
                sums.add(float(lost[k]), int(rows[k]), 0.5)
            n = look
            for one in (0, 1):
                _, low, high = sums.ratio(all_looks=bool(one))
                miss[one] |= not low <= 0.3 <= high
        missed += miss
    assert missed[1] <= binom.ppf(1 - 1e-6, worlds, 0.05)
    assert missed[0] > 0.2 * worlds


def test_how_wide_an_interval_over_all_looks_is():
    """By the formula of the conjugate mixture, with its parameter for 200 units (Waudby-Smith et al. 2024)."""
    rho2 = 8.2 / 200
    for n in (10, 200, 5_000):
        units = [(float(k % 2), 1, 1.0) for k in range(n)]
        (mean, low, _), (_, lower, _) = sums_of(units).ratio(), sums_of(units).ratio(all_looks=True)
        margin = math.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / 0.05))
        assert (mean - lower) / (mean - low) == pytest.approx(margin * n**0.5 / norm.ppf(0.975))
    assert (mean - lower) / (mean - low) < 2
