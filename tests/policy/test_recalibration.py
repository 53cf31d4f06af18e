"""A policy is calibrated again on recent inputs, without labels, with a receipt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex
from exeunt.errors import InfeasibleBudget

COST = ex.CostModel([1, 2, 4])


def recorded(n, seed, difficulty=0.0, *, labelled=True):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 5, n)
    logits = rng.normal(size=(n, 3, 5))
    logits[np.arange(n), :, label] += np.array([2.0, 3.0, 4.0]) * (1 - difficulty)
    return ex.ExitTrace.from_logits(logits, cost=COST, label=label if labelled else None)


@pytest.fixture(scope="module")
def policy():
    return ex.eero(recorded(500, 0), recorded(1000, 1), budget="60%", delta=0.05)


def test_the_budget_is_kept_again_on_harder_inputs_and_the_receipt_says_what_changed(policy):
    latest, later = recorded(2000, 2, 0.4, labelled=False), recorded(20_000, 3, 0.4)
    spent = policy.priced(later).cost.cumulative[policy.route(later)].mean()
    assert spent > policy.budget
    made = ex.recalibrate(policy, latest)
    assert made.priced(later).cost.cumulative[made.route(later)].mean() <= made.budget == policy.budget
    assert made.cost_certificate.delta == 0.05
    assert made.cost_certificate.n_calibration == made.counts.sum() == 2000
    assert made.score == policy.score
    receipt = str(made)
    assert "Calibrated again on 2,000 inputs, which cost " in receipt
    assert f"from a score of {made.thresholds[0]:.4g} on instead of {policy.thresholds[0]:.4g}" in receipt
    assert "counts from the first input that is answered under this policy" in receipt
    assert ex.Watch(policy).replay(later.take(slice(3000))) != []
    assert ex.Watch(made).replay(later.take(slice(3000))) == []
    assert ex.Policy.from_dict(made.to_dict()) == made


def test_on_the_calibration_inputs_themselves_nothing_changes(policy):
    made = ex.recalibrate(policy, recorded(1000, 1))
    assert made.limits.to_dict() == policy.limits.to_dict()
    assert made.watched.to_dict() == policy.watched.to_dict()
    assert "No threshold changed" in made.notes["recalibration"]["text"]


def test_recordings_in_files_give_the_same_policy(policy, tmp_path):
    latest = recorded(900, 2, 0.3, labelled=False)
    for k, rows in enumerate((slice(0, 400), slice(400, 900))):
        latest.take(rows).save(tmp_path / f"{k}.parquet")
    assert ex.recalibrate(policy, ex.StoredTrace.open(tmp_path)) == ex.recalibrate(policy, latest)


def test_a_certificate_is_asked_for_or_left_out_and_a_certified_loss_is_void(policy):
    latest = recorded(300, 2)
    without = replace(policy, certificate=None)
    assert ex.recalibrate(without, latest).certificate is None
    assert ex.recalibrate(without, latest, delta=0.2).cost_certificate.delta == 0.2
    fit, calibrate = recorded(2000, 5), recorded(3000, 6)
    for promised, voided in (
        ({"max_loss": 0.1}, "loss is"),
        ({"max_early_loss": 0.3}, "loss of early answers is"),
        (
            {"max_early_worse": 0.5, "max_tail": ("50%", 0.9)},
            "share of worse early answers and tail of the cost are",
        ),
    ):
        certified = ex.cheapest(fit, calibrate, **promised, budget="90%", points=5)
        assert len(certified.tested_certificates) == len(promised)
        made = ex.recalibrate(certified, latest)
        assert made.tested_certificates == ()
        assert f"The certified {voided} void." in str(made)


def test_few_inputs_are_planned_with_care(policy):
    made = ex.recalibrate(policy, recorded(60, 2))
    assert made.rates[0] > policy.rates[0]
    assert made.cost_certificate.probability >= 0.95
    with pytest.raises(InfeasibleBudget):
        ex.recalibrate(policy, recorded(1, 2))


def test_policies_of_other_plans_and_other_exits_are_refused(policy, refuses):
    fit, calibrate = recorded(500, 0), recorded(500, 1)
    marginal = ex.eero(fit, calibrate, budget="60%", calibration="marginal")
    refused = {
        "was not planned by counts": lambda: ex.recalibrate(marginal, calibrate),
        "at least one input, got 0 inputs": lambda: ex.recalibrate(policy, calibrate.take(slice(0))),
        r"a policy and recorded outputs .* got Policy and str": lambda: ex.recalibrate(policy, "latest"),
        "delta is the probability that the guarantee fails": lambda: ex.recalibrate(
            policy, calibrate, delta=2.0
        ),
    }
    refuses(refused)
