"""One look: an input's exit is chosen at the gate, and it costs that exit alone."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from made_traces import trace
from scipy.stats import binom

import exeunt as ex
from exeunt.errors import InputError
from exeunt.policy.policy import Policy
from exeunt.score.confidence import BEFORE_EXITS
from exeunt.score.tie_breaking import tie_breaks
from exeunt.trace.cascade_step import CascadeStep

HEADS = [0.5, 0.25, 0.125, 0.0]
COST = ex.CostModel([2.0, 3.5, 5.0, 8.0], unit="MMACs", heads=HEADS)
ALONE = [2.0, 3.0, 4.25, 7.125]
"""Costs of an input that goes straight to an exit: COST without the heads before it, by hand."""


def gated(n=1200, seed=0):
    """Inputs whose gate tells how difficult they are, with noise, beside a column that tells nothing."""
    made = trace(n, 4, seed)
    rng = np.random.default_rng(seed + 100)
    easy = made.scores["margin"].mean(axis=1) + rng.normal(0, 0.1, n)
    told = np.column_stack([rng.normal(size=n), 3 * easy]).astype(np.float32)
    return replace(made, cost=COST, features={BEFORE_EXITS: told})


@pytest.fixture(scope="module")
def parts():
    return gated().split(fit=0.4, calibrate=0.3, test=0.3)


@pytest.fixture(scope="module")
def policy(parts):
    return ex.one_look(*parts[:2], budget="60%", delta=0.1)


def scores_by_hand(policy, features):
    """How much more the best of the first exits is worth than the best of the others (n, 3), by loops."""
    score, found = policy.score, []
    for row in np.asarray(features, dtype=np.float64):
        odds = [sum(x * w for x, w in zip([*row, 1.0], column, strict=True)) for column in score.weights.T]
        worth = [1 / (1 + math.exp(-odd)) - price for odd, price in zip(odds, score.prices, strict=True)]
        found.append([max(worth[: i + 1]) - max(worth[i + 1 :]) for i in range(3)])
    return np.array(found)


def test_inputs_are_cut_by_the_counts_in_the_order_of_the_gate(parts, policy):
    _, calibrate, test = parts
    told, ties = calibrate.features[BEFORE_EXITS], tie_breaks(calibrate.id, policy.seed)
    scores, alive = scores_by_hand(policy, told).round(9), list(range(calibrate.n))
    exits = np.full(calibrate.n, 3)
    for exit_, count in enumerate(policy.counts[:-1]):
        surest = sorted(alive, key=lambda row: (-scores[row, exit_], -ties[row]))[:count]
        exits[surest] = exit_
        alive = [row for row in alive if row not in set(surest)]
    np.testing.assert_array_equal(policy.route(calibrate), exits)
    assert (np.bincount(exits, minlength=4) == policy.counts).all()
    assert (policy.counts > 0).sum() >= 2
    scores = scores_by_hand(policy, test.features[BEFORE_EXITS])
    by_hand = np.where(scores >= policy.thresholds[:3], np.arange(3), 3).min(axis=1)
    np.testing.assert_array_equal(policy.route(test), by_hand)


def test_the_look_finds_the_exit_at_which_each_step_lets_the_input_leave(parts, policy):
    test = parts[2]
    state = policy.init(test.n, id=test.id)
    exits, after = policy.look(test.features[BEFORE_EXITS], state)
    np.testing.assert_array_equal(exits, policy.route(test))
    for exit_ in range(3):
        leave, _ = policy.step(exit_, test.evidence(exit_), after)
        np.testing.assert_array_equal(leave[exits >= exit_], (exits == exit_)[exits >= exit_])


def test_an_input_costs_the_exit_that_it_runs_without_heads_before(parts, policy):
    np.testing.assert_allclose(policy.cost.cumulative, ALONE)
    assert policy.cost.reference == COST.full
    result = ex.evaluate(policy, parts[2])
    assert result.cost == pytest.approx(np.take(ALONE, policy.route(parts[2])).mean())
    assert policy.budget == pytest.approx(0.6 * COST.full)


def test_costs_rise_even_where_a_large_head_comes_before_a_small_one():
    alone = ex.CostModel([5.0, 6.0, 9.0], heads=[4.0, 0.5, 0.0]).of_one_look.cumulative
    np.testing.assert_allclose(alone[:2], [5.0, 5.0])
    assert all(before < after for before, after in pairwise(alone))
    without = ex.CostModel([1.0, 2.0])
    assert without.of_one_look == without


def test_the_price_sends_inputs_where_their_predicted_quality_pays(parts, policy):
    """Before calibration moves them a little, the thresholds are where one exit is worth as much as the next."""
    finite = policy.thresholds[:-1][np.isfinite(policy.thresholds[:-1])]
    assert len(finite) >= 2
    assert abs(finite).max() < 0.1
    fit = parts[0]
    predicted = policy.score.quality(fit.features[BEFORE_EXITS])
    np.testing.assert_allclose(predicted.mean(axis=0), fit.quality.mean(axis=0), atol=0.01)


def test_a_gate_that_tells_difficulty_beats_chance(parts):
    fit, calibrate, test = parts
    one = ex.one_look(fit, calibrate, budget="60%")
    quality = test.quality
    at_random = float(one.planned_shares @ quality.mean(axis=0))
    assert ex.evaluate(one, test).accuracy > at_random + 0.03


@pytest.mark.parametrize("recalibrations", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_the_mean_cost_exceeds_the_budget_as_rarely_as_certified(recalibrations):
    """Over recalibrations, the mean cost of a large population exceeds the budget in at most a tenth of them."""
    delta, n = 0.1, 150
    fit, population = gated(600, seed=1), gated(8_000, seed=2)
    exceeded, spent = 0, []
    rng = np.random.default_rng(3)
    for _ in range(recalibrations):
        rows = rng.choice(population.n, n, replace=False)
        policy = ex.one_look(fit, population.take(rows), budget="60%", delta=delta)
        cost = float(np.take(ALONE, policy.route(population)).mean())
        exceeded += cost > policy.budget
        spent.append(cost - policy.expected_cost)
    assert exceeded <= binom.ppf(1 - 1e-6, recalibrations, delta)
    assert exceeded >= binom.ppf(1e-6, recalibrations, delta)  # and not for want of spending
    assert abs(np.mean(spent)) < 5 * np.std(spent) / recalibrations**0.5


def test_agreement_with_the_full_network_is_certified():
    """Of policies that `cheapest` certifies, at most a tenth agree less than was asked for."""
    delta, asked, recalibrations = 0.1, 0.9, 20
    fit, population = gated(500, seed=4).with_reference(), gated(8_000, seed=5).with_reference()
    less, certified = 0, 0
    rng = np.random.default_rng(6)
    for seed in range(recalibrations):
        part = population.take(rng.choice(population.n, 400, replace=False))
        policy = ex.cheapest(fit, part, agree=asked, delta=delta, policy="one_look", points=6, seed=seed)
        if policy.looks_once and policy.planned_shares[-1] < 1:
            certified += 1
            less += ex.evaluate(policy, population).accuracy < asked
    assert certified > recalibrations / 2
    assert less <= binom.ppf(1 - 1e-6, recalibrations, delta)


def test_a_policy_is_read_back_as_it_was(policy, tmp_path):
    policy.save(tmp_path / "policy.json")
    again = Policy.load(tmp_path / "policy.json")
    assert again == policy
    assert again.looks_once
    assert not ex.eero(*gated().split()[:2], budget="60%").looks_once


def test_only_the_gate_of_a_network_will_do(parts):
    fit, calibrate, _ = parts
    bare = [replace(part, features={0: part.features[BEFORE_EXITS]}) for part in (fit, calibrate)]
    with pytest.raises(InputError, match="this trace has none: train the network with a gate"):
        ex.one_look(*bare, budget="60%")
    with pytest.raises(InputError, match="gets its own answer: leave out answer='ensemble'"):
        ex.one_look(fit, calibrate, budget="60%", answer="ensemble")
    with pytest.raises(InputError, match="has a score of its own"):
        ex.one_look(fit, calibrate, budget="60%", score="margin")


def test_selected_exits_keep_the_gate(parts):
    fit, calibrate, test = (part.selected([0, 2, 3]) for part in parts)
    policy = ex.one_look(fit, calibrate, budget="60%")
    np.testing.assert_allclose(policy.cost.cumulative, [2.0, 4.25, 7.125])
    assert ex.evaluate(policy, test).cost == pytest.approx(
        np.take([2.0, 4.25, 7.125], policy.route(test)).mean()
    )


def test_comparisons_have_it_where_there_is_a_gate(parts):
    whole = gated(400)
    named = {"policies": ["eero", "one_look"], "budgets": ["60%"], "splits": 2, "workers": 0}
    compared = ex.compare(whole, **named)
    assert "one_look" in str(compared)


def test_a_cascade_of_networks_with_gates_asks_exit_after_exit(parts):
    fit, calibrate, test = parts
    models = [
        ex.CascadeTrace({"a": part, "b": replace(part, cost=ex.CostModel([9.0, 10, 11, 12], unit="MMACs"))})
        for part in (fit, calibrate, test)
    ]
    steps = (CascadeStep("a", [0, 1]), CascadeStep("b", [3]))
    assert models[0].along(steps).features == {}
    policy = ex.cascade(*models[:2], budget="60%", policy="eero")
    assert ex.evaluate(policy, models[2]).cost <= 1.1 * policy.budget
    with pytest.raises(
        InputError, match="models of a cascade are asked one after the other: take another policy"
    ):
        ex.cascade(*models[:2], budget="60%", policy="one_look")


def test_it_is_calibrated_again_without_labels(parts, policy):
    later = ex.recalibrate(policy, replace(parts[2], label=None))
    assert later.looks_once
    assert later.n_calibration == parts[2].n
    np.testing.assert_allclose(later.cost.cumulative, ALONE)
