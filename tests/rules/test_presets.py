"""Every preset keeps the same contract; each has its own allocation."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest

import exeunt as ex
from exeunt.errors import UnitError
from exeunt.policy import allocation
from exeunt.rules import baselines

PRESETS = {
    "eero": ex.eero,
    "eero at most": partial(ex.eero, spend="at_most"),
    "eero marginal": partial(ex.eero, calibration="marginal"),
    "eero marginal slack": partial(ex.eero, calibration="marginal", slack=0.5),
    "eero certified": partial(ex.eero, delta=0.1),
    "msdnet": baselines.msdnet,
    "msdnet certified": partial(baselines.msdnet, delta=0.1),
    "predictive exit": baselines.predictive_exit,
    "predictive exit narrow": partial(baselines.predictive_exit, sigma=0.5),
    "common threshold": ex.common_threshold,
    "common threshold certified": partial(ex.common_threshold, delta=0.1),
    "composed": lambda fit, *more, **options: ex.compose(
        "halves", partial(allocation.geometric, fit.cost), fit, *more, **options
    ),
}
EVERY = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())


@EVERY
@pytest.mark.parametrize("budget", ["40%", "62.5%", "100%"])
def test_the_contract(preset, budget, parts, tmp_path):
    fit, calibrate, test = parts
    policy = preset(fit, calibrate, budget=budget)
    allowed = fit.cost.budget(budget)
    assert policy.budget == allowed
    assert policy.rates.sum() == pytest.approx(1)
    assert policy.rates @ fit.cost.cumulative <= allowed * (1 + 1e-9)
    assert policy.n_calibration == calibrate.n

    exits = policy.route(test)
    assert exits.shape == (test.n,)
    assert set(exits) <= set(range(fit.n_exits))
    assert not set(exits) & set(np.flatnonzero(~policy.active))
    order = np.random.default_rng(0).permutation(test.n)
    np.testing.assert_array_equal(policy.route(test.take(order)), exits[order])

    # Five standard deviations of what calibration and test inputs can do to the mean.
    chance = 5 * np.ptp(fit.cost.cumulative) / 2 * (calibrate.n**-0.5 + test.n**-0.5)
    assert ex.evaluate(policy, test).cost <= allowed + chance
    if policy.counts is not None:
        on_calibration = np.bincount(policy.route(calibrate), minlength=fit.n_exits)
        np.testing.assert_array_equal(on_calibration, policy.counts)
        assert policy.counts @ fit.cost.cumulative <= allowed * calibrate.n * (1 + 1e-9)
    if policy.certificate is not None:
        assert policy.certificate.probability >= 1 - policy.certificate.delta
        assert policy.certificate.cost_quantile <= allowed * (1 + 1e-9)

    policy.save(tmp_path / "p.json")
    assert ex.Policy.load(tmp_path / "p.json") == policy
    assert preset(fit, calibrate, budget=budget) == policy  # nothing random but the seed


@EVERY
def test_constant_scores_still_release_their_shares(preset):
    n, cost, rng = 3000, ex.CostModel([1.0, 2.0, 4.0]), np.random.default_rng(5)
    label, prediction, ids = rng.integers(0, 2, n), rng.integers(0, 2, (n, 3)), rng.permutation(n)
    trace = ex.ExitTrace.from_scores(np.full((n, 3), 0.7), prediction, cost=cost, label=label, id=ids)
    fit, calibrate, test = (trace.take(slice(a, a + 1000)) for a in (0, 1000, 2000))
    policy = preset(fit, calibrate, budget=2.0)
    shares = ex.evaluate(policy, test).shares
    if policy.counts is not None:
        counts = np.bincount(policy.route(calibrate), minlength=3)
        np.testing.assert_array_equal(counts, policy.counts)
        np.testing.assert_allclose(shares, policy.counts / 1000, atol=6 * 0.5 * 2**0.5 / 1000**0.5)
    assert (shares[policy.rates == 0] == 0).all()


@EVERY
def test_calibration_and_test_need_no_labels(preset, parts):
    fit, calibrate, test = parts
    bare = [replace(part, label=None) for part in (calibrate, test)]
    policy = preset(fit, bare[0], budget="60%")
    assert policy == preset(fit, calibrate, budget="60%")
    result = ex.evaluate(policy, bare[1])
    assert result.accuracy is None
    assert result.cost == ex.evaluate(policy, test).cost


@EVERY
def test_bad_parts_and_budgets_are_refused(preset, parts, make_trace, refuses):
    fit, held, _ = parts
    refused = {
        "share 5 rows": lambda: preset(fit, fit.take(slice(5)), budget="60%"),
        "fit part is empty": lambda: preset(fit.take([]), held, budget="60%"),
        "calibrate part is empty": lambda: preset(fit, held.take([]), budget="60%"),
        "different costs": lambda: preset(fit, make_trace(50, 3, seed=8), budget="60%"),
        "'margin'": lambda: preset(fit, held, budget="60%", score="margin"),
    }
    refuses(refused)
    with pytest.raises(ex.InfeasibleBudget, match="below the cheapest exit"):
        preset(fit, held, budget=0.5)
    with pytest.raises(UnitError, match="ms"):
        preset(fit, held, budget="3 ms")


@EVERY
def test_the_smallest_networks_parts_and_budgets(preset, make_trace, parts):
    for m, n in product((1, 2), (1, 2)):
        trace = make_trace(2 * n + 10, m)
        fit, calibrate, test = (trace.take(slice(a, b)) for a, b in ((0, n), (n, 2 * n), (2 * n, None)))
        policy = preset(fit, calibrate, budget="100%")
        assert ex.evaluate(policy, test).cost <= trace.cost.full
    fit, calibrate, test = parts
    assert (preset(fit, calibrate, budget=fit.cost.first).route(test) == 0).all()


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
