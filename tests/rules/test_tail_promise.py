"""A promise of the tail: that at most a share of the inputs costs more than an amount."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_traces import trace
from scipy.stats import beta, binom
from test_early_promises import chance

import exeunt as ex
from exeunt.guarantees.p_values import binomial
from exeunt.policy import TailCertificate
from exeunt.rules.outcomes import Outcome
from exeunt.rules.promises import Tail

FIT, CALIBRATE, TEST = trace(800, 4, seed=1), trace(1500, 4, seed=2), trace(20_000, 4, seed=3)


def services(n, seed, groups=None):
    """Two services whose prices differ between inputs."""
    whole, rng = replace(trace(n, 2, seed=seed), log_probability=None), np.random.default_rng(seed)
    price = {"small": rng.uniform(0.001, 0.003, n), "large": rng.uniform(0.005, 0.03, n)}
    return ex.CascadeTrace(
        {
            name: replace(
                whole.exits(k, k + 1).with_cost(ex.CostModel(price[name][:, None], unit="usd", highest=0.03)),
                groups=groups,
            )
            for k, name in enumerate(price)
        }
    )


def above(policy, inputs, amount):
    """The share of the inputs that cost more, counted one by one."""
    cost, exits = policy.along(inputs).cost.of_inputs(inputs.n), policy.route(inputs)
    return sum(cost[row, exit_] > amount for row, exit_ in enumerate(exits.tolist())) / inputs.n


def test_what_is_certified_is_measured_and_close_to_the_truth_and_saved():
    policy = ex.cheapest(FIT, CALIBRATE, policy="eero", max_loss=0.05, max_tail=("4 MMACs", 0.4))
    (proof,) = policy.promises
    assert proof.amount == pytest.approx(4.0)  # what the third exit costs, which is not more
    assert (proof.limit, proof.delta, proof.n_test, proof.bound) == (0.4, 0.05, 1500, "binomial")
    assert proof.measured == pytest.approx(above(policy, CALIBRATE, 4.01))
    assert proof.p_value == pytest.approx(binom.cdf(round(1500 * proof.measured), 1500, 0.4))
    assert above(policy, TEST, 4.01) <= 0.4
    assert policy.loss_certificate.max_loss == 0.05
    assert policy.limit is None
    assert ex.Policy.from_dict(policy.to_dict()) == policy
    said = (
        "over the 1,500 calibration inputs, in the long run at most 40% of the inputs cost more than 4 MMACs "
        f"(measured: {proof.measured:.2%}; p = {proof.p_value:.2g}, binomial bound). It assumes that future inputs are"
    )
    assert said in str(policy)
    body = policy.to_dict()
    body["promises"][0]["amount"] = "4"
    with pytest.raises(ex.InputError, match="amount must be a finite number"):
        ex.Policy.from_dict(body)


def test_it_goes_with_every_other_promise():
    limits = {"max_loss": 0.06, "max_early_loss": 0.1, "max_early_worse": 0.2, "max_tail": ("80%", 0.45)}
    policy = ex.cheapest(FIT, CALIBRATE, policy="eero", budget="90%", **limits)
    assert [proof.promise for proof in policy.promises] == ["max_early_loss", "max_early_worse", "max_tail"]
    assert [proof.delta for proof in policy.tested_certificates] == [0.025] * 4
    assert policy.cost_certificate is not None
    alone = ex.cheapest(FIT, CALIBRATE, policy="eero", max_tail=("80%", 0.6))
    assert alone.loss_certificate.max_loss == 0.01  # the usual loss
    early = ex.cheapest(FIT, CALIBRATE, policy="eero", max_tail=("80%", 0.5), max_early_worse=0.2)
    assert early.loss_certificate is None
    agrees = ex.cheapest(FIT, CALIBRATE, policy="eero", max_tail=("80%", 0.5), agree=0.8)
    assert agrees.loss_certificate.measure == "agreement"


@pytest.mark.parametrize("grouped", [False, True])
def test_where_inputs_differ_in_price(grouped):
    groups = [ex.Groups(n + np.arange(n) // 4, rows_per_group=4) if grouped else None for n in (1200, 2400)]
    fit, calibrate = services(1200, 1, groups[0]), services(2400, 2, groups[1])
    policy = ex.cheapest(
        fit, calibrate, policy="eero", points=8, reference="large", max_loss=0.15, max_tail=("0.02 usd", 0.5)
    )
    (proof,) = policy.promises
    assert (proof.amount, proof.unit) == (0.02, "usd")
    assert proof.bound == ("betting" if grouped else "binomial")
    assert proof.measured == pytest.approx(above(policy, calibrate, 0.02))
    assert 0 < above(policy, services(8000, 3), 0.02) <= 0.5
    assert "of the inputs cost more than 0.02 usd" in str(policy)
    assert ("over the 600 calibration groups (2,400 inputs)" in str(proof)) is grouped
    assert ("(inputs of groups of more than 4 weigh 4/size)" in str(proof)) is grouped


def test_what_costs_the_amount_but_for_rounding_is_not_above_it():
    outcome = Outcome(
        np.zeros(4), np.ones(4, dtype=bool), np.array([0.1, 0.1 + 0.2, 0.3 * (1 + 2e-9), 0.30001])
    )
    promise = Tail(0.5, amount=0.3, unit="usd")
    assert promise.values(outcome).tolist() == [0, 0, 0, 1]
    assert promise.measured(outcome) == 0.25


@pytest.mark.parametrize(("n", "beyond"), [(60, 3), (60, 30), (400, 8)])
def test_the_p_value_is_also_the_law_of_a_tail_that_calibration_counts_fix(n, beyond):
    """Of n inputs so many are to cost more, and their scores set the threshold: then the share of future inputs that
    cost more is Beta(beyond + 1, n - beyond), and above q with the probability that is the p-value."""
    rng, trials = np.random.default_rng(n + beyond), 4000
    thresholds = np.sort(rng.uniform(size=(trials, n)), axis=1)[:, beyond]  # lower scores go on
    for q in (0.5, 1.0, 1.5) * np.array(beyond / n):
        p_value = binomial(np.repeat([1.0, 0.0], [beyond, n - beyond]), q)
        assert p_value == pytest.approx(beta.sf(q, beyond + 1, n - beyond), rel=1e-9)
        heavier = int((thresholds > q).sum())
        assert binom.ppf(1e-6, trials, p_value) <= heavier <= binom.ppf(1 - 1e-6, trials, p_value)


@pytest.mark.parametrize("budget", [None, 1.9])
def test_a_tail_that_no_policy_keeps_is_certified_with_probability_delta_at_most(budget):
    """Every policy that keeps the tail breaks the loss by a hair, and the other way round."""
    fit, trials, delta, made = chance(400, 0.3, 0.0, 0), 50, 0.2, 0
    for seed in range(trials):
        calibrate = chance(300, 0.3, 0.0, 1000 + seed)
        try:
            ex.cheapest(
                fit,
                calibrate,
                policy="eero",
                points=8,
                delta=delta,
                seed=seed,
                budget=budget,
                max_loss=0.3 * 0.5 - 0.001,
                max_tail=(1.5, 0.5),
            )
        except ex.Infeasible:
            continue
        made += 1
    assert made <= binom.ppf(1 - 1e-6, trials, delta)


def test_what_stands_in_the_way_is_named_with_every_limit_that_would_do():
    limits = {"max_loss": 0.03, "max_tail": ("4.5 MMACs", 0.05)}
    with pytest.raises(ex.Infeasible, match="stands in the way") as refused:
        ex.cheapest(FIT, CALIBRATE, policy="eero", budget="90%", **limits)
    error = refused.value
    assert error.binding in limits
    assert set(error.nearest_limits) == {"max_loss", "max_tail"}
    loss, tail = error.nearest_max_loss, error.nearest_limits["max_tail"]
    assert f"{100 * tail:.4g}% of the inputs above 4.5 MMACs at" in str(error)
    assert f"a loss of {100 * loss:.4g}% at" in str(error)
    make = {"policy": "eero", "budget": "90%"}
    assert ex.cheapest(FIT, CALIBRATE, **make, max_loss=loss + 1e-9, max_tail=limits["max_tail"]).promises
    assert ex.cheapest(FIT, CALIBRATE, **make, max_loss=0.03, max_tail=("4.5 MMACs", tail + 1e-9)).promises


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            ("0.5 MMACs", 0.1),
            "every input costs more than 0.5 MMACs, the cost of max_tail: .* 1 MMACs; give at least",
        ),
        (
            ("4 MMACs", 0),
            r"the share of max_tail must lie in \(0, 1\), got 0: write a share, such as 0.05 for 5%",
        ),
        (("4 MMACs", 1), r"the share of max_tail must lie in \(0, 1\)"),
        (("4 MMACs", "1%"), "the share of max_tail must be a number, got '1%': write a share"),
        (("4 usd", 0.1), "budget '4 usd' is in 'usd', which is no unit of these costs"),
        (("often", 0.1), "often"),
        ("4 MMACs", "max_tail is a cost and a share, such as .*, got '4 MMACs'"),
        ((4,), "max_tail is a cost and a share"),
        (0.1, "max_tail is a cost and a share, such as .*, got 0.1"),
    ],
)
def test_a_wrong_tail_is_refused_in_a_line(asked, told):
    with pytest.raises(ex.InputError, match=told) as refused:
        ex.cheapest(FIT, CALIBRATE, policy="eero", max_tail=asked)
    assert "\n" not in str(refused.value)


def test_the_cheapest_exit_is_that_of_any_input_and_model():
    fit, calibrate = services(1200, 1), services(2400, 2)
    least = float(fit["small"].cost.of_inputs(1200).min())
    with pytest.raises(ex.InputError, match="every input costs more than"):
        Tail.of((least * 0.99, 0.1), fit, "large")
    assert Tail.of((least, 0.1), fit, "large").limit == 0.1
    assert calibrate.unit == "usd"


def test_how_it_is_said():
    proof = TailCertificate(0.01, "usd", 0.01, 0.003, "binomial", 0.004, 0.05, 900)
    assert str(proof) == (
        "Guarantee: with probability 95% over the 900 calibration inputs, in the long run at most 1% of the inputs "
        "cost more than 0.01 usd (measured: 0.40%; p = 0.003, binomial bound). It assumes that future inputs are "
        "exchangeable with these, and that nothing else was fitted on them."
    )
