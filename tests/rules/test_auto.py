from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_traces import kept_parts, trace
from scipy.stats import spearmanr

import exeunt as ex
from exeunt.policy.learned_quality import correctness_score, denoised_correctness
from exeunt.rules import auto as auto_rule
from exeunt.rules.auto import (
    _Curves,
    _curves,
    _learned,
    _weights,
    auto,
    joint_score,
    labels_worth,
    trust,
    whole_percents,
)
from exeunt.rules.stopping import learned
from exeunt.rules.useful_exits import last_useful_exit, up_to_exit
from exeunt.trace.derived import score_matrix


def test_denoised_correctness_is_as_right_on_average_and_less_noisy():
    data = trace(3000, 4)
    chance = denoised_correctness(data)
    assert ((chance >= 0) & (chance <= 1)).all()
    assert chance.mean(axis=0) == pytest.approx(data.correct.mean(axis=0), abs=0.01)
    right = data.correct.astype(float)
    for exit_ in range(3):
        apart = chance[:, exit_] - chance[:, -1]
        assert apart.var() < 0.75 * (right[:, exit_] - right[:, -1]).var()


def test_denoised_correctness_tells_who_is_right_better_than_the_exit_itself():
    """On inputs of another draw of the labels, by the Brier score of the first exit."""
    data = trace(4000, 4)
    seen, later = denoised_correctness(data)[:, 0], data.correct[:, 0]
    own = correctness_score(data)
    odds = score_matrix(own, data)[:, 0]
    assert np.mean((seen - later) ** 2) < np.mean((1 / (1 + np.exp(-odds)) - later) ** 2)


@pytest.mark.parametrize("n", [50, 500])
def test_the_joint_score_is_a_mean_standardised_by_exit(n):
    """Of the learned ones by their trust, and of the rank of the main confidence by the rest."""
    data = trace(n, 4)
    learner = learned(data)
    advantage, _ = learner.at(float(data.cost.full) / 2)
    scores = [score_matrix(rule, data)[:, :-1] for rule in (advantage, correctness_score(data))]
    scores.append(np.stack([columns[:, 0] for columns in learner.features.columns], axis=1))
    weights = [trust(n) / 2, trust(n) / 2, 1 - trust(n)]
    expected = sum(w * (s - s.mean(axis=0)) / s.std(axis=0) for w, s in zip(weights, scores, strict=True))
    found = score_matrix(joint_score(data, advantage), data)
    assert found[:, :-1] == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert (found[:, -1] == 0).all()


def test_grades_count_as_several_labels():
    data = trace(300, 4)
    assert labels_worth(data) == 300
    right = ex.ExitTrace.from_losses(data.scores["margin"], 1 - data.quality, cost=data.cost)
    assert labels_worth(right) == pytest.approx(300)
    halved = ex.ExitTrace.from_losses(data.scores["margin"], 0.25 + (1 - data.quality) / 2, cost=data.cost)
    risk = halved.risk
    worth = 300 * (risk * (1 - risk)).sum() / halved.quality.var(axis=0).sum()
    assert labels_worth(halved) == pytest.approx(worth)
    assert labels_worth(halved) > 1000
    alike = ex.ExitTrace.from_losses(data.scores["margin"], np.full((300, 4), 0.5), cost=data.cost)
    assert labels_worth(alike) == 300


def test_what_is_learned_counts_the_more_labels_there_are():
    shares = [trust(n) for n in (1, 100, 1000, 3000, 10**9)]
    assert shares == sorted(shares)
    assert shares[0] < 0.01
    assert shares[2] == 0.5
    assert shares[-1] == pytest.approx(1)


def test_too_few_inputs_or_folds_are_refused():
    fit, calibrate, _ = kept_parts(300)
    for options in ({"folds": 1}, {"folds": fit.n + 1}):
        with pytest.raises(ex.InputError, match="folds"):
            auto(fit, calibrate, budget="50%", **options)


def test_gains_are_measured_near_the_budget():
    data = trace(400)
    curves = _curves(data, None, 3, 0)
    low, high = curves.budgets[0], curves.budgets[-1]
    right = curves.right
    assert right.shape == (3, 12, 400)
    for budget, place in ((low, 0), (high, 11)):
        gains, error = curves.around(budget)
        assert gains.sum() == pytest.approx(0, abs=1e-12)
        assert error > 0
        at = right[:, place].mean(axis=1)
        # The window is about one step of the grid wide: the budget itself counts most.
        assert np.abs(gains - (at - at.mean())).max() < 0.02


def test_allocations_are_compared_on_some_of_many_inputs_drawn_at_random(monkeypatch):
    fit = trace(3000)
    fit = fit.take(np.argsort(fit.quality.sum(axis=1), kind="stable"))  # the hard ones come first
    whole = _curves(fit, fit.default_score, 3, 0)
    assert whole.right.shape[2] == fit.n
    monkeypatch.setattr(auto_rule, "_COMPARED_ON", 1000)
    some = _curves(fit.take(np.arange(fit.n)), fit.default_score, 3, 0)
    assert some.right.shape[2] == 1000
    np.testing.assert_allclose(some.right.mean(axis=2), whole.right.mean(axis=2), atol=0.05)


def test_what_cannot_be_told_apart_weighs_alike_and_what_fails_weighs_nothing():
    assert _weights(np.array([0.0, 0.0, 0.0]), 0.01, 1.0) == pytest.approx(1 / 3)
    assert _weights(np.array([0.0, 0.0, 0.0]), 0.01, 0.0).tolist() == [0, 0, 1]
    assert _weights(np.array([0.0, 0.0, 0.0]), 0.01, 0.25) == pytest.approx([1 / 12, 1 / 12, 10 / 12])
    weights = _weights(np.array([0.001, 0.0, -0.05]), 0.002, 1.0)
    assert weights[0] == pytest.approx(weights[1] * np.exp(0.25))
    assert weights[2] < 1e-5
    assert weights.sum() == pytest.approx(1)


def test_a_rule_that_is_always_right_where_others_never_are_weighs_all():
    """The gains have no spread at all, and their error is that of one input."""
    right = np.zeros((3, 2, 50))
    right[1] = 1.0
    gains, error = _Curves(np.array([0.1, 1.0]), right, 1.0, right.shape[2]).around(0.1)
    assert gains == pytest.approx([-1 / 3, 2 / 3, -1 / 3])
    assert error == pytest.approx(1 / 50)
    assert _weights(gains, error, 0.5) == pytest.approx([0, 1, 0], abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9).filter(lambda shares: sum(shares) > 0))
def test_shares_in_whole_percents_add_up_to_100(parts):
    shares = np.array(parts) / sum(parts)
    percents = whole_percents(shares)
    assert sum(percents) == 100
    assert (abs(np.array(percents) - 100 * shares) < 1 + 1e-9).all()
    assert whole_percents([0.126, 0.129, 0.745]) == [13, 13, 74]


def test_the_rates_are_the_mixture_that_the_notes_tell_of():
    fit, calibrate, _ = kept_parts(900)
    policy = auto(fit, calibrate, budget="60%", answer="own")
    table = policy.notes["auto"]["allocations"]
    _, allocations = _learned(fit, policy.budget, None)
    planned = policy.rates @ fit.cost.cumulative  # a little below the budget, so that it is kept on average
    mixed = sum(found["weight"] * allocations[name](planned) for name, found in table.items())
    assert policy.rates == pytest.approx(mixed, abs=1e-9)


@pytest.mark.parametrize("budget", ["30%", "60%"])
def test_with_a_handful_of_labels_auto_is_next_to_eero(budget):
    """Its rates, and the order of its score within an exit."""
    fit, calibrate, test = kept_parts(1200)
    few = fit.take(slice(0, 6))
    policy, plain = auto(few, calibrate, budget=budget), ex.eero(few, calibrate, budget=budget)
    assert np.abs(policy.rates - plain.rates).sum() < 0.15
    ours, theirs = score_matrix(policy.score, test), score_matrix("margin", test)
    for exit_ in range(policy.n_exits - 1):
        assert spearmanr(ours[:, exit_], theirs[:, exit_]).statistic > 0.95


def test_nothing_is_spent_beyond_where_more_makes_it_worse():
    """Equal rules, right with a given frequency at each budget, on inputs ordered by one draw."""
    hard = np.random.default_rng(0).uniform(size=4000)
    rising, falling = np.linspace(0.5, 0.9, 10), [*np.linspace(0.5, 0.9, 6), 0.88, 0.86, 0.84, 0.82]
    for accuracies, most in ((rising, np.inf), (np.full(10, 0.8), np.inf), (falling, 0.6)):
        right = np.array([[hard < accuracy for accuracy in accuracies]] * 3, dtype=float)
        curves = _Curves(np.linspace(0.1, 1.0, 10), right, 1.0, 4000)
        assert curves.most_useful_cost == pytest.approx(most, abs=0.11)


@pytest.mark.parametrize("first", [200, 210, 219, 222, 230, 260, 400])
def test_less_is_spent_the_surer_it_is_that_more_is_worse(first):
    """Of 400 inputs the first budget has the front right, the last one the rear 200."""
    right = np.zeros((3, 2, 400))
    right[:, 0, :first] = right[:, 1, 200:] = 1.0
    lost = right[0, 0] - right[0, 1]
    t = lost.mean() / (lost.std() / 20)
    limit = 1.0 - (1 - 1 / t**2) * (1.0 - 0.1) if t > 1 else np.inf
    assert (limit < np.inf) == (first > 219)
    assert _Curves(np.array([0.1, 1.0]), right, 1.0, right.shape[2]).most_useful_cost == pytest.approx(limit)


def test_a_network_that_undoes_what_it_had_right_is_left_early(capsys):
    """Its last exit is as bad as its first: no budget is planned for it, and the policy says so."""
    data = trace(3000, 4)
    last = np.where(np.random.default_rng(1).uniform(size=3000) < 0.4, data.label, (data.label + 1) % 3)
    prediction = np.column_stack([data.prediction[:, :-1], last])
    fit, calibrate, test = replace(data, prediction=prediction).split(seed=0)
    policy = auto(fit, calibrate, budget="95%")
    rich, poor = ex.evaluate(policy, test), ex.evaluate(ex.eero(fit, calibrate, budget="95%"), test)
    assert policy.notes["auto"]["most_useful_cost"] < policy.budget
    assert policy.rates @ fit.cost.cumulative <= policy.notes["auto"]["most_useful_cost"] + 1e-9
    assert rich.accuracy > poor.accuracy + 0.05
    assert "does not make answers better" in str(policy)
    assert "does not make answers better" in policy._repr_html_()


def made(right, score=None, seed=0):
    """A trace that is right where `right` says so, with random scores or these."""
    n, m = right.shape
    rng, cost = np.random.default_rng(seed), ex.CostModel(np.arange(1.0, m + 1))
    label = rng.integers(0, 5, n)
    prediction = np.where(right, label[:, None], (label[:, None] + 1) % 5)
    scores = rng.random((n, m)) if score is None else score
    return ex.ExitTrace.from_scores(scores, prediction, cost=cost, label=label, id=np.arange(n))


SOME = np.random.default_rng(1).random((2600, 4)) < 0.7
ALIKE = {
    "all right": (SOME | True, 0),
    "all wrong": (SOME & False, 0),
    "the first is perfect": (SOME | [True, False, False, False], 0),
    "alike from exit 1 on": (SOME[:, [0, 1, 1, 1]], 1),
    "the last undoes some of exit 2": (np.column_stack([SOME[:, :3], SOME[:, 2] & SOME[:, 3]]), 2),
}
"""Right answers (n, 4) where nothing is gained beyond an exit, and that exit."""


@pytest.mark.parametrize(("right", "last"), ALIKE.values(), ids=ALIKE)
@pytest.mark.parametrize("constant", [False, True])
def test_nothing_runs_beyond_the_exit_after_which_nothing_is_gained(right, last, constant):
    """All exits right, and 40% went to the end; the text says why less than the budget is used."""
    data = made(right, score=np.full(right.shape, 0.5) if constant else None)
    fit, calibrate, test = data.split(fit=0.4, calibrate=0.3, test=0.3)
    policy = auto(fit, calibrate, budget="90%", answer="own")
    assert policy.route(test).max() == last
    assert policy.expected_cost <= fit.cost.cumulative[last]
    assert f"unused: no fit input is answered better there than at exit {last}." in str(policy)
    assert {0: "Exits 1 to 3 are", 1: "Exits 2 and 3 are", 2: "Exit 3 is"}[last] in str(policy)
    assert policy.notes["auto"]["most_useful_cost"] <= fit.cost.cumulative[last]
    assert "The budget is kept for certain: no input costs more than" in str(policy)
    assert ex.Policy.from_dict(policy.to_dict()) == policy
    low = auto(fit, calibrate, budget=policy.notes["auto"]["most_useful_cost"], answer="own")
    assert "the policy costs no more" not in str(low)


@given(st.integers(1, 1500), st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from([0.8, 0.98, 1.0]))
def test_the_last_useful_exit_is_the_first_that_no_later_one_mends(n, m, seed, skill):
    right = np.random.default_rng(seed).random((n, m)) < skill

    def mends(exit_):
        wrong = [i for i in range(n) if not right[i, exit_]]
        few = Fraction(len(wrong) + 1, n + 2) * Fraction(1, len(wrong) + 2) > Fraction(1, 1000)
        return exit_ < m - 1 and (few or any(right[i, exit_ + 1 :].any() for i in wrong))

    data = made(right)
    last = last_useful_exit(data)
    assert last == next(exit_ for exit_ in range(m) if not mends(exit_))
    short = up_to_exit(data, last)
    assert short.n_exits == last + 1
    assert np.array_equal(short.correct, right[:, : last + 1])
    assert up_to_exit(data, last) is short


def test_a_hundred_labels_are_too_few_to_leave_exits_out():
    """An exit that is right on every fit input may be wrong on a hundredth of all, and the next one right there."""
    right = np.ones((4000, 3), dtype=bool)
    right[::100, :2] = False
    data = made(right)
    few = data.take(np.arange(1, 100))
    assert last_useful_exit(few) == 2
    all_right = data.take(np.flatnonzero(right[:, 0]))
    assert [last_useful_exit(all_right.take(np.arange(n))) for n in (497, 498)] == [2, 0]
    policy = auto(few, data.take(np.arange(100, 2000)), budget="90%", answer="own")
    assert "was a later exit right" not in str(policy)
    assert policy.rates[2] > 0.2


@pytest.mark.parametrize("name", ["constant", "sure and right", "a perfect last exit", "a single class"])
def test_thresholds_are_numbers_that_can_be_read(name):
    """In spreads of the fit inputs around their mean: they were 346004 where a score hardly varied."""
    rng = np.random.default_rng(2)
    right = rng.random((900, 4)) < [0.5, 0.7, 0.8, 0.9]
    if name == "sure and right":
        right[:, :3] = True
        right[:5, :3] = False
    elif name == "a perfect last exit":
        right[:, 3] = True
    data = made(right, score=np.full(right.shape, 0.5) if name == "constant" else None)
    if name == "a single class":
        data = replace(data, label=np.zeros(900, dtype=int), prediction=np.where(right, 0, 1))
    fit, calibrate, test = data.split(fit=0.4, calibrate=0.3, test=0.3)
    policy = auto(fit, calibrate, budget="60%", answer="own")
    finite = policy.thresholds[np.isfinite(policy.thresholds)]
    assert np.abs(finite).max() < 25  # a spread of 300 inputs is at most some 17 of them apart from its mean
    assert ex.evaluate(policy, test).cost < 0.7 * fit.cost.full


@pytest.mark.parametrize("policy", [ex.auto, ex.stopping, ex.learned_correctness, ex.optimised, ex.eero])
def test_a_score_that_the_trace_lacks_is_refused_with_those_it_has(parts, policy):
    fit, calibrate, _ = parts
    with pytest.raises(ex.InputError, match=r"there is no score 'margn' in this trace; it has .*score"):
        policy(fit, calibrate, budget="60%", score="margn")
