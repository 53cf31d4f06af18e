"""Graded answers go the way of right and wrong ones: the same policies, results and guarantees."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import binom

import exeunt as ex
from exeunt.guarantees.p_values import betting
from exeunt.policy.learned_quality import _logistic
from exeunt.rules.catalogue import PRESETS
from exeunt.rules.useful_exits import last_useful_exit
from exeunt.score.confidence import NO_ANSWER
from exeunt.trace.derived import inverted_exits, score_matrix
from exeunt.trace.grades import Grades


def population(n, seed, m=3, keyed=0):
    """Answers that get better with depth; confidence tells roughly how good one is."""
    rng = np.random.default_rng(seed)
    ease = rng.random(n)[:, None]
    quality = np.clip(np.linspace(0.35, 0.75, m) + 0.5 * (ease - 0.5) + rng.normal(0, 0.15, (n, m)), 0, 1)
    quality[rng.random(n) < 0.1, m - 1] = 0.0  # overthinking
    score = 0.7 * quality + 0.3 * rng.random((n, m))
    cost = ex.CostModel(np.arange(1, m + 1) ** 1.5, unit="MMACs")
    ids = rng.permutation(n) + 10**6 * (seed + 1) + keyed
    return ex.ExitTrace.from_losses(score, 1 - quality, cost=cost, id=ids)


def parts_of(trace):
    return trace.split(fit=0.4, calibrate=0.3, test=0.3)


def in_a_row(trace, prices, unit="MACs"):
    """The exits of a trace as models that cost this much each."""
    models = {}
    for exit_, (name, price) in enumerate(prices.items()):
        models[name] = trace.exits(exit_, exit_ + 1).with_cost(ex.CostModel([price], unit=unit))
    return ex.CascadeTrace(models)


def as_grades(trace):
    """The same trace with losses of 0 and 1 in place of labels."""
    return replace(trace, label=None, grades=Grades(1.0 - trace.correct, "accuracy"))


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("grouped", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_losses_of_0_and_1_give_the_policy_of_the_labels(make_trace, name, grouped):
    """Bit by bit, with its certificate; also where rows come in groups."""
    whole = make_trace(500, 4, seed=3)
    if grouped:
        whole = replace(whole, groups=ex.Groups(np.arange(500) // 3))
    both, options = [parts_of(one) for one in (whole, as_grades(whole))], {"answer": "own", "delta": 0.1}
    made = [PRESETS[name](fit, calibrate, budget="60%", **options) for fit, calibrate, _ in both]
    assert made[0].to_dict() == made[1].to_dict()
    results = [ex.evaluate(made[0], test, calibration=calibrate).to_dict() for _, calibrate, test in both]
    assert results[0] == results[1]
    for budget in (None, "50%", "80%"):
        oracles = [ex.oracle(test, budget).to_dict() for *_, test in both]
        assert oracles[0] == oracles[1]


@pytest.mark.parametrize("name", ["eero", "stopping"])
def test_losses_of_0_and_1_give_the_certificates_of_the_labels(make_trace, name):
    whole = make_trace(2400, 3, seed=5)
    labelled, graded = (one.split(fit=0.4, calibrate=0.4, test=0.2)[:2] for one in (whole, as_grades(whole)))
    made = [ex.cheapest(*one, max_loss=0.06, policy=name, points=6) for one in (labelled, graded)]
    assert made[0].to_dict() == made[1].to_dict()
    controlled = [ex.risk_controlled(*one, max_loss=0.08).to_dict() for one in (labelled, graded)]
    assert controlled[0] == controlled[1]
    assert [last_useful_exit(one[0]) for one in (labelled, graded)] == [2, 2]
    assert inverted_exits(labelled[0], "score") == inverted_exits(graded[0], "score") == []
    turned = [replace(one[0], scores={"score": -one[0].scores["score"]}) for one in (labelled, graded)]
    assert inverted_exits(turned[0], "score") == inverted_exits(turned[1], "score") == [0, 1, 2]


@settings(max_examples=30)
@given(st.data())
def test_the_oracle_is_the_best_fractional_assignment(data):
    """Without a budget the first exit of least loss; with one what a linear programme finds."""
    n, m = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    levels = data.draw(st.sampled_from([2, 4, 1000]))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    loss = rng.integers(0, levels, (n, m)) / (levels - 1)
    cost = np.cumsum(rng.uniform(0.1, 2, m))
    trace = ex.ExitTrace.from_losses(rng.random((n, m)), loss, cost=ex.CostModel(cost))
    least = ex.oracle(trace)
    assert least.exits.tolist() == [row.index(min(row)) for row in loss.tolist()]
    budget = float(rng.uniform(cost[0], cost[-1] * 1.1))
    found = ex.oracle(trace, budget)
    once = {"A_eq": np.kron(np.eye(n), np.ones(m)), "b_eq": np.ones(n), "bounds": (0, 1)}
    bounds = linprog(loss.ravel() / n, A_ub=[np.tile(cost, n) / n], b_ub=[budget], **once)
    assert found.cost <= budget * (1 + 1e-9)
    assert found.accuracy <= 1 - bounds.fun + 1e-9
    if levels > 2 and found.cost == budget:
        assert found.accuracy == pytest.approx(1 - bounds.fun, abs=1e-7)
    else:  # nothing to gain is left, or all gains are alike, and inputs are whole
        rows, whole = np.arange(n), [np.array(one) for one in product(range(m), repeat=n)]
        within = [1 - loss[rows, one].mean() for one in whole if cost[one].mean() <= budget * (1 + 1e-12)]
        assert found.accuracy == pytest.approx(max(within))


def test_evaluate_measures_the_mean_quality():
    fit, calibrate, test = parts_of(population(3000, 0))
    policy = ex.eero(fit, calibrate, budget="60%")
    result = ex.evaluate(policy, test, calibration=calibrate)
    quality = [1 - test.grades.loss[row, exit_] for row, exit_ in enumerate(policy.route(test))]
    assert result.accuracy == pytest.approx(np.mean(quality))
    around = np.mean(quality) + np.array([-1.96, 1.96]) * np.std(quality, ddof=1) / len(quality) ** 0.5
    assert result.accuracy_interval == pytest.approx(tuple(around), rel=1e-3)
    assert str(result).startswith(f"eero on 900 inputs: quality {result.accuracy:.2%} [")
    assert not result.warning
    worse = replace(test, grades=Grades(np.minimum(1, test.grades.loss + 0.2), "quality"))
    assert "the last exit has quality" in ex.evaluate(policy, worse, calibration=calibrate).warning


def test_policies_learn_from_grades():
    """They come closer to the oracle than chance does, and the learned ones do not fall behind."""
    fit, calibrate, test = population(4000, 1).split(fit=0.5, calibrate=0.2, test=0.3)
    names = sorted({*PRESETS} - {"genetic"})
    made = {name: PRESETS[name](fit, calibrate, budget="60%") for name in names}
    reached = {name: ex.evaluate(policy, test).accuracy for name, policy in made.items()}
    best = ex.oracle(test, "60%").accuracy
    assert all(value <= best + 1e-12 for value in reached.values())
    for name in ("eero", "auto", "stopping", "learned_correctness", "optimised"):
        assert reached[name] > reached["random_routing"] + 0.02
    assert reached["auto"] > max(reached.values()) - 0.01
    assert last_useful_exit(fit) == 2


def test_a_fractional_target_is_so_many_right_answers_and_so_many_wrong_ones():
    """Of four copies of an input that are right with grade 3/4, three are right."""
    rng = np.random.default_rng(0)
    x, quarters = rng.normal(size=(300, 3)), rng.integers(0, 5, 300)
    right = np.concatenate([np.arange(4) < k for k in quarters]).astype(float)
    weights, of_copies = _logistic(x, quarters / 4), _logistic(np.repeat(x, 4, axis=0), right)
    assert weights == pytest.approx(of_copies, abs=1e-4)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([2, 5, 100]))
def test_an_exit_is_the_last_useful_one_if_none_after_it_is_ever_better(seed, levels):
    rng = np.random.default_rng(seed)
    quality = rng.integers(0, levels, (1200, 4)) / (levels - 1)
    top = int(rng.integers(0, 4))
    quality[:, top] = 1.0  # nothing is better than this exit
    quality[:, : int(rng.integers(0, top + 1))] *= 0.5
    trace = ex.ExitTrace.from_losses(quality, 1 - quality, cost=ex.CostModel(np.arange(1.0, 5.0)))
    useful = [e for e in range(4) if (quality[:, e:] <= quality[:, [e]]).all()]
    assert last_useful_exit(trace) == useful[0]


def test_losses_of_0_and_1_give_the_cascade_of_the_labels(make_trace):
    whole = make_trace(800, 3, seed=7)
    made = []
    for one in (whole, as_grades(whole)):
        fit, calibrate, test = parts_of(in_a_row(one, {"a": 1.0, "b": 4.0, "c": 16.0}))
        policy = ex.cascade(fit, calibrate, budget="50%", answer="own", delta=0.1, policy="eero")
        certified = ex.cheapest(fit, calibrate, max_loss=0.1, policy="eero", points=5, answer="own")
        made.append([policy.to_dict(), ex.evaluate(policy, test).to_dict(), certified.to_dict()])
    assert made[0] == made[1]


def test_ensembles_are_for_classes():
    fit, calibrate, _ = parts_of(population(900, 3))
    with pytest.raises(ex.InputError, match="an ensemble is fitted to labels"):
        ex.eero(fit, calibrate, budget="60%", answer="ensemble")
    assert ex.auto(fit, calibrate, budget="60%", answer="auto").answer.name == "own"


def test_a_cascade_of_graded_models_is_chosen_and_certified():
    models = in_a_row(population(3000, 4, m=4), {"weak": 1.0, "late": 1.5, "good": 5.0}, "usd")
    fit, calibrate, test = models.split(fit=0.4, calibrate=0.4, test=0.2)
    policy = ex.cascade(fit, calibrate, budget=3.5)
    assert len(policy.models) > 1
    result = ex.evaluate(policy, test)
    assert result.measure == "quality"
    assert result.accuracy > max(1 - test[name].risk[0] for name in ("weak", "late"))
    certified = ex.cheapest(fit, calibrate, max_loss=0.05, policy="eero", points=8)
    assert "against good, the model of the highest quality" in str(certified)
    assert "the long-run mean quality per input is at most 5 points below that of good" in str(certified)
    back = ex.Policy.from_dict(certified.to_dict())
    assert back.loss_certificate == certified.loss_certificate
    assert back.loss_certificate.measure == "quality"


def lost(policy, inputs):
    """What each input loses."""
    return inputs.quality[:, -1] - inputs.quality[np.arange(inputs.n), policy.route(inputs)]


SLOW_METHODS = [pytest.param(method, marks=pytest.mark.slow) for method in ("learn_then_test", "ucb")]


@pytest.mark.parametrize("method", ["cheapest", *SLOW_METHODS])
def test_a_certified_loss_of_quality_is_exceeded_no_more_often_than_it_says(method):
    """Over calibrations drawn from a population that is the truth, within a binomial bound at 1e-6."""
    truth, fit = population(5000, 10), population(300, 11)
    trials, made, broken = 20, 0, 0
    for seed in range(trials):
        parts, options = (fit, population(500, 100 + seed)), {"max_loss": 0.06, "delta": 0.2}
        with suppress(ex.errors.Infeasible):
            if method == "cheapest":
                policy = ex.cheapest(*parts, **options, policy="eero", points=5)
            else:
                policy = ex.risk_controlled(*parts, **options, method=method)
            made += 1
            broken += lost(policy, truth).mean() > 0.06
    assert made > trials / 2
    assert broken <= binom.ppf(1 - 1e-6, trials, 0.2)


def test_betting_certifies_less_loss_than_empirical_bernstein():
    """Both bounds hold for graded losses; betting is the tighter one (Maurer and Pontil 2009, Theorem 4)."""
    truth = lost(ex.eero(population(500, 11), population(500, 12), budget="60%"), population(10_000, 10))
    mean, delta, n = truth.mean(), 0.05, 1000
    log, broken = np.log(2 / delta), 0
    for seed in range(20):
        losses = np.random.default_rng(seed).choice(truth, n)
        wide = 2 * 7 * log / (3 * (n - 1))  # the range of the losses is 2
        upper = losses.mean() + np.sqrt(2 * losses.var(ddof=1) * log / n) + wide
        assert upper >= mean
        assert betting(losses, upper, delta=delta) <= delta
        broken += betting(losses, mean, delta=delta) <= delta
    assert broken <= binom.ppf(1 - 1e-6, 20, delta)


def test_no_answer_is_paid_for_and_never_chosen():
    """Timeouts of the middle exit: their inputs run on to the last, whose own timeouts get the answer before them."""
    fit, calibrate, test = parts_of(with_gaps(population(2000, 20)))
    for name in ("eero", "auto", "stopping", "optimised"):
        policy = PRESETS[name](fit, calibrate, budget="80%")
        exits = policy.route(test)
        result = ex.evaluate(policy, test)
        assert result.cost == pytest.approx(test.cost.cumulative[exits].mean())
        quality = []
        for row, exit_ in enumerate(exits):
            given = [e for e in range(exit_ + 1) if test.scores["score"][row, e] > -np.inf]
            quality.append(test.quality[row, given[-1]] if given else 0.0)
        assert result.accuracy == pytest.approx(np.mean(quality)), name
    plain = ex.eero(fit, calibrate, budget="80%")
    left_at_1 = plain.route(test) == 1
    assert left_at_1.any()
    assert np.isfinite(test.scores["score"][left_at_1, 1]).all()
    again = ex.Policy.from_dict(plain.to_dict())
    assert np.array_equal(again.answers(test), plain.answers(test))


def with_gaps(trace, seed=1):
    silent = np.random.default_rng(seed).random((trace.n, trace.n_exits)) < [0.0, 0.2, 0.2]
    fields = {"cost": trace.cost, "id": trace.id, "no_answer": silent}
    return ex.ExitTrace.from_losses(trace.scores["score"], trace.grades.loss, **fields)


@pytest.mark.parametrize("gaps", [False, True])
def test_the_best_answer_so_far_is_that_of_the_highest_predicted_quality(gaps):
    """By a loop; step by step as in use; and better than the last exit's own where that overthinks."""
    whole = population(3000, 30)
    fit, calibrate, test = parts_of(with_gaps(whole) if gaps else whole)
    policy = ex.stopping(fit, calibrate, budget="90%", answer="best")
    rule = policy.answer.rule
    predicted, answered = score_matrix(rule, test), policy.answer.on(test)
    for row in range(200):
        best = None
        for exit_ in range(3):
            given = test.prediction[row, exit_] != NO_ANSWER
            if best is None or (given and predicted[row, exit_] >= predicted[row, best]):
                best = exit_
            assert answered.grades.loss[row, exit_] == test.grades.loss[row, best]
            assert answered.scores["score"][row, exit_] == test.scores["score"][row, best]
    exits, answers = policy.route(test), policy.answers(test)
    left, state = np.arange(test.n), policy.init(test.n, id=test.id)
    for exit_ in range(3):
        decision = policy.decide(exit_, test.evidence(exit_, left), state)
        gone = left[decision.leave]
        assert (exits[gone] == exit_).all()
        assert np.array_equal(decision.answer["prediction"][decision.leave], answers[gone])
        left, state = left[~decision.leave], decision.state.take(~decision.leave)
    own = ex.stopping(fit, calibrate, budget="90%")
    assert ex.evaluate(policy, test).accuracy > ex.evaluate(own, test).accuracy + 0.01
    back = ex.Policy.from_dict(policy.to_dict())
    assert back == policy
    assert np.array_equal(back.answers(test), answers)
    certified = ex.cheapest(fit, calibrate, max_loss=0.02, policy="eero", points=5, answer="best")
    assert certified.loss_certificate.measure == "quality"


def test_a_cascade_may_answer_with_the_best_so_far():
    models = in_a_row(population(2000, 31), {"a": 1.0, "b": 10.0, "c": 100.0})
    fit, calibrate, test = parts_of(models)
    options = {"budget": "60%", "policy": "eero"}
    made = {answer: ex.cascade(fit, calibrate, answer=answer, **options) for answer in ("own", "best")}
    assert made["best"].answer.name == "best"
    assert ex.evaluate(made["best"], test).accuracy > ex.evaluate(made["own"], test).accuracy - 0.005


def test_services_with_labels_may_give_no_answer(make_trace):
    """Ensembles take no answer as evidence, too: what is said is that of the exits so far."""
    base = make_trace(900, 3, seed=9)
    silent = np.random.default_rng(0).random((900, 3)) < [0.05, 0.1, 0.1]
    fields = {"cost": base.cost, "label": base.label, "id": base.id, "no_answer": silent}
    fit, calibrate, test = parts_of(ex.ExitTrace.from_scores(base.scores["score"], base.prediction, **fields))
    for answer, make in (("own", ex.eero), ("best", ex.auto), ("ensemble", ex.eero)):
        policy = make(fit, calibrate, budget="70%", answer=answer, delta=0.1)
        assert ex.evaluate(policy, test).accuracy > 0.5
        assert np.array_equal(ex.Policy.from_dict(policy.to_dict()).answers(test), policy.answers(test))
