"""Plans and certificates: what is guaranteed is kept, as often as guaranteed, and not by spending little."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.stats import beta, binom

import exeunt as ex
from exeunt.policy import Certificate, allocation
from exeunt.policy.calibration import RankedInMemory, sequential_thresholds
from exeunt.policy.certificate_search import plan_cost
from exeunt.score.tie_breaking import tie_breaks

COST = ex.CostModel([1.0, 2.5, 4.0, 8.0], unit="MMACs")
RISK = np.array([0.5, 0.35, 0.25, 0.15])
RUNS = 2000


def allocate(budget):
    return allocation.exponential_weights(RISK, COST, budget, spend="exactly")


def within_chance(violations, probability):
    """Whether a count of RUNS trials is within a two-sided bound of 1e-6 of a binomial."""
    low, high = binom.ppf([1e-6, 1 - 1e-6], RUNS, probability)
    return low <= violations <= high


def independent_spend(limits):
    """Mean cost where exits score independently and uniformly: the product of the shares that stay."""
    stay = np.clip(limits.score[:-1], 0, 1)
    reached = np.concatenate([[1.0], np.cumprod(stay)])
    return reached @ np.diff(COST.cumulative, prepend=0)


def identical_spend(limits):
    """Mean cost where all exits see one uniform score: who is below every threshold so far goes on."""
    reached = np.concatenate([[1.0], np.minimum.accumulate(np.clip(limits.score[:-1], 0, 1))])
    return reached @ np.diff(COST.cumulative, prepend=0)


@pytest.mark.parametrize("delta", [0.1, 0.01])
@pytest.mark.parametrize("n", [60, 500])
@pytest.mark.parametrize("world", [independent_spend, identical_spend])
def test_certificates_hold_as_often_as_they_say_where_the_truth_is_known(world, n, delta):
    rng, budget = np.random.default_rng(n), 4.0
    plan = plan_cost(allocate, COST, budget, n, delta)
    guarantee = plan.certificate(COST, budget, delta)
    assert guarantee.probability >= 1 - delta
    violations = 0
    for _ in range(RUNS):
        score = rng.random((n, 4)) if world is independent_spend else np.repeat(rng.random((n, 1)), 4, axis=1)
        limits = sequential_thresholds(RankedInMemory(score, np.zeros(n)), plan.counts, plan.last)
        violations += world(limits) > budget
    assert violations <= binom.ppf(1 - 1e-6, RUNS, delta)
    # Power: had the distribution been wrong, in either direction, it would show here.
    assert within_chance(violations, 1 - guarantee.probability)


@pytest.mark.parametrize("delta", [0.1, pytest.param(0.01, marks=pytest.mark.slow)])
def test_certificates_hold_on_a_recorded_network_by_repeated_splitting(recorded, delta):
    """Calibrate on 100 inputs, take the mean over the 3,900 others as the truth; the fit inputs are fixed.

    The others are a finite batch, so their mean strays from the long run: violations are compared with the
    Dirichlet-multinomial distribution of that batch, drawn here without help of the library's distribution.
    """
    n, seed, rng = 100, 0, np.random.default_rng(1)
    fit, pool = recorded.take(slice(0, 2000)), recorded.take(slice(2000, 6000))
    budget = 0.5 * recorded.cost.full
    first = ex.eero(fit, pool.take(slice(0, n)), budget=budget, delta=delta, seed=seed)
    counts, last = first.counts, first.n_exits - 1
    score, tie, cost = pool.scores["margin"], tie_breaks(pool.id, seed), recorded.cost.cumulative
    violations, spends = 0, []
    for _ in range(RUNS):
        order = rng.permutation(pool.n)
        chosen, others = order[:n], order[n:]
        limits = sequential_thresholds(RankedInMemory(score[chosen], tie[chosen]), counts, last)
        # The first exit whose (score, tie) is at least the threshold.
        surer = (score > limits.score) | ((score == limits.score) & (tie[:, None] >= limits.tie))
        spends.append(cost[surer.argmax(axis=1)][others].mean())
        violations += spends[-1] > budget
    shares = rng.dirichlet(np.append(counts[:-1], counts[-1] + 1)[np.append(counts[:-1], 1) > 0], 200_000)
    reached = cost[np.append(counts[:-1], 1) > 0]
    batch = rng.multinomial(pool.n - n, shares) @ reached / (pool.n - n)
    expected = np.mean(batch > budget)
    assert expected < 1.1 * delta
    assert within_chance(violations, expected)
    assert np.mean(spends) == pytest.approx(batch.mean(), rel=0.01)
    assert np.std(spends) == pytest.approx(batch.std(), rel=0.1)


@pytest.mark.parametrize("delta", [0.3, 0.05, 1e-6])
@pytest.mark.parametrize("n", [200, 2000])
def test_the_plan_is_the_largest_that_keeps_the_guarantee(n, delta):
    plan = plan_cost(allocate, COST, 4.0, n, delta)
    assert plan.certificate(COST, 4.0, delta).probability >= 1 - delta
    planned = plan.rates @ COST.cumulative
    # One input's worth of cost per exit more, and the guarantee is broken.
    more = plan_cost(allocate, COST, planned + 4 * 7.0 / n, n, None)
    assert more.distribution(COST).probability_within(4.0) < 1 - delta


@pytest.mark.parametrize("n", [1, 2, 3, 10, 100, 10_000])
@pytest.mark.parametrize("budget", [1.0, 1.0 + 1e-9, 1.001, 1.5, 4.0, 7.999, 8.0])
def test_without_delta_the_expected_cost_is_within_the_budget(n, budget):
    plan = plan_cost(allocate, COST, budget, n, None)
    assert plan.counts.sum() == n
    mean = plan.distribution(COST).mean
    assert mean <= budget * (1 + 1e-12)
    # and falls short by no more than the rounding of each exit's count
    if budget > 1.0 + 7.0 / n:
        assert mean >= budget - 4 * 7.0 / n


def test_what_cannot_be_certified_names_what_could_be():
    def plan(budget, n):
        return plan_cost(allocate, COST, budget, n, 0.05)

    with pytest.raises(ex.InfeasibleBudget, match="5 calibration inputs") as caught:
        plan(1.5, 5)
    smallest, needed = caught.value.smallest_budget, caught.value.n_calibration_needed
    assert needed == math.ceil(math.log(0.05) / math.log(1 - 0.5 / 7))
    plan(smallest * (1 + 1e-9), 5)
    plan(1.5, needed)
    for budget, n in ((smallest * (1 - 1e-6), 5), (1.5, needed - 1)):
        with pytest.raises(ex.InfeasibleBudget):
            plan(budget, n)
    with pytest.raises(ex.InfeasibleBudget, match="smallest"):
        plan(1.0 + 1e-13, 100)


def test_a_single_exit_and_the_full_budget_are_certain():
    for budget in (1.0, 8.0):
        plan = plan_cost(allocate, COST, budget, 3, 1e-9)
        assert plan.certificate(COST, budget, 1e-9).probability == 1.0
    one = ex.CostModel([2.0])
    plan = plan_cost(lambda b: allocation.geometric(one, b), one, 2.0, 1, 0.01)
    assert plan.certificate(one, 2.0, 0.01).probability == 1.0


TWO = ex.CostModel([1.0, 2.0])


def plan_of_two(budget, n, delta):
    return plan_cost(partial(allocation.two_exit, TWO), TWO, budget, n, delta)


@pytest.mark.parametrize("n", [20, 57, 300])
@pytest.mark.parametrize("delta", [0.2, 0.05, 1e-4])
@pytest.mark.parametrize("budget", [1.35, 1.5, 1.9])
def test_two_exits_send_on_as_many_as_the_beta_distribution_allows(n, delta, budget):
    if (2 - budget) ** n > delta:
        with pytest.raises(ex.InfeasibleBudget):
            plan_of_two(budget, n, delta)
        return
    # The share that runs on is Beta(k + 1, n - k); the plan sends on the most that is within the budget often enough.
    kept = [k for k in range(n) if beta(k + 1, n - k).cdf(budget - 1) >= 1 - delta]
    plan = plan_of_two(budget, n, delta)
    assert (plan.counts.tolist(), plan.last) == ([n - max(kept), max(kept)], 1)


def test_the_plan_without_delta_by_hand():
    # (9 * planned + 2) / 10 = 1.5 for planned = 13 / 9: 4 of 9 run on.
    plan = plan_of_two(1.5, 9, None)
    assert plan.counts.tolist() == [5, 4]
    assert plan.distribution(TWO).mean == pytest.approx(1.5)
    plan = plan_of_two(1.1, 5, None)
    assert (plan.counts.tolist(), plan.rates.tolist(), plan.last) == ([5, 0], [1.0, 0.0], 0)
    # Just enough for nobody to run on but the chance of a new input: (9 + 2) / 10; and exactly: (1 + 2) / 2.
    for budget, n in ((1.1 + 1e-12, 9), (1.5, 1)):
        plan = plan_of_two(budget, n, None)
        assert (plan.counts.tolist(), plan.last) == ([n, 0], 1)


def test_an_allocation_that_overspends_is_refused_by_value():
    with pytest.raises(ex.InputError, match=r"expected to cost 1\.9 MACs, more than the budget of 1\.5 MACs"):
        plan_cost(lambda _: np.array([0.1111, 0.8889]), TWO, 1.5, 9, None)


def test_the_smallest_budget_is_the_quantile_of_the_most_careful_plan():
    with pytest.raises(ex.InfeasibleBudget, match="or 9 calibration inputs for this budget") as caught:
        plan_of_two(1.25, 5, 0.1)
    assert caught.value.smallest_budget == pytest.approx(2 - 0.1**0.2)
    assert caught.value.smallest_budget > 2 - 0.1**0.2
    assert caught.value.n_calibration_needed == 9


def test_what_is_just_certifiable_is_certified():
    # One input, whose score is the threshold: a share above 3/4 runs on with probability 1/4.
    plan = plan_of_two(1.75, 1, 0.25)
    assert (plan.counts.tolist(), plan.last) == ([1, 0], 1)


def test_a_plan_keeps_the_very_guarantee_that_it_makes():
    plan = plan_cost(allocate, COST, 4.0, 300, 0.1)
    probability = plan.distribution(COST).probability_within(4.0)
    again = plan_cost(lambda _: plan.rates, COST, 4.0, 300, 1 - probability)
    assert 1 - (1 - probability) == probability
    assert again.counts.tolist() == plan.counts.tolist()


def test_no_number_of_inputs_certifies_a_budget_of_the_first_exit_for_an_allocation_that_uses_another():
    with pytest.raises(ex.InfeasibleBudget, match=r"is 1\.20567 MACs$") as caught:
        plan_cost(lambda _: np.array([0.5, 0.5]), TWO, 1.0, 10, 0.1)
    assert caught.value.n_calibration_needed is None
    assert caught.value.smallest_budget == pytest.approx(2 - 0.1**0.1)


def test_the_search_stops_at_plans_that_differ_by_one_input():
    asked = []

    def counted(budget):
        asked.append(budget)
        return allocation.two_exit(TWO, budget)

    plan_cost(counted, TWO, 1.5, 64, 0.05)
    # At first 32 of 64 may run on: five halvings single one out.
    assert len(asked) == 1 + 5


@pytest.mark.parametrize("unit", [1.0, 1e12])
def test_the_search_stops_where_an_allocation_jumps(unit):
    """No budget lies between the two plans, though they are many inputs apart."""
    cost = ex.CostModel(unit * np.array([1.0, 2.0]))

    def in_steps(budget):
        assert len(asked) < 100
        asked.append(budget)
        return np.array([0.7, 0.3]) if budget < 1.42 * unit else np.array([0.58, 0.42])

    asked: list[float] = []
    assert plan_cost(in_steps, cost, 1.45 * unit, 100, 0.1).counts.tolist() == [70, 30]
    # To 1e-9 of the full cost.
    assert min(abs(budget / unit - 1.42) for budget in asked) < 4e-9
    assert len(asked) < 40


def test_an_exit_that_the_whole_budget_uses_stays_in_use_where_smaller_plans_send_nobody_there():
    cost = ex.CostModel([1.0, 2.0, 4.0])
    plan = plan_cost(lambda b: np.array([0.5, 0.3, 0.2] if b > 1.9 else [0.6, 0.4, 0.0]), cost, 2.0, 100, 0.1)
    assert (plan.counts.tolist(), plan.last) == ([60, 40, 0], 2)
    # What is less sure than every calibration input runs on to it.
    assert plan.distribution(cost).mean == pytest.approx((60 + 80 + 4) / 101)


def test_what_a_certificate_says_of_small_deltas():
    guarantee = Certificate(4.0, 1e-6, "MMACs", 1 - 1e-7, 3.25, 3.75, 600, "x")
    assert str(guarantee) == (
        "Guarantee: with probability 1 - 1e-06 over the 600 calibration inputs, the long-run mean cost is at most "
        "4 MMACs (expected: 3.25). It assumes that x."
    )
    assert "probability 99.999% over" in str(replace(guarantee, delta=1e-5))
