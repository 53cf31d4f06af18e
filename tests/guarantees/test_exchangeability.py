"""Inputs that are not exchangeable with the calibration inputs are found, and others are not suspected."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

import exeunt as ex
from exeunt.policy.exchangeability import NOTICED, difference
from exeunt.rules.catalogue import PRESETS
from exeunt.score.kinds import ConstantScore

COST = ex.CostModel([1.0, 2.0, 4.0])
PAIRS = 60


def population(n, seed, *, saturated=False, edge=(1.0, 2.0, 3.0)):
    """Inputs of known difficulty; with `saturated`, two thirds of the scores are exactly 1."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, n)
    logits = rng.normal(size=(n, 3, 4))
    logits[np.arange(n), :, label] += edge
    if saturated:
        logits = np.round(logits) * 60
    return ex.ExitTrace.from_logits(logits, cost=COST, label=label, id=np.arange(n) + 10**6 * seed)


def weights(kind, n):
    """How often each input of a population comes."""
    if kind == "zipf":
        return 1 / np.arange(1, n + 1)
    if kind == "atom":
        return np.where(np.arange(n) == 5, 0.3 * n, 0.7)
    return np.ones(n)


@pytest.mark.parametrize("kind", ["plain", "saturated", "zipf", "atom"])
def test_false_alarms_are_as_rare_as_they_are_said_to_be(kind):
    many = population(3000, 1, saturated=kind == "saturated")
    fit, p = population(500, 2, saturated=kind == "saturated"), weights(kind, many.n)
    rng, found = np.random.default_rng(3), {"counts": 0, "all": 0}
    for number in range(PAIRS):
        calibration, test = (many.take(rng.choice(many.n, size, p=p / p.sum())) for size in (300, 700))
        policy = ex.eero(fit, calibration, budget=("40%", "60%", "80%")[number % 3], seed=number)
        found["counts"] += bool(ex.evaluate(policy, test).warning)
        found["all"] += bool(ex.evaluate(policy, test, calibration=calibration).warning)
    assert max(found.values()) <= binom.ppf(1 - 1e-6, PAIRS, NOTICED), found


@pytest.mark.parametrize("name", ["eero", "auto", "patience", "learned_correctness"])
def test_calibration_inputs_that_were_learned_are_found(name):
    """A network is surer of what it has learned: the budget is exceeded on other inputs."""
    fit, calibration = (population(600, seed, edge=(2.0, 4.0, 6.0)) for seed in (1, 2))
    test = population(2000, 3)
    policy = PRESETS[name](fit, calibration, budget="60%")
    found = "of the inputs that reach exit 1, " if name == "auto" else "less sure of them"
    for given, told in (({}, "not exchangeable with"), ({"calibration": calibration}, found)):
        result = ex.evaluate(policy, test, **given)
        for text in ("not exchangeable with the calibration inputs (p = ", "--unseen", told):
            assert text in result.warning
        assert str(result).endswith(f"WARNING: {result.warning}")
        assert result.warning in result._repr_html_()
        assert result.to_dict()["warning"] == result.warning
    fresh = ex.evaluate(policy, population(2000, 4, edge=(2.0, 4.0, 6.0)), calibration=calibration)
    assert fresh.warning == ""
    assert "WARNING" not in str(fresh)


def test_what_the_first_exits_do_not_show_is_found_at_the_last():
    fit, calibration = (population(600, seed, edge=(1.0, 2.0, 8.0)) for seed in (1, 2))
    policy = ex.eero(fit, calibration, budget="50%")
    test = population(2000, 3)
    assert not ex.evaluate(policy, test).warning
    assert "exit 2 is less sure of them" in ex.evaluate(policy, test, calibration=calibration).warning


def test_labels_alone_show_it_where_scores_do_not():
    fit, calibration, test = (population(n, seed) for seed, n in enumerate((600, 600, 2000)))
    wrong = replace(test, label=(test.label + 1) % 4)
    policy = ex.eero(fit, calibration, budget="50%")
    assert not ex.evaluate(policy, test, calibration=calibration).warning
    warning = ex.evaluate(policy, wrong, calibration=calibration).warning
    assert "the last exit is right on 8" in warning or "the last exit is right on 9" in warning
    assert ex.evaluate(policy, replace(wrong, label=None), calibration=calibration).warning == ""


def test_the_sentence_says_which_way():
    fit, calibration = population(600, 1), population(600, 2)
    policy = ex.eero(fit, calibration, budget="50%")
    surer = population(2000, 3, edge=(3.0, 4.0, 5.0))
    exits = policy.route(surer)
    assert "more sure of them" in difference(policy, exits, surer, calibration).text
    share, now = policy.counts[0] / policy.counts.sum(), (exits == 0).mean()
    told = f"of the inputs that reach exit 0, {share:.1%} left in calibration and {now:.1%} leave now"
    assert difference(policy, exits, surer).text == told


def test_policies_without_counts_or_exits_to_leave_at_are_compared_by_nothing():
    fit, calibration = population(600, 1), population(600, 2)
    counted = ex.eero(fit, calibration, budget="50%")
    assert json.dumps(ex.evaluate(counted, fit).to_dict())  # with a warning or without
    policy = replace(counted, counts=None)
    assert difference(policy, policy.route(fit), fit) is None
    one_exit = [trace.exits(0, 1) for trace in (fit, calibration)]
    assert ex.evaluate(ex.eero(*one_exit, budget="100%"), one_exit[0]).warning == ""


class Undefined(ConstantScore):
    """A score that is not a number where the margin is small."""

    def __call__(self, exit_, evidence, memory):
        return np.where(evidence["margin"] < 0.1, np.nan, evidence["margin"]), {}


def test_scores_that_are_not_numbers_are_compared():
    fit, calibration, test = (population(600, seed) for seed in (1, 2, 3))
    policy = replace(ex.eero(fit, calibration, budget="50%"), score=Undefined(), counts=None)
    for trace in (test, population(600, 4, edge=(3.0, 4.0, 5.0))):
        found = difference(policy, policy.route(trace), trace, calibration)
        assert (found is None) == (trace is test)


def test_accuracy_and_agreement_are_not_compared(make_trace):
    """The last exit always agrees with itself, and is not always right."""
    fit, calibrate, test = make_trace(1500, seed=4).split()
    policy = ex.eero(fit, calibrate, budget="60%")
    assert test.risk[-1] > 0.1
    assert ex.evaluate(policy, test, calibration=calibrate.with_reference()).warning == ""
