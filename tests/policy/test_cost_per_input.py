"""Costs that differ between inputs: over many calibrations on a known population, the guarantee is kept."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.stats import binom, norm

import exeunt as ex
from exeunt.guarantees.p_values import betting
from exeunt.policy import allocation, certificate_search
from exeunt.policy.certificate_search import Costed, plan_by_cost
from exeunt.trace.splitting import random_order

UNIT = np.array([1.0, 4.0, 12.0])
LONGEST = 64.0


def texts(n, seed, *, highest=LONGEST * UNIT[-1]):
    """Texts that cost by their length; long ones are hard, so that they leave late."""
    rng = np.random.default_rng(seed)
    length = rng.lognormal(3.0, 0.6, n).clip(3, LONGEST)
    hard = rng.uniform(size=n) < 0.1 + 0.5 * (length > 30)
    label = rng.integers(0, 2, n)
    first = np.where(hard, rng.beta(2, 2, n), rng.beta(6, 1.5, n))
    score = np.stack([first, *rng.beta(8, 1, (2, n))], axis=1)
    skill = np.where(hard[:, None], [0.6, 0.8, 0.97], [0.95, 0.96, 0.97])
    prediction = np.where(rng.uniform(size=(n, 3)) < skill, label[:, None], 1 - label[:, None])
    cost = ex.CostModel(length[:, None] * UNIT, unit="tokens", highest=highest)
    ids = rng.integers(2**62, size=n)
    return ex.ExitTrace.from_scores(score, prediction, cost=cost, label=label, id=ids)


FIT, EVERYTHING = texts(1000, 0), texts(8000, 1)
BUDGET = 0.5 * FIT.cost.full


def paid(policy, trace):
    return trace.cost.of_inputs(trace.n)[np.arange(trace.n), policy.route(trace)]


def drawn(n, seed):
    """Inputs of the population, drawn with replacement, so that what its mean cost is is known exactly."""
    rng = np.random.default_rng([seed, 7])
    some = EVERYTHING.take(rng.integers(EVERYTHING.n, size=n))
    return replace(some, id=rng.integers(2**62, size=n), row=None)


def recalibrated(trials, *, n=1000, **options):
    """Return what everything costs under each recalibration, a row each, and the policies."""
    policies = [ex.eero(FIT, drawn(n, seed), budget=BUDGET, **options) for seed in range(trials)]
    return [paid(policy, EVERYTHING) for policy in policies], policies


@pytest.fixture
def fewer_plans(monkeypatch):
    """Fewer plans take less time."""
    monkeypatch.setattr(certificate_search, "_WIDE", 17)
    monkeypatch.setattr(certificate_search, "_NEAR", 8)


@pytest.mark.parametrize("trials", [15, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_certified_mean_cost_is_exceeded_no_more_often_than_delta_and_little_is_left(trials):
    costs, policies = recalibrated(trials, delta=0.05)
    broken = sum(one.mean() > BUDGET for one in costs)
    assert broken <= binom.ppf(1 - 1e-6, trials, 0.05)
    left = [
        (BUDGET - one.mean()) / (norm.ppf(0.95) * one.std() / policy.certificate.n_calibration**0.5)
        for one, policy in zip(costs, policies, strict=True)
    ]
    assert np.mean(left) < 1.3


def test_without_delta_the_budget_is_kept_on_average(fewer_plans):
    costs, policies = recalibrated(40, n=300)
    means = np.array([one.mean() for one in costs])
    assert means.mean() < BUDGET + 4 * means.std() / len(means) ** 0.5
    assert means.mean() > 0.9 * BUDGET
    assert all(policy.certificate is None and policy.distribution is None for policy in policies)
    assert policies[0].expected_cost <= BUDGET
    assert "is expected, but may be higher. Give a delta to certify it." in str(policies[0])


def test_what_is_evaluated_is_what_was_paid():
    calibrate, test = texts(500, 2), texts(700, 3)
    policy = ex.auto(FIT, calibrate, budget=BUDGET)
    assert ex.evaluate(policy, test).cost == pytest.approx(paid(policy, test).mean())
    assert policy.expected_cost == pytest.approx(paid(policy, calibrate).mean())
    best = ex.oracle(test, BUDGET)
    assert best.cost <= BUDGET
    assert best.accuracy >= ex.evaluate(policy, test).accuracy


@pytest.mark.parametrize("reference", [None, "small"])
def test_what_is_saved_is_a_share_of_what_the_reference_costs_on_the_same_inputs(reference):
    def models(trace):
        return ex.CascadeTrace({"small": trace.exits(0, 1), "large": trace.exits(1, 3)})

    policy = ex.cascade(models(FIT), models(drawn(500, 1)), budget=BUDGET, reference=reference)
    longer = models(EVERYTHING.take(np.argsort(EVERYTHING.cost.per_input[:, 0])[-2000:]))
    result = ex.evaluate(policy, longer)
    assert result.saved == pytest.approx(1 - result.cost / longer[reference or "large"].cost.full)
    network = ex.eero(FIT, drawn(500, 1), budget=BUDGET)
    result = ex.evaluate(network, EVERYTHING)
    assert result.saved == pytest.approx(1 - result.cost / EVERYTHING.cost.full)


def test_a_policy_is_kept_with_the_costs_it_guarantees(tmp_path):
    policy = ex.eero(FIT, texts(900, 2), budget=BUDGET, delta=0.1)
    policy.save(tmp_path / "policy.json")
    kept = ex.Policy.load(tmp_path / "policy.json")
    assert kept == policy
    assert kept.costliest == LONGEST * UNIT[-1]
    assert kept.expected_cost == policy.expected_cost
    assert policy.certificate.expected_cost < policy.certificate.cost_quantile <= BUDGET
    assert f"no input costs more than {LONGEST * UNIT[-1]:g} tokens" in policy.guarantee
    assert np.array_equal(kept.route(FIT), policy.route(FIT))


def test_equal_costs_per_input_are_planned_by_the_distribution():
    alike = ex.CostModel(np.tile([1.0, 4.0, 12.0], (FIT.n, 1)), highest=12.0)
    fit = FIT.with_cost(alike)
    calibrate = texts(FIT.n, 2).with_cost(alike)
    given = ex.CostModel([1.0, 4.0, 12.0])
    expected = ex.eero(FIT.with_cost(given), calibrate.with_cost(given), budget=6.0, delta=0.1)
    assert ex.eero(fit, calibrate, budget=6.0, delta=0.1) == expected


def test_what_cannot_be_certified_is_refused():
    unknown = texts(500, 2, highest=None)
    with pytest.raises(ex.InputError, match="highest"):
        ex.eero(texts(500, 3, highest=None), unknown, budget=BUDGET, delta=0.05)
    with pytest.raises(ex.InputError, match="different costs"):
        ex.eero(FIT, unknown, budget=BUDGET)
    with pytest.raises(ex.InfeasibleBudget, match="more calibration inputs or a higher budget"):
        ex.eero(FIT, texts(12, 2), budget=1.2 * FIT.cost.first, delta=0.05)
    with pytest.raises(ex.InfeasibleBudget, match=r"1 calibration input .* at delta=0.05, not even if"):
        ex.eero(FIT, texts(1, 2), budget=BUDGET, delta=0.05)
    with pytest.raises(ex.InfeasibleBudget, match=r"that a mean cost of .* is kept in expectation"):
        ex.eero(FIT, texts(12, 2), budget=1.2 * FIT.cost.first)


def test_a_budget_above_the_mean_full_cost_certifies_that_everything_runs_to_the_end():
    """The full cost is a mean over the fit inputs. It can be certified under a higher budget, not under itself."""
    fit, calibrate = (
        one.exits(2, 3).with_cost(ex.CostModel(one.cost.of_inputs(one.n)[:, 2:], highest=LONGEST * UNIT[-1]))
        for one in (texts(500, 1), texts(500, 2))
    )
    with pytest.raises(ex.InfeasibleBudget):
        ex.eero(fit, calibrate, budget=fit.cost.full, delta=0.05)
    policy = ex.eero(fit, calibrate, budget=1.2 * fit.cost.full, delta=0.05)
    assert policy.budget == policy.certificate.budget == 1.2 * fit.cost.full


def test_a_trace_and_its_parts_keep_the_costs_of_their_inputs(tmp_path):
    trace = texts(50, 4)
    trace.save(tmp_path / "t.parquet")
    kept = ex.ExitTrace.load(tmp_path / "t.parquet")
    assert np.array_equal(kept.cost.per_input, trace.cost.per_input)
    assert (kept.cost.highest, kept.cost.reference) == (trace.cost.highest, trace.cost.reference)
    rows = [7, 3]
    assert np.array_equal(kept.take(rows).cost.per_input, trace.cost.per_input[rows])
    with pytest.raises(ex.InputError, match="50 inputs but the costs are of 2"):
        trace.with_cost(trace.cost.take(rows))
    with pytest.raises(ex.InputError, match="50 inputs but the costs are of 1"):
        trace.with_cost(trace.cost.take([7]))
    with pytest.raises(ex.InputError, match="needs a row for each"):
        trace.with_cost(trace.cost.means)


@pytest.mark.parametrize("n", [12, 40, 150])
@pytest.mark.parametrize("share", [0.35, 0.5, 0.62, 0.8])
def test_without_delta_the_plan_leaves_room_for_one_more_input_of_the_highest_cost(n, share):
    calibrate = texts(n, 100 + n)
    budget = float(share * FIT.cost.full)
    made = ex.eero(FIT, calibrate, budget=budget)
    costs = paid(made, calibrate)
    assert (costs.sum() + LONGEST * UNIT[-1]) / (n + 1) <= budget * (1 + 1e-12)
    assert made.calibration_cost == pytest.approx(costs.mean())
    assert made.counts.tolist() == np.bincount(made.route(calibrate), minlength=3).tolist()
    # One input that leaves one exit later costs at most so much more; there is a plan not far below what is allowed.
    step = float(np.diff(calibrate.cost.of_inputs(n), axis=1).max()) / n
    allowed = (budget * (n + 1) - LONGEST * UNIT[-1]) / n
    assert costs.mean() >= min(0.85 * allowed, calibrate.cost.of_inputs(n)[:, -1].mean()) - 2 * step


def test_where_the_highest_cost_is_not_known_the_highest_of_all_known_inputs_stands_for_it():
    fit, calibrate = texts(300, 3, highest=None), texts(40, 4, highest=None)
    budget = float(0.6 * fit.cost.full)
    costs = paid(ex.eero(fit, calibrate, budget=budget), calibrate)
    highest = max(fit.cost.per_input.max(), calibrate.cost.per_input.max())
    assert (costs.sum() + highest) / 41 <= budget * (1 + 1e-12)
    known = [one.with_cost(one.cost.bounded(highest)) for one in (fit, calibrate)]
    assert paid(ex.eero(*known, budget=budget), calibrate).tolist() == costs.tolist()


def test_the_highest_cost_given_counts_though_no_input_costs_it():
    fit, calibrate = texts(300, 3, highest=4000.0), texts(40, 4, highest=4000.0)
    budget = float(0.6 * fit.cost.full)
    costs = paid(ex.eero(fit, calibrate, budget=budget), calibrate)
    assert (costs.sum() + 4000) / 41 <= budget * (1 + 1e-12)


def test_calibration_inputs_that_cost_more_than_any_input_are_refused():
    some = Costed(np.ones((2, 2)), np.ones(2), np.array([[1.0, 2.0], [1.0, 7.0]]))
    cost = ex.CostModel(some.costs[:1], unit="tokens", highest=5.0)
    told = "^a calibration input costs 7 tokens, more than the highest cost given$"
    with pytest.raises(ex.InputError, match=told):
        plan_by_cost(lambda _: np.array([0.5, 0.5]), cost, 1.5, some, some, 0.1, 0)


@pytest.mark.parametrize("most", [None, 1, 20])
@pytest.mark.parametrize("share", [0.7, 0.9, 1.5])
def test_plans_are_tried_evenly_and_close_together_near_the_budget(share, most):
    """Near: from five standard errors of a mean cost below the plan that costs the budget to two above it."""
    rng, asked = np.random.default_rng(0), []
    length = rng.lognormal(0.0, 0.8, 400)  # long ones leave late, so that plans cost more than they say
    cost = ex.CostModel(length[:, None] * [1.0, 2.0], highest=100.0)
    groups = None if most is None else ex.Groups(np.repeat(np.arange(100), [1, 2, 5, 8] * 25), most)
    fit = Costed(np.stack([-length, np.ones(400)], axis=1), rng.random(400), cost.per_input, groups)
    size = np.ones(400) if groups is None else groups.sizes
    weight, units = np.minimum(1, size / (most or 1)), len(size)

    def allocate(amount):
        asked.append(amount)
        last = (amount - cost.first) / (cost.full - cost.first)
        return np.array([1 - last, last])

    plans = list(certificate_search._plans(allocate, cost, share * cost.full, fit, 100))
    amounts = np.array(asked[-len(plans) :])
    evenly = np.linspace(cost.first, cost.full, 129)
    budget = share * cost.full
    costs = [fit.paid(limits) for _, limits in plans]
    if groups is not None:
        costs = [budget + weight * (groups.means(one) - budget) for one in costs]
    paid_by = dict(zip(amounts.tolist(), costs, strict=True))
    enough = [amount for amount in evenly.tolist() if paid_by[amount].mean() >= share * cost.full]
    middle = enough[0] if enough else evenly[-1]
    error = paid_by[middle].std() * (1 / 100 + 1 / units) ** 0.5 / weight.mean()
    near = middle + error * np.linspace(-5, 2, 64)
    near = near[(near > cost.first) & (near < cost.full)]
    np.testing.assert_allclose(amounts, np.unique(np.r_[evenly, near]), rtol=0 if groups is None else 1e-12)


def test_without_delta_an_input_costs_as_much_as_under_any_cheaper_plan():
    """An allocation under which some inputs leave sooner where more is spent. Oracle: all plans in turn."""
    rng, held_back = np.random.default_rng(2), 0
    for _ in range(20):
        fit, tested = (
            Costed(rng.random((n, 3)), rng.random(n), rng.uniform(0.5, 1.5, (n, 1)) * [1.0, 2.0, 4.0])
            for n in (60, 30)
        )
        cost, budget = ex.CostModel(fit.costs, highest=6.0), 2.4

        def allocate(amount, cost=cost):
            last = (amount - cost.first) / (cost.full - cost.first)
            middle = (1 - last) * (0.5 + 0.5 * np.sin(40 * amount))
            return np.array([1 - last - middle, middle, last])

        running, alone, found = np.zeros(30), [], []
        for rates, limits in certificate_search._plans(allocate, cost, budget, fit, 30):
            paid_now = tested.paid(limits)
            running = np.maximum(running, paid_now)
            alone.append((paid_now.sum() + 6.0) / 31 <= budget)
            found.append(((running.sum() + 6.0) / 31 <= budget, rates))
        chosen = found[[kept for kept, _ in found].index(False) - 1][1]
        made = plan_by_cost(allocate, cost, budget, fit, tested, None, 0)
        np.testing.assert_array_equal(made["rates"], chosen)
        held_back += alone.index(False) > [kept for kept, _ in found].index(False)
    assert held_back > 10


@pytest.mark.parametrize("delta", [0.01, 0.2])
def test_a_certificate_says_what_was_tested(delta, monkeypatch):
    """Each plan is tested at `delta`: the bets aim at 1 / delta."""

    def noted(losses, bound, **options):
        assert options == {"delta": delta}
        return betting(losses, bound, **options)

    monkeypatch.setattr(certificate_search, "betting", noted)
    calibrate = texts(900, 7)
    made = ex.eero(FIT, calibrate, budget=BUDGET, delta=delta, seed=3)
    costs, highest = paid(made, calibrate), calibrate.cost.highest
    proof = made.certificate
    assert (proof.unit, proof.delta, proof.n_calibration) == ("tokens", delta, 900)
    assert (proof.probability, proof.cost_quantile) == (1 - delta, BUDGET)
    assert made.calibration == "cost-per-input"
    assert proof.assumption.startswith("future inputs are exchangeable with these, ")
    assert proof.expected_cost == made.calibration_cost == pytest.approx(costs.mean())
    assert betting(costs[random_order(900, 3)] / highest, BUDGET / highest, delta=delta) <= delta
    assert made.counts.tolist() == np.bincount(made.route(calibrate), minlength=3).tolist()


def test_which_inputs_are_tested_when_does_not_depend_on_what_they_are():
    """Other keys, and other places: the thresholds come of the fit part, and the order of the tests of the seed."""
    calibrate = texts(600, 7)
    made = ex.eero(FIT, calibrate, budget=BUDGET, delta=0.05, seed=3)
    other = replace(calibrate, id=np.arange(600), row=None)
    again = ex.eero(FIT, other, budget=BUDGET, delta=0.05, seed=3)
    assert again.thresholds.tolist() == made.thresholds.tolist()
    assert again.certificate == made.certificate
    turned = calibrate.take(random_order(600, 3)[::-1])
    assert ex.eero(FIT, turned, budget=BUDGET, delta=0.05, seed=3).certificate.n_calibration == 600


def lengths_and_budget(kind):
    """Two populations of 1,000 texts, given as lengths, with the highest cost and a budget."""
    rng = np.random.default_rng(5)
    if kind == "usual":
        return rng.lognormal(0.0, 1.0, 1000).clip(0.1, 5.0), 10.0, 2.3
    # One in 10.5 is 400 times as long as the others: without one of them among 20 there seems to be money to spare.
    return np.where(rng.permutation(1000) < 95, 400.0, 1.0), 800.0, 39.2


@pytest.mark.parametrize("kind", ["usual", "rare"])
def test_the_expected_cost_is_within_the_budget_of_as_few_as_20_inputs(kind, fewer_plans):
    """Over the draw of the calibration inputs; where no plan is made, nothing is paid."""
    length, highest, budget = lengths_and_budget(kind)
    rng, trials = np.random.default_rng(0), 200
    score = np.stack([rng.random(1000) - length / 10, np.ones(1000)], axis=1)  # long ones leave late
    cost = ex.CostModel(length[:, None] * [1.0, 2.0], unit="tokens", highest=highest)
    nothing, ids = np.zeros((1000, 2)), np.arange(1000)
    everything = ex.ExitTrace.from_scores(score, nothing, cost=cost, label=nothing[:, 0], id=ids)
    fit, means = replace(everything, id=ids + 5000, row=None), []
    two_exit = partial(allocation.two_exit, fit.cost)
    for _ in range(trials):
        calibrate = everything.take(rng.integers(1000, size=20))
        with suppress(ex.InfeasibleBudget):
            policy = ex.compose("two", two_exit, fit, calibrate, budget=budget)
            means.append(paid(policy, everything).mean())
    paid_for = np.pad(means, (0, trials - len(means)))
    assert paid_for.mean() <= budget + norm.ppf(1 - 1e-6) * paid_for.std() / trials**0.5
    assert means
