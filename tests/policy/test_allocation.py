"""Rates against a general-purpose optimiser, the optimality conditions, and their symmetries."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import exeunt as ex
from exeunt.policy import allocation
from exeunt.policy.allocation import _bracket as bracket


@st.composite
def problems(draw, max_exits=12):
    """Costs over many magnitudes, risks, a budget strictly inside."""
    m = draw(st.integers(2, max_exits))
    steps = draw(st.lists(st.floats(0.01, 100), min_size=m, max_size=m))
    cost = np.cumsum(steps) * 10.0 ** draw(st.integers(-4, 12))
    risk = np.array(draw(st.lists(st.floats(0, 1), min_size=m, max_size=m)))
    share = draw(st.floats(0.001, 0.999))
    return risk, cost, cost[0] + share * (cost[-1] - cost[0]), 10.0 ** draw(st.integers(-5, 1))


def objective(rates, risk, prior, temperature):
    positive = np.maximum(rates, 1e-300)
    return rates @ risk + temperature * np.sum(rates * np.log(positive / prior))


@pytest.mark.filterwarnings("ignore:Values in x were outside bounds")  # of SciPy 1.15, inside its own search
def test_proposition_3_8_against_scipy_on_300_random_problems():
    rng = np.random.default_rng(38)
    for _ in range(300):
        m = int(rng.integers(2, 7))
        cost = np.cumsum(rng.uniform(0.1, 1.0, m))
        risk, prior = rng.uniform(0, 1, m), 1 / cost / np.sum(1 / cost)
        budget, temperature = rng.uniform(cost[0], cost[-1]), float(rng.choice([0.04, 0.2, 1.0]))
        rates = allocation.exponential_weights(risk, cost, budget, temperature=temperature)

        def slope(x, risk, prior, temperature):
            return risk + temperature * (np.log(np.maximum(x, 1e-300) / prior) + 1)

        within = {"type": "ineq", "fun": lambda x, c=cost, b=budget: b - x @ c, "jac": lambda _, c=cost: -c}
        found = minimize(
            objective, 0.9 * np.eye(m)[0] + 0.1 * allocation.geometric(cost, budget),
            args=(risk, prior, temperature), jac=slope, bounds=[(1e-12, 1)] * m,
            constraints=[{"type": "eq", "fun": lambda x: x.sum() - 1, "jac": np.ones_like}, within],
            method="SLSQP", options={"ftol": 1e-13, "maxiter": 500},
        )  # fmt: skip
        assert rates @ cost <= budget * (1 + 1e-12)
        ours, theirs = (objective(x, risk, prior, temperature) for x in (rates, found.x))
        assert ours <= theirs + 1e-9
        assert ours == pytest.approx(theirs, abs=1e-6)
        np.testing.assert_allclose(rates, found.x, atol=5e-3)


@given(problems())
def test_the_optimality_conditions_hold(problem):
    """KKT: log(rate/prior) + risk/temperature is affine in the cost, with slope -mu/temperature <= 0."""
    risk, cost, budget, temperature = problem
    rates = allocation.exponential_weights(risk, cost, budget, temperature=temperature)
    assert rates.sum() == pytest.approx(1, abs=1e-12)
    assert rates @ cost <= budget * (1 + 1e-9)
    seen = rates > 1e-200
    level = temperature * np.log(rates[seen] * cost[seen]) + risk[seen]
    if temperature < 1e-3 or seen.sum() < 2:
        return  # there rates are a mix of two neighbours of the root, which no float is
    x = cost[seen] / cost[-1]
    slope, _ = np.polyfit(x, level, 1) if seen.sum() > 2 else (np.diff(level)[0] / np.diff(x)[0], 0)
    residual = level - level[0] - slope * (x - x[0])
    assert np.abs(residual).max() < 1e-6 * max(1, abs(slope))
    assert slope <= 1e-6
    if slope < -1e-6:  # complementary slackness: a price on cost means that all of the budget is used
        assert rates @ cost == pytest.approx(budget, rel=1e-9)


@given(problems())
def test_exactly_spends_the_budget_and_at_most_never_more_than_exactly(problem):
    risk, cost, budget, temperature = problem
    options = {"temperature": temperature}
    exactly = allocation.exponential_weights(risk, cost, budget, spend="exactly", **options)
    at_most = allocation.exponential_weights(risk, cost, budget, **options)
    assert exactly @ cost == pytest.approx(budget, rel=1e-9)
    assert at_most @ cost <= budget * (1 + 1e-9)
    if at_most @ cost > budget * (1 - 1e-6):
        np.testing.assert_allclose(at_most, exactly, atol=1e-4)


@given(problems(), st.floats(1e-6, 1e6))
def test_the_unit_of_the_costs_does_not_matter(problem, factor):
    risk, cost, budget, temperature = problem
    for spend in ("at_most", "exactly"):
        options = {"temperature": temperature, "spend": spend}
        rates = allocation.exponential_weights(risk, cost, budget, **options)
        scaled = allocation.exponential_weights(risk, cost * factor, budget * factor, **options)
        # At temperature 1e-5 one rounding of a cost moves log-rates by 1e-11 and more.
        np.testing.assert_allclose(rates, scaled, atol=1e-12 / temperature + 1e-9)


@settings(max_examples=20)
@given(problems(), st.sampled_from([2.0**-30, 2.0**30]))
def test_a_unit_that_is_a_power_of_two_changes_no_bit(problem, factor):
    risk, cost, budget, temperature = problem
    options = {"temperature": temperature, "prior": np.ones(len(cost)), "spend": "exactly"}
    weighted = partial(allocation.exponential_weights, risk, **options)
    for rule in (allocation.geometric, allocation.gaussian, weighted):
        np.testing.assert_array_equal(rule(cost * factor, budget * factor), rule(cost, budget))


@settings(max_examples=25)
@given(problems())
def test_more_budget_is_more_spend_and_less_objective(problem):
    risk, cost, _, temperature = problem
    prior = 1 / cost / np.sum(1 / cost)
    budgets = np.linspace(cost[0], cost[-1], 15)
    weighted = partial(allocation.exponential_weights, risk, temperature=temperature)
    narrow = partial(allocation.gaussian, sigma=0.5)
    for rule in (weighted, partial(weighted, spend="exactly"), allocation.geometric, narrow):
        spends = [rule(cost, b) @ cost for b in budgets]
        assert np.all(np.diff(spends) >= -1e-9 * cost[-1])
    best = [objective(weighted(cost, b), risk, prior, temperature) for b in budgets]
    assert np.all(np.diff(best) <= 1e-9)


@given(problems(), st.sampled_from([0.5, 1.0, 2.0, 5.0]))
def test_geometric_and_gaussian_have_their_shape_and_spend_the_budget(problem, sigma):
    _, cost, budget, _ = problem
    geometric, gaussian = allocation.geometric(cost, budget), allocation.gaussian(cost, budget, sigma=sigma)
    for rates in (geometric, gaussian):
        assert rates @ cost == pytest.approx(budget, rel=1e-9)
        assert rates.sum() == pytest.approx(1, abs=1e-12)
        assert (rates >= 0).all()
    if (geometric > 1e-250).all():
        ratio = np.diff(np.log(geometric))
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6, atol=1e-6)
    if (gaussian > 1e-250).all() and len(cost) > 2:  # log of a bell: second differences are -1/sigma^2
        np.testing.assert_allclose(np.diff(np.log(gaussian), 2), -1 / sigma**2, rtol=1e-5, atol=1e-6)


@given(st.floats(0, 1), st.floats(0.01, 1), st.floats(0.01, 5))
def test_two_exits_have_a_closed_form_that_every_rule_agrees_with(share, first, step):
    cost = [first, first + step]
    budget = first + share * step
    rates = allocation.two_exit(cost, budget)
    assert rates[0] == pytest.approx(1 - share, abs=1e-9)
    for other in (
        allocation.geometric(cost, budget),
        allocation.gaussian(cost, budget),
        allocation.exponential_weights([0.5, 0.1], cost, budget, spend="exactly"),
    ):
        np.testing.assert_allclose(other, rates, atol=1e-9)


def test_the_oracle_inequality_of_theorem_3_9():
    rng = np.random.default_rng(39)
    for _ in range(100):
        m = int(rng.integers(2, 20))
        cost, risk = np.cumsum(rng.uniform(0.1, 1, m)), rng.uniform(0, 1, m)
        budget, prior = rng.uniform(cost[0], cost[-1]), (1 / cost) / np.sum(1 / cost)
        rates = allocation.exponential_weights(risk, cost, budget)
        affordable = cost <= budget
        bound = np.min((risk + 0.04 * np.log(1 / prior))[affordable])
        assert rates @ risk <= bound + 1e-12


@pytest.mark.parametrize("spend", ["at_most", "exactly"])
@pytest.mark.parametrize("temperature", [1e-9, 1e-6, 0.04, 1e6])
def test_extreme_temperatures_and_costs_stay_finite(spend, temperature):
    for cost in (np.geomspace(1e-6, 1e15, 40), 1e15 + 1e3 * np.arange(40.0), np.arange(1, 41) * 1e-6):
        risk = np.linspace(0.9, 0.1, 40)
        for share in (0.0, 1e-12, 0.5, 1 - 1e-12, 1.0):
            budget = min(cost[0] + share * (cost[-1] - cost[0]), cost[-1])
            rates = allocation.exponential_weights(risk, cost, budget, temperature=temperature, spend=spend)
            assert np.isfinite(rates).all()
            assert (rates >= 0).all()
            assert rates.sum() == pytest.approx(1)
            assert rates @ cost <= budget * (1 + 1e-9)


@pytest.mark.parametrize("unit", [2.0**-40, 1.0, 2.0**40])
def test_the_ends_of_the_range_are_single_exits(unit):
    cost, risk = unit * np.array([1.0, 2.0, 4.0]), [0.5, 0.3, 0.1]
    weighted = partial(allocation.exponential_weights, risk, spend="exactly")
    for rule in (allocation.geometric, allocation.gaussian, weighted):
        np.testing.assert_array_equal(rule(cost, unit), [1, 0, 0])
        np.testing.assert_array_equal(rule(cost, 4 * unit), [0, 0, 1])
        np.testing.assert_array_equal(rule(cost, "1000%"), [0, 0, 1])
    np.testing.assert_array_equal(allocation.exponential_weights([0.2], [3.0], 3.0), [1.0])


def test_a_given_prior_is_used_up_to_its_scale():
    cost, risk, prior = [1.0, 2.0, 4.0], [0.5, 0.5, 0.5], np.array([0.1, 0.2, 0.7])
    hot = allocation.exponential_weights(risk, cost, 4.0, temperature=10.0, prior=prior)
    np.testing.assert_allclose(hot, prior)
    weighted = partial(allocation.exponential_weights, risk, cost, 2.0)
    found, of_scaled = weighted(prior=prior), weighted(prior=prior * 1e9)
    np.testing.assert_allclose(of_scaled, found)


def test_a_root_at_zero_is_found_quickly():
    """The mean cost of the prior itself as budget: bisecting towards zero must not go through all floats."""
    cost = np.arange(1.0, 1001.0)
    start = time.perf_counter()
    rates = allocation.geometric(cost, float(cost.mean()))
    assert time.perf_counter() - start < 0.5
    np.testing.assert_allclose(rates, 1 / 1000, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "options", "shown"),
    [
        (([0.5, 0.1], [1, 2], 1.5), {"temperature": 0}, "^temperature .* got 0$"),
        (([0.5, 0.1], [1, 2], 1.5), {"temperature": math.nan}, "nan"),
        (([0.5, 0.1, 0.1], [1, 2], 1.5), {}, r"^risk .*\(2,\), got \(3,\)"),
        (([0.5, math.nan], [1, 2], 1.5), {}, "^risk has 1 NaN"),
        (([0.5, math.inf], [1, 2], 1.5), {}, "inf"),
        (([0.5, 0.1], [2, 1], 1.5), {}, "got 1 at exit 1 after 2"),
        (([0.5, 0.1], [1, 2], 0.5), {}, "0.5 MACs"),
        (([0.5, 0.1], [1, 2], 1.5), {"spend": "sometimes"}, "sometimes"),
        (([0.5, 0.1], [1, 2], 1.5), {"prior": [1.0, 0.0]}, "positive and finite at every exit, got .*0."),
        (([0.5, 0.1], [1, 2], 1.5), {"prior": [1.0]}, r"^prior .*\(2,\), got \(1,\)"),
        (([0.5, 0.1], [1, 2], 1.5), {"prior": [1.0, math.nan]}, "^prior has 1 NaN"),
        (([0.5, 0.1], [1, 2], 1.5), {"prior": [math.inf, 1.0]}, "positive and finite"),
    ],
)
def test_bad_problems_are_refused_by_value(arguments, options, shown):
    with pytest.raises(ex.InputError, match=shown):
        allocation.exponential_weights(*arguments, **options)


def test_two_exit_wants_two_exits_and_gaussian_a_width():
    with pytest.raises(ex.InputError, match="got 3"):
        allocation.two_exit([1, 2, 3], 2)
    with pytest.raises(ex.InputError, match=r"^sigma .* got -1"):
        allocation.gaussian([1, 2, 3], 2, sigma=-1)


@pytest.mark.parametrize("root", [-1e6, -64.0, -1.0, -1 / 3, -1e-30, 0.0, 1e-7, 0.25, 1.0, 4.0, 5.5, 1e9])
def test_the_bracket_holds_the_root_between_floats_that_are_near(root):
    low, high = bracket(lambda x: x - root)
    assert low <= root <= high
    assert high - low <= 4e-15 * max(abs(root), 1.0)


def test_three_exits_by_hand():
    # Middle budget, even costs: the tilt that spends it is q^l / cost_l with 3 = q^2, as 1 * q^0 = q^2 / 3.
    rates = allocation.exponential_weights([0.2, 0.2, 0.2], [1.0, 2.0, 3.0], 2.0, spend="exactly")
    weights = np.array([1.0, math.sqrt(3) / 2, 1.0])
    np.testing.assert_allclose(rates, weights / weights.sum(), rtol=1e-12)
    # The prior's mean cost is 3 / (1 + 1/2 + 1/3) = 18 / 11: any budget above it leaves the prior as it is.
    for budget in (18 / 11 + 1e-9, 2.0, 3.0):
        rates = allocation.exponential_weights([0.2, 0.2, 0.2], [1.0, 2.0, 3.0], budget)
        np.testing.assert_allclose(rates, [6 / 11, 3 / 11, 2 / 11], rtol=1e-12)
    # Risks 0.04 apart at the default temperature of 0.04 weigh a factor of e.
    rates = allocation.exponential_weights([0.28, 0.24, 0.2], [1.0, 2.0, 3.0], 3.0, prior=[1, 1, 1])
    np.testing.assert_allclose(rates[1:] / rates[:-1], math.e, rtol=1e-12)
    # By symmetry the middle budget centres the bell: exp(-1 / (2 sigma^2)) on either side, sigma 2 by default.
    rates = allocation.gaussian([1.0, 2.0, 3.0], 2.0)
    np.testing.assert_allclose(rates / rates[1], [math.exp(-1 / 8), 1, math.exp(-1 / 8)], rtol=1e-12)
    rates = allocation.geometric([1.0, 2.0, 3.0], 17 / 7)
    np.testing.assert_allclose(rates, [1 / 7, 2 / 7, 4 / 7], rtol=1e-12)


@pytest.mark.parametrize("temperature", [1e-12, 1e-9, 1e-6])
def test_where_no_float_is_the_tilt_the_budget_is_still_met(temperature):
    cost, risk = np.array([1.0, 2.5, 3.0, 7.0]), [0.4, 0.33, 0.3, 0.11]
    for budget in (1.1, 2.0, 2.75, 5.0, 6.9):
        rates = allocation.exponential_weights(risk, cost, budget, temperature=temperature, spend="exactly")
        assert rates @ cost == pytest.approx(budget, rel=1e-13)
        assert rates.min() >= 0


def test_a_mean_cost_that_is_the_budget_for_many_tilts_is_met():
    # Risks in proportion to the costs are made up for by a tilt of 1; at nearly equal costs its neighbours do as well.
    cost, options = np.array([1.0, 1 + 2.0**-20]), {"temperature": 1.0, "prior": [1, 1], "spend": "exactly"}
    rates = allocation.exponential_weights(cost / cost[1], cost, cost.mean(), **options)
    assert rates.tolist() == [0.5, 0.5]


def test_the_budget_is_met_to_the_last_digits():
    rng = np.random.default_rng(0)
    for _ in range(400):
        m = int(rng.integers(2, 12))
        cost, risk = np.cumsum(rng.uniform(0.1, 1, m)), rng.random(m)
        budget, temperature = rng.uniform(cost[0], cost[-1]), 10 ** rng.uniform(-3, 1)
        rates = allocation.exponential_weights(risk, cost, budget, temperature=temperature, spend="exactly")
        assert rates @ cost == pytest.approx(budget, rel=4e-15)


def test_a_budget_is_in_the_unit_of_the_costs():
    cost = ex.CostModel([1.0, 2.0, 4.0], unit="ms")
    for rule in (allocation.geometric, allocation.gaussian):
        np.testing.assert_array_equal(rule(cost, "2000 us"), rule([1.0, 2.0, 4.0], 2.0))
