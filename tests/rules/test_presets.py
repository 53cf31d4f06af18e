"""Presets have allocations of their own, and refuse options that make no sense."""

from __future__ import annotations

import numpy as np
import pytest

import exeunt as ex
from exeunt.policy import allocation
from exeunt.rules import baselines


def test_each_preset_has_its_allocation(fit, calibrate):
    budget = 0.6 * fit.cost.full
    eero = ex.eero(fit, calibrate, budget=budget, calibration="marginal", temperature=0.1)
    expected = allocation.exponential_weights(fit.risk, fit.cost, budget, temperature=0.1, spend="exactly")
    np.testing.assert_array_equal(eero.rates, expected)
    assert eero.name == "eero"
    shapes = {baselines.msdnet: allocation.geometric, baselines.predictive_exit: allocation.gaussian}
    for preset, rule in shapes.items():
        policy = preset(fit, calibrate, budget=budget, calibration="marginal")
        np.testing.assert_array_equal(policy.rates, rule(fit.cost, budget))
        assert policy.name == preset.__name__


def test_a_common_threshold_is_common(make_trace):
    trace = make_trace(20_000)
    fit, calibrate = trace.take(slice(10_000)), trace.take(slice(10_000, None))
    policy = ex.common_threshold(fit, calibrate, budget="60%")
    thresholds = policy.thresholds[:-1]
    assert np.ptp(thresholds) < 0.03
    score = fit.scores["score"]
    common = np.append(np.repeat(thresholds.mean(), 3), -np.inf)
    by_hand = np.bincount((score >= common).argmax(axis=1), minlength=4) / fit.n
    np.testing.assert_allclose(policy.rates, by_hand, atol=0.03)


@pytest.mark.parametrize("name", ["margin", "max_probability", "entropy"])
def test_scores_by_name_decide(recorded, name):
    fit, calibrate, test = recorded.split(fit=0.1, calibrate=0.1, test=0.1)
    policy = ex.eero(fit, calibrate, budget="60%", score=name)
    leave, _ = policy.step(0, {name: test.scores[name][:, 0]}, policy.init(test.n, id=test.id))
    np.testing.assert_array_equal(leave, policy.route(test) == 0)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"calibration": "marginal", "delta": 0.1}, "marginal"),
        ({"calibration": "conformal"}, "conformal"),
        ({"slack": 0.3}, "0.3"),
        ({"calibration": "marginal", "slack": -1}, "-1"),
        ({"delta": 0.0}, "got 0.0"),
        ({"delta": 1.5}, "1.5"),
        ({"delta": 0.95}, "that the guarantee fails, .*, got 0.95: for 95% confidence write 0.05"),
        ({"delta": 1e-20}, "1e-20"),
        ({"delta": float("nan")}, "nan"),
        ({"temperature": -2}, "-2"),
        ({"spend": "all"}, "all"),
        ({"score": "vibes"}, "vibes"),
        ({"budget": "lots"}, "lots"),
    ],
)
def test_bad_options_are_refused_by_value(parts, options, shown):
    with pytest.raises(ex.InputError, match=shown):
        ex.eero(parts[0], parts[1], **{"budget": "60%"} | options)


@pytest.mark.parametrize(
    ("calibration", "rates", "told"),
    [
        ("sequential", [0.5, 0.2, 0.9, 0.0], "sum to 1"),
        ("marginal", [0.5, 0.2, 0.9, 0.0], "sum to 1"),
        ("sequential", [0.0, 0.0, 0.0, 1.0], "mean cost"),
    ],
)
def test_an_allocation_is_held_to_its_word(parts, calibration, rates, told):
    with pytest.raises(ex.InputError, match=told):
        ex.compose("mine", lambda _: np.array(rates), *parts[:2], budget="60%", calibration=calibration)


def test_fitting_needs_labels(make_trace):
    trace = make_trace(100, labelled=False)
    with pytest.raises(ex.InputError, match="labels"):
        ex.eero(trace.take(slice(50)), trace.take(slice(50, 100)), budget="60%")
    baselines.msdnet(trace.take(slice(50)), trace.take(slice(50, 100)), budget="60%")  # geometry needs none


def test_an_idea_of_ones_own_plugs_in(parts):
    class Streak:
        """Consecutive exits that agree: patience."""

        name = "patience"

        def init(self, n):
            return {"last": np.full(n, -1), "streak": np.zeros(n)}

        def __call__(self, exit_, evidence, memory):
            streak = np.where(evidence["prediction"] == memory["last"], memory["streak"] + 1, 0)
            return streak, {"last": evidence["prediction"], "streak": streak}

        def to_dict(self):
            return {"kind": "streak"}

    fit, calibrate, test = parts
    policy = ex.eero(fit, calibrate, budget="60%", score=Streak())
    assert abs(ex.evaluate(policy, test).cost / policy.budget - 1) < 0.1
    # A streak has few values: ties decide, and the counts are exact all the same.
    np.testing.assert_array_equal(np.bincount(policy.route(calibrate), minlength=4), policy.counts)
