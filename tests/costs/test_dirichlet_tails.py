from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, special, stats

from exeunt.costs.dirichlet_tails import _log1mexp, log_tails, solve_quantile


@pytest.mark.parametrize(("first", "last"), [(3, 5), (40, 2), (1, 300), (10**5, 2 * 10**4), (10**7, 10**7)])
def test_small_tails_keep_their_digits(first, last):
    # The costs 1/4 and 5/4 make the difference of budget and cost exact.
    alpha, cost = np.array([first, last], dtype=float), np.array([0.25, 1.25])
    beta = stats.beta(last, first)
    middle = last / (first + last)
    step = math.sqrt(middle * (1 - middle) / (first + last + 1))
    for far in (0.5, 3, 8, 20, 30):
        for side, exact in enumerate((beta.logcdf, beta.logsf)):
            budget = 0.25 + middle + (-far, far)[side] * step
            if 0 < budget - 0.25 < 1 and -600 < exact(budget - 0.25) < -0.2:
                assert log_tails(budget, alpha, cost)[side] == pytest.approx(exact(budget - 0.25), rel=1e-8)


def test_all_but_one_input_beyond_the_first_exit_against_a_closed_form():
    """With alpha 1 at the first exit, P(K <= B) = P(G_1 (B - b_1) >= sum G_l (b_l - B)), G_1 exponential.

    That is the product of (1 + (b_l - B) / (B - b_1))^-alpha_l; from the other end likewise.
    """
    rng = np.random.default_rng(0)
    for most in rng.uniform(0, 7, 60):
        m = int(rng.integers(2, 9))
        alpha = 10 ** rng.uniform(-3, 1, m)
        alpha[:2] = 1, 10**most
        cost = np.cumsum(rng.uniform(0.1, 1, m))
        budget = cost[1] - (cost[1] - cost[0]) * min(0.999, 10 ** (rng.uniform(-4, 1) - most))
        exact = -float(alpha[1:] @ np.log1p((cost[1:] - budget) / (budget - cost[0])))
        from_the_end = log_tails(-budget, alpha[::-1], -cost[::-1])[::-1]
        for within, beyond in (log_tails(budget, alpha, cost), from_the_end):
            assert within == pytest.approx(exact, rel=1e-11, abs=1e-11)
            assert math.exp(beyond) == pytest.approx(-math.expm1(exact), rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("first", [1e-13, 1e-3, 0.05, 0.6])
@pytest.mark.parametrize("last", [0.3, 5, 400])
def test_weak_singularities_of_two_shares_follow_the_beta_distribution(first, last):
    # The costs 1/4 and 5/4 make the difference of budget and cost exact.
    for early in (1e-9, 1e-3, 0.02, 0.1, 0.4, 0.8):
        for side, budget in enumerate((1.25 - early, 0.25 + early)):
            exact = special.betaincc(first, last, budget - 0.25 if side else 1.25 - budget)
            alpha = np.array([last, first] if side else [first, last])
            found = log_tails(budget, alpha, np.array([0.25, 1.25]))
            assert math.exp(found[side]) == pytest.approx(exact, abs=1e-9)
            assert math.exp(found[0]) + math.exp(found[1]) == pytest.approx(1, abs=1e-14)


ALPHAS = [(0.02, 1000, 0.04), (0.3, 0.2, 40), (80, 1e-3, 3), (1e-4, 30, 30), (2.5, 0.9, 0.7)]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_weak_singularities_of_three_shares_follow_the_quadrature(alpha):
    # One share's weight is far above the others': the integrand then has two scales far apart.
    (a, b, c), cost = alpha, np.array([1.0, 2.3, 4.0])
    mean = float(np.dot(alpha, cost)) / sum(alpha)
    spread = math.sqrt(float(np.dot(alpha, (cost - mean) ** 2)) / sum(alpha) / (sum(alpha) + 1))
    for budget in (*(mean + spread * np.array([-2, -0.5, -0.02, 0.001, 0.3, 1, 2.5])), 1.4, 2.9):
        if not cost[0] < budget < cost[2]:
            continue

        def given_level(level, budget=budget):
            # The last share is at this level of its distribution; of the rest, a Beta(b, a) share is the middle one's.
            p = special.betaincinv(c, a + b, level)
            room = (budget - p * cost[2]) / (1 - p)
            return special.betainc(b, a, min(1, max(0, (room - cost[0]) / (cost[1] - cost[0]))))

        kinks = [special.betainc(c, a + b, (budget - x) / (cost[2] - x)) for x in cost[:2] if x < budget]
        parts = [part for part in pairwise([0.0, *sorted(kinks), 1 - 1e-12]) if part[1] > part[0]]
        area = sum(integrate.quad(given_level, *part, epsabs=1e-11, limit=500)[0] for part in parts)
        assert math.exp(log_tails(budget, np.array(alpha), cost)[0]) == pytest.approx(area, abs=2e-8)


def test_a_saddle_point_that_rounds_to_a_pole_is_moved_off_it():
    alpha, cost = np.array([1e14, 1, 5e14, 3, 11]), np.array([1.0, 3, 6, 10, 15])
    assert log_tails(3.1, alpha, cost)[0] < -1e13
    assert log_tails(3.1, alpha, cost)[1] == 0
    mean = float(alpha @ cost / alpha.sum())
    median = solve_quantile(lambda x: log_tails(x, alpha, cost), 0.5, (1.0, 15.0), mean)
    assert median == pytest.approx(mean, abs=1e-8)
    spread = math.sqrt(float(alpha @ (cost - mean) ** 2)) / alpha.sum()
    assert math.exp(log_tails(mean + spread, alpha, cost)[0]) == pytest.approx(stats.norm.cdf(1), abs=1e-4)


def test_beside_the_costs_there_is_nothing():
    none, all_ = (-math.inf, 0.0), (0.0, -math.inf)
    one, two = (np.array([4.0]), np.array([3.0])), (np.array([4.0, 2.0]), np.array([3.0, 5.0]))
    # A budget that is the only cost but for rounding is within.
    for budget, tails in ((2.9, none), (3 - 4e-15, all_), (3.0, all_), (3.1, all_), (3 - 9e-15, none)):
        assert log_tails(budget, *one) == tails
    for budget, tails in ((2.9, none), (3.0, none), (5.0, all_), (6.0, all_)):
        assert log_tails(budget, *two) == tails


def test_the_other_tail_keeps_its_digits():
    assert _log1mexp(0.0) == -math.inf
    others = {-1e-20: math.log(1e-20), -0.5: math.log(1 - math.exp(-0.5)), -60: -math.exp(-60)}
    for value, other in others.items():
        assert _log1mexp(value) == pytest.approx(other, rel=1e-13, abs=0)


@pytest.mark.parametrize("q", [1e-300, 1e-9, 0.2, 0.5, 1 - 1e-12])
@pytest.mark.parametrize("start", [0.0, 1e-12, 0.01, 0.7, 1.0])
def test_a_quantile_is_found_from_any_start(q, start):
    beta = stats.beta(30, 2)

    def log_tails_at(x):
        assert 0 <= x <= 1
        return beta.logcdf(x), beta.logsf(x)

    found = solve_quantile(log_tails_at, q, (0.0, 1.0), start)
    assert beta.cdf(found) == pytest.approx(q, rel=1e-9)
