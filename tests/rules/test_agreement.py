"""The cheapest policy whose answers are almost all those of the full network, or of another model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_traces import trace
from scipy.stats import binom

import exeunt as ex
from exeunt.rules.cheapest import cheapest


def unlabelled(n, seed):
    return replace(trace(n, seed=seed), label=None)


def models(n, seed):
    """Two models of two exits each; the large one costs more."""
    whole = replace(unlabelled(n, seed), log_probability=None)
    small, large = whole.exits(0, 2), whole.exits(2, 4).with_cost(ex.CostModel([4.0, 8.0]))
    return ex.CascadeTrace({"small": small.with_cost(ex.CostModel([1.0, 2.0])), "large": large})


def differ(policy, inputs, reference):
    return float((policy.answers(inputs) != reference.prediction[:, -1]).mean())


def test_answers_that_differ_from_those_of_the_last_exit_are_counted():
    fit, calibrate, test = (unlabelled(n, seed) for n, seed in ((1500, 1), (3000, 2), (20_000, 3)))
    policy = cheapest(fit, calibrate, agree=0.85, policy="eero")
    proof = policy.loss_certificate
    assert proof.loss == differ(policy, calibrate, calibrate)
    assert (proof.measure, proof.max_loss, proof.n_test) == ("agreement", 0.15, 3000)
    assert policy.budget < fit.cost.full
    assert differ(policy, test, test) < 0.16
    told = "over the 3,000 calibration inputs, at most 15% of the answers differ from those of the full "
    assert f"{told}network in the long run (measured: {proof.loss:.2%}; p = " in str(policy)
    assert cheapest(fit, calibrate, agree=0.92, policy="eero").budget > policy.budget


def test_labels_have_no_say():
    fit, calibrate = trace(1500, seed=1), trace(1500, seed=2)
    bare = [replace(one, label=None) for one in (fit, calibrate)]
    made = [cheapest(*parts, agree=0.8, policy="eero", points=5) for parts in ((fit, calibrate), bare)]
    said = cheapest(*(one.with_reference() for one in bare), max_loss=0.2, policy="eero", points=5)
    for one in (made[1], said):
        assert made[0].thresholds.tolist() == one.thresholds.tolist()
    assert said.loss_certificate.reference == "the full network"


def test_a_cascade_agrees_with_its_most_expensive_model_or_the_one_named():
    fit, calibrate, test = (models(n, seed) for n, seed in ((600, 1), (1000, 2), (5000, 3)))
    options = {"policy": "eero", "points": 3}
    policy = cheapest(fit, calibrate, agree=0.8, **options)
    assert policy.loss_certificate.reference == "large"
    assert "at most 20% of the answers differ from those of large" in str(policy)
    assert differ(policy, test, test["large"]) < 0.23
    small = cheapest(fit, calibrate, agree=0.8, reference="small", **options)
    assert small.loss_certificate.reference == "small"
    assert differ(small, test, test["small"]) < 0.23
    of_small = [one.with_reference("small") for one in (fit, calibrate)]
    again = cheapest(*of_small, max_loss=0.2, **options)
    assert again.thresholds.tolist() == small.thresholds.tolist()


def test_both_guarantees_hold_together():
    fit, calibrate = unlabelled(1000, 1), unlabelled(2000, 2)
    policy = cheapest(fit, calibrate, agree=0.8, budget="90%", policy="eero")
    assert policy.cost_certificate.budget <= 0.9 * fit.cost.full * (1 + 1e-9)
    assert policy.loss_certificate.delta == 0.025
    told = r"the agreement stands in the way: .*cannot show that at most 2% of the answers differ at .*"
    with pytest.raises(ex.Infeasible, match=told + r"an agreement of [0-9.]+% at .*it is what agree=1 "):
        cheapest(fit, calibrate, agree=0.98, budget="40%", policy="eero")


def test_all_answers_are_those_of_the_full_network():
    fit, calibrate, test = (unlabelled(600, seed) for seed in (1, 2, 3))
    policy = cheapest(fit, calibrate, agree=1, policy="eero", points=5)
    assert "no answer differs, because every input gets the answer of the full network" in str(policy)
    assert differ(policy, test, test) == 0
    # The reference is no exit of these.
    shorter = [one.with_reference().selected([0, 1]) for one in (fit, calibrate)]
    with pytest.raises(ex.Infeasible, match="the agreement stands in the way"):
        cheapest(*shorter, max_loss=0, policy="eero", points=5)
    loose = cheapest(*shorter, max_loss=0.9, policy="eero", points=5)
    assert loose.loss_certificate.loss == differ(loose, shorter[1], calibrate)


def test_the_guarantee_is_kept():
    """Over many draws, more answers differ in a large test part no more often than delta."""
    fit, test = unlabelled(400, 1), unlabelled(10_000, 2)
    trials, broken, cheaper = 25, 0, 0
    for seed in range(trials):
        policy = cheapest(fit, unlabelled(800, 10 + seed), agree=0.85, delta=0.2, policy="eero", points=4)
        cheaper += policy.budget < fit.cost.full
        broken += differ(policy, test, test) > 0.15
    assert cheaper > trials / 2
    assert broken <= binom.ppf(1 - 1e-6, trials, 0.2)


def test_graded_answers_that_can_be_compared_agree():
    plain = [models(400, seed) for seed in (1, 2)]
    half = np.full((400, 2), 0.5)
    graded = [ex.CascadeTrace({name: one[name].graded(half) for name in one.names}) for one in plain]
    made = [cheapest(*parts, agree=0.8, policy="eero", points=3) for parts in (plain, graded)]
    assert made[0].loss_certificate == made[1].loss_certificate


def test_the_reference_of_the_fit_inputs_is_that_of_the_calibration_inputs():
    """Where inputs differ in cost, each part may have another most expensive model."""

    def part(seed, highest):
        rng = np.random.default_rng(seed)
        true, ids = rng.integers(0, 4, 600), np.arange(600) + 1000 * seed

        def model(right, most):
            said = np.where(rng.random(600) < right, true, rng.integers(0, 4, 600))[:, None]
            cost = ex.CostModel(rng.uniform(0.5, most, (600, 1)), highest=10)
            return ex.ExitTrace.from_scores(rng.random((600, 1)), said, cost=cost, id=ids)

        return ex.CascadeTrace({"small": model(0.7, 0.6), "a": model(0.9, highest), "b": model(0.9, 3)})

    fit, calibrate = part(1, 4), part(2, 2)
    assert [one.with_reference().reference for one in (fit, calibrate)] == ["a", "b"]
    policy = cheapest(fit, calibrate, agree=0.5, policy="eero", points=4)
    assert policy.loss_certificate.reference == "a"
    assert policy.loss_certificate.loss == pytest.approx(differ(policy, calibrate, calibrate["a"]))


def test_parts_are_measured_alike():
    fit, calibrate = trace(300, seed=1), trace(300, seed=2)
    iou = calibrate.graded(np.zeros((300, 4)), measure="IoU", better="higher")
    for parts, told in (
        ((fit, calibrate.with_reference()), "got accuracy and agreement with the full network"),
        ((fit.with_reference(1), calibrate.with_reference(2)), "exit 1 and agreement with exit 2"),
        ((fit, iou), "got IoU and accuracy"),
    ):
        for make in (cheapest, ex.risk_controlled):
            with pytest.raises(ex.InputError, match=f"answers must be measured alike in all parts, .*{told}"):
                make(*parts, max_loss=0.5)
    with pytest.raises(ex.InputError, match="agreement with exit 1 and agreement with the full network"):
        cheapest(fit.with_reference(1), calibrate, agree=0.9)


def test_an_exit_that_agrees_with_the_reference_on_fit_inputs_alone_is_not_it():
    """The reference is exit 1. On these fit inputs the last exit agrees with it."""
    fit, calibrate = unlabelled(300, 1), unlabelled(300, 2)
    fit = fit.take(np.flatnonzero(fit.prediction[:, 1] == fit.prediction[:, 3]))
    parts = [one.with_reference(1).selected([0, 3]) for one in (fit, calibrate)]
    with pytest.raises(ex.Infeasible, match="the agreement stands in the way"):
        cheapest(*parts, max_loss=0, policy="eero")


def test_risk_control_names_its_reference():
    fit, calibrate = (unlabelled(2000, seed).with_reference(2, "large") for seed in (1, 2))
    policy = ex.risk_controlled(fit, calibrate, max_loss=0.4)
    proof = policy.loss_certificate
    assert "at most 40% of the answers differ from those of large" in str(proof)
    assert proof.loss == float((policy.answers(calibrate) != calibrate.prediction[:, 2]).mean())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"agree": 1.2}, "agree must be above 0 and at most 1, which is 100%, got 1.2"),
        ({"agree": 0}, "agree must be above 0 and at most 1, which is 100%, got 0"),
        ({"agree": float("nan")}, "agree must be finite, got nan"),
        ({"agree": "98%"}, "agree must be a number, got '98%'"),
        ({"agree": 0.9, "max_loss": 0.1}, "give agree or max_loss, not both"),
        ({"agree": 0.9, "reference": "huge"}, "there is no model 'huge': choose one of small, large"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, told):
    with pytest.raises(ex.InputError, match=told):
        cheapest(models(200, 1), models(200, 2), **options)


def test_a_single_exit_agrees_with_itself():
    one = [unlabelled(100, seed).selected([3]) for seed in (1, 2)]
    for parts in (one, [ex.CascadeTrace({"only": part}) for part in one]):
        with pytest.raises(ex.InputError, match="a single exit, which always agrees with itself"):
            cheapest(*parts, agree=0.98)
