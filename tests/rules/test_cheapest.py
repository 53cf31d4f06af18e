from __future__ import annotations

from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from made_traces import kept_parts as parts
from made_traces import trace
from scipy.stats import binom

import exeunt as ex
from exeunt.errors import Infeasible
from exeunt.jobs.summary import PredictionSummary, Tally, planned_cost
from exeunt.rules.cheapest import cheapest
from exeunt.rules.common_threshold import risk_controlled


@cache
def found(**options):
    """The cheapest policy of many inputs, which several tests look at."""
    return cheapest(*parts(6000, seed=2)[:2], policy="eero", points=8, **options)


def _loss(policy, data):
    return data.correct[:, -1].mean() - (policy.answers(data) == data.label).mean()


def test_it_is_cheaper_and_says_why():
    test, policy = parts(6000, seed=2)[2], found(max_loss=0.05)
    proof = policy.loss_certificate
    assert proof.p_value <= proof.delta == 0.05
    assert proof.bound in ("betting", "hoeffding_bentkus")
    assert policy.budget < test.cost.full
    assert _loss(policy, test) < 0.09
    assert found(max_loss=0.15).budget < policy.budget


def test_the_guarantee_of_an_upper_confidence_bound_is_kept():
    """Over many draws, the loss in a large test part is beyond the bound no more often than delta.

    Those of the other ways to certify a loss: test_guarantees.py and test_guarantees_of_logs.py.
    """
    test, fit = trace(10_000, seed=1), trace(800, seed=2)
    trials, broken, made = 20, 0, 0
    for seed in range(trials):
        with suppress(Infeasible):
            policy = risk_controlled(fit, trace(1500, seed=10 + seed), max_loss=0.04, delta=0.2, method="ucb")
            made += 1
            broken += _loss(policy, test) > 0.04
    assert made > trials / 2
    assert broken <= binom.ppf(1 - 1e-6, trials, 0.2)


def test_joint_guarantees_and_their_limits():
    policy = found(max_loss=0.1, budget="90%")
    assert policy.certificate.budget <= 0.9 * policy.cost.full * (1 + 1e-9)
    assert policy.certificate.delta == pytest.approx(0.025 / 8)
    assert policy.loss_certificate.delta == 0.025
    with pytest.raises(Infeasible, match="loss") as failed:
        found(max_loss=0.02, budget="40%")
    error = failed.value
    assert error.binding == "max_loss"
    assert error.nearest_max_loss > 0.02
    # What it says can be had, can be had.
    assert found(max_loss=error.nearest_max_loss + 1e-9, budget="40%")
    assert error.nearest_budget is None or found(max_loss=0.02, budget=error.nearest_budget)


def test_too_few_inputs_are_named():
    fit, calibrate, _ = parts(200)
    with pytest.raises(Infeasible, match="labelled inputs") as failed:
        cheapest(fit, calibrate, max_loss=0.001, policy="eero")
    assert failed.value.binding == "max_loss"
    with pytest.raises(Infeasible):
        risk_controlled(fit, calibrate, max_loss=0.001)
    with pytest.raises(Infeasible, match="budget") as failed:
        cheapest(fit, calibrate.take(slice(20)), max_loss=0.3, budget=fit.cost.first * 1.001, policy="eero")
    assert failed.value.binding == "budget"


def test_user_errors():
    fit, calibrate, _ = parts(200)
    for options in ({"max_loss": -0.1}, {"max_loss": 1.5}, {"delta": 0}, {"points": 0}, {"policy": "best"}):
        with pytest.raises(ex.InputError):
            cheapest(fit, calibrate, **options)
    for options in ({}, {"budget": "50%", "max_loss": 0.1}, {"max_loss": 0.1, "method": "magic"}):
        with pytest.raises(ex.InputError):
            risk_controlled(fit, calibrate, **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_loss": "5%"}, "max_loss must be a number, got '5%': write a share, such as 0.05 for 5 points"),
        ({"max_loss": 5}, r"max_loss must lie in \(0, 1\), got 5: write a share, such as 0.05 for 5 points"),
        (
            {"delta": "5%"},
            "got '5%': it is the probability that a guarantee fails, such as 0.05 for one of 95%",
        ),
    ],
)
def test_a_loss_or_delta_out_of_range_says_how_it_is_written(options, told):
    with pytest.raises(ex.InputError, match=told):
        cheapest(*parts(200)[:2], **options)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, None])
def test_a_loss_without_a_chance_is_refused_and_no_other_delta_is_taken(delta):
    fit, calibrate, _ = parts(300)
    with pytest.raises(ex.InputError, match=f"delta.*{delta}"):
        risk_controlled(fit, calibrate, max_loss=0.1, delta=delta)
    for loss in (0.0, 0):
        with pytest.raises(ex.InputError, match="max_loss must lie in"):
            risk_controlled(fit, calibrate, max_loss=loss)


def test_risk_controlled_for_a_budget_is_the_common_threshold():
    fit, calibrate, test = parts(600)
    mine = risk_controlled(fit, calibrate, budget="60%")
    theirs = ex.common_threshold(fit, calibrate, budget="60%", delta=0.05)
    assert np.array_equal(mine.route(test), theirs.route(test))


def two_exits(rng, right, label, wrong):
    """Scores are noise."""
    prediction, scores = np.where(right, label[:, None], wrong[:, None]), rng.uniform(size=right.shape)
    ids, cost = rng.integers(2**62, size=len(label)), ex.CostModel([1.0, 2.0])
    return ex.ExitTrace.from_scores(scores, prediction, cost=cost, label=label, id=ids)


def test_the_guarantee_is_kept_on_data_sorted_by_class():
    """A bet on the inputs in their order would win on the first class, where early answers gain."""
    rng = np.random.default_rng(0)
    max_loss, delta, trials, broken = 0.099, 0.2, 100, 0

    def drawn(n):
        label = np.repeat(
            [0, 1], n // 2
        )  # sorted; of one half .2 are gained by leaving, of the other .4 lost
        apart = rng.uniform(size=n) < np.where(label == 0, 0.2, 0.4)
        right = np.stack([(label == 0) | ~apart, (label == 1) | ~apart], axis=1)
        return two_exits(rng, right, label, 1 - label)

    def first_exit(fit, calibrate, *, budget, delta, seed):
        rates = [0.0, 1.0] if budget == 2.0 else [1.0, 0.0]
        return ex.compose("first exit", lambda _: np.array(rates), fit, calibrate, budget=budget)

    fit = drawn(400)
    for _ in range(trials):
        policy = cheapest(fit, drawn(400), max_loss=max_loss, delta=delta, policy=first_exit, points=2)
        assert policy.loss_certificate.bound == "betting"
        broken += policy.budget < 2.0  # whose loss is .1
    assert broken <= binom.ppf(1 - 1e-6, trials, delta)


def overthinking(n, seed, gain):
    """Two exits of which the first is right more often, by `gain`."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, n)
    return two_exits(rng, rng.uniform(size=(n, 2)) < [0.7 + gain, 0.7], label, (label + 1) % 4)


def test_no_loss_is_certified_where_early_answers_are_better():
    fit, calibrate, test = (overthinking(3000, seed, 0.2) for seed in range(3))
    policy = cheapest(fit, calibrate, max_loss=0, policy="eero")
    assert policy.loss_certificate.max_loss == 0
    assert policy.loss_certificate.p_value <= 0.05
    assert "at most 0 points below" in str(policy)
    assert policy.budget < 2
    assert _loss(policy, test) < 0


def test_without_a_better_policy_no_loss_is_the_full_network():
    fit, calibrate, test = parts(900, seed=2)
    policy = cheapest(fit, calibrate, max_loss=0, policy="eero")
    assert (policy.route(test) == test.n_exits - 1).all()
    assert np.array_equal(policy.answers(test), test.prediction[:, -1])
    assert policy.certificate is policy.loss_certificate
    assert (policy.certificate.max_loss, policy.certificate.loss) == (0, 0)
    assert "no accuracy is lost, because every input gets the answer of the full network" in str(policy)
    assert ex.Policy.from_dict(policy.to_dict()) == policy
    with pytest.raises(Infeasible, match="loss stands in the way"):
        cheapest(fit, calibrate, max_loss=0, policy="eero", budget="50%")
    both = cheapest(fit, calibrate, max_loss=0, policy="eero", budget="100%")
    assert (both.route(test) == test.n_exits - 1).all()
    assert both.loss_certificate.delta == 0.025


def test_no_loss_is_claimed_no_more_often_than_delta():
    """Of exits that are equally good, those that answer early lose something in half of all draws."""
    fit = overthinking(400, 0, 0.0)
    trials, made = 40, 0
    for seed in range(trials):
        calibrate = overthinking(400, 10 + seed, -0.001)
        policy = cheapest(fit, calibrate, max_loss=0, delta=0.2, policy="eero", points=4)
        made += policy.loss_certificate.bound != "certain"
    assert made <= binom.ppf(1 - 1e-6, trials, 0.2)


def test_the_certificate_is_the_one_there_is():
    fit, calibrate, _ = parts(6000, seed=2)
    loss_alone = found(max_loss=0.15)
    assert loss_alone.certificate is loss_alone.loss_certificate
    assert loss_alone.cost_certificate is None
    assert ex.Policy.from_dict(loss_alone.to_dict()).certificate == loss_alone.loss_certificate
    both = found(max_loss=0.1, budget="90%")
    assert str(both.certificate) == f"{both.cost_certificate}\n{both.loss_certificate}"
    assert str(both).count(str(both.cost_certificate)) == str(both).count(str(both.loss_certificate)) == 1
    assert ex.eero(fit, calibrate, budget="50%").certificate is None


def test_it_tells_how_far_it_is():
    fit, calibrate, _ = parts(900)
    seen = []
    cheapest(fit, calibrate, max_loss=0.3, policy="eero", points=5, progress=lambda *at: seen.append(at))
    assert seen == [(k, 7) for k in range(1, len(seen) + 1)]
    assert len(seen) >= 5


def test_without_a_budget_all_calibration_inputs_say_what_it_costs():
    """Thresholds come from fewer, fit inputs, whose mean cost says little."""
    _, calibrate, test = parts(6000, seed=2)
    policy = found(max_loss=0.05)
    cost = calibrate.cost.cumulative[policy.route(calibrate)].mean()
    assert policy.budget == pytest.approx(cost)
    assert policy.expected_cost == pytest.approx(cost)
    assert policy.was_calibrated_on(calibrate)
    assert policy.n_calibration == calibrate.n
    assert policy.limit is None
    assert "allowed" not in str(ex.evaluate(policy, test))
    both = found(max_loss=0.1, budget="90%")
    assert both.limit == both.budget
    assert "allowed" in str(ex.evaluate(both, test))


def test_too_few_fit_inputs_are_named():
    fit, calibrate, _ = parts(900)
    with pytest.raises(ex.InputError, match=r"2 fit inputs are too few: some give .*, and others teach"):
        cheapest(fit.take(slice(0, 2)), calibrate, max_loss=0.3, policy="eero")


@pytest.mark.parametrize("made", [cheapest, risk_controlled])
def test_without_a_budget_nothing_is_said_to_be_allowed(made):
    fit, calibrate, _ = parts(900)
    policy = made(fit, calibrate, max_loss=0.3)
    cost = policy.cost.show(policy.budget)
    assert f" exits, mean cost {cost} (" in str(policy)
    assert planned_cost(policy, 10).endswith(f" for 10 inputs, {cost} each")
    tally = Tally(n=2, cost=2 * policy.budget, cost_apart=2 * policy.budget)
    assert str(PredictionSummary.of_job(tally, policy, None)) == f"2 of 2 inputs answered; mean cost {cost}"
