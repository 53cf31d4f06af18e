"""Pooled answers: the fold against a slow oracle, the fit against optimality and known truth, and what is held out."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exeunt as ex
from exeunt.policy.ensemble_answer import EnsembleAnswer, LogTerm, Stage, TableTerm, answer_from_dict
from exeunt.policy.ensemble_fitting import EnsembleFit, fit_ensemble
from exeunt.score.confidence import LOG_PROBABILITY, MANY_CLASSES, log_softmax, of_top_classes


def noisy_trace(
    n: int, noise: list[float], *, k: int = 5, seed: int = 0, shared: float = 0.0
) -> ex.ExitTrace:
    """Exits that see the label through noise of their own; `shared`: the part of it that all of them have."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    common, cost = rng.normal(size=(n, k)), ex.CostModel(np.arange(1.0, len(noise) + 1))
    seen = [s * (shared * common + (1 - shared) * rng.normal(size=(n, k))) for s in noise]
    logits = np.stack([2 * np.eye(k)[label] + one for one in seen], axis=1)
    return ex.ExitTrace.from_logits(logits, cost=cost, label=label)


def table_trace(n: int, accuracies: list[float], *, k: int = 4, seed: int = 0) -> ex.ExitTrace:
    """Services that are right independently with these chances, say k (no class) at times, and are surer if right."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    predicted, confidence = [], []
    for accuracy in accuracies:
        right = rng.random(n) < accuracy
        predicted.append(np.where(right, label, rng.integers(0, k + 1, n)))
        confidence.append(np.where(rng.random(n) < 0.1, 1.0, rng.beta(2 + 3 * right, 2)))
    cost = ex.CostModel(np.arange(1.0, len(accuracies) + 1))
    return ex.ExitTrace.from_scores(np.stack(confidence, 1), np.stack(predicted, 1), cost=cost, label=label)


def slow_answer(answer: EnsembleAnswer, trace: ex.ExitTrace) -> np.ndarray:
    """Probabilities (n, m, k), input by input, class by class, from the formula."""
    out = []
    for row in range(trace.n):
        before: list[float] | None = None
        predicted = []
        for exit_, stage in enumerate(answer.stages):
            term = []
            for y in range(trace.log_probability.shape[2] if trace.log_probability is not None else 4):
                if isinstance(stage.term, LogTerm):
                    value = stage.term.weight * float(trace.log_probability[row, exit_, y])
                else:
                    entry = stage.term.table[min(trace.prediction[row, exit_], len(stage.term.table) - 1)]
                    value, c = entry[0][y], trace.scores["score"][row, exit_]
                    for piece, (low, high) in enumerate(pairwise(stage.term.knots)):
                        value += entry[piece + 1][y] * min(max((c - low) / (high - low), 0.0), 1.0)
                term.append(value + (0.0 if before is None else stage.keep * before[y]))
            total = math.log(sum(math.exp(v - max(term)) for v in term)) + max(term)
            before = [v - total for v in term]
            predicted.append([math.exp(v) for v in before])
        out.append(predicted)
    return np.array(out)


@pytest.mark.parametrize("trace", [noisy_trace(30, [2.0, 1.5, 1.0]), table_trace(30, [0.5, 0.7])])
def test_the_answer_is_the_formula(trace):
    answer = fit_ensemble(trace).answer
    ensemble = answer.on(trace)
    expected = slow_answer(answer, trace)
    assert np.allclose(np.exp(ensemble.log_probability), expected, atol=1e-6)
    assert np.array_equal(ensemble.prediction, expected.argmax(axis=2))
    assert np.allclose(ensemble.scores["max_probability"], expected.max(axis=2), atol=1e-12)


def test_rows_that_left_do_not_change_what_the_others_hear():
    trace = noisy_trace(40, [2.0, 1.5, 1.0])
    answer = fit_ensemble(trace).answer
    alive, memory = np.arange(trace.n), {}
    whole = answer.on(trace)
    for exit_ in range(3):
        evidence, memory = answer(exit_, trace.evidence(exit_, alive), memory)
        assert np.array_equal(evidence["margin"], whole.scores["margin"][alive, exit_])
        keep = np.arange(len(alive)) % 3 > 0
        alive, memory = alive[keep], {name: value[keep] for name, value in memory.items()}


def test_an_exit_that_adds_nothing_keeps_its_own_answer():
    # Every exit says the same, and its probabilities are true.
    trace = noisy_trace(2000, [2**0.5] * 3, shared=1.0)
    answer = fit_ensemble(trace).answer
    assert all(stage == Stage(0.0, LogTerm(1.0)) for stage in answer.stages)
    assert np.array_equal(answer.on(trace).prediction, trace.prediction)
    assert not any(answer.needs(exit_) for exit_ in range(3))


def test_weights_are_a_minimum():
    trace = noisy_trace(800, [2.0, 1.5])
    answer = fit_ensemble(trace).answer
    stage, first = answer.stages[1], answer.on(trace).log_probability[:, 0].astype(np.float64)

    def loss(keep: float, weight: float) -> float:
        logs = Stage(keep, LogTerm(weight)).log_probability(trace.evidence(1), first)
        return -logs[np.arange(trace.n), trace.label].sum() + 5 * (keep**2 + (weight - 1) ** 2)

    best = loss(stage.keep, stage.term.weight)
    for away in (-0.02, 0.02):
        assert loss(stage.keep + away, stage.term.weight) > best
        assert loss(stage.keep, stage.term.weight + away) > best


def test_an_ensemble_of_services_is_naive_bayes_where_they_are_independent():
    accuracies = [0.6, 0.6, 0.6]
    fit, test = table_trace(8000, accuracies, seed=1), table_trace(20_000, accuracies, seed=2)
    ensemble = fit_ensemble(fit).answer.on(test)
    # The exact posterior: services are independent given the label, and so is confidence given being right.
    logs = np.zeros((test.n, 4))
    for exit_, a in enumerate(accuracies):
        predicted, c = test.prediction[:, exit_], test.scores["score"][:, exit_]
        chance = (1 - a) / 5  # of saying this, if wrongly
        for y in range(4):
            right = np.where(c == 1.0, 0.1, 0.9 * beta_density(c, 5))
            wrong = np.where(c == 1.0, 0.1, 0.9 * beta_density(c, 2))
            logs[:, y] += np.log((predicted == y) * a * right + chance * wrong)
    bayes = (logs.argmax(axis=1) == test.label).mean()
    assert 1 - ensemble.risk[2] > bayes - 0.01
    assert 1 - test.risk[2] < bayes - 0.1


def beta_density(c: np.ndarray, a: int) -> np.ndarray:
    c = np.minimum(c, 1 - 1e-12)
    return c ** (a - 1) * (1 - c) / (math.gamma(a) / math.gamma(a + 2))


def test_what_is_held_out_does_not_know_its_label():
    # Labels are noise and few: what is fitted to them looks better than chance in sample, held out it must not.
    rng = np.random.default_rng(0)
    n, k = 400, 8
    scores, prediction, label = rng.random((n, 3)), rng.integers(0, k, (n, 3)), rng.integers(0, k, n)
    trace = ex.ExitTrace.from_scores(scores, prediction, cost=ex.CostModel([1.0, 2.0, 3.0]), label=label)
    fitted = fit_ensemble(trace)
    held_out = (fitted.held_out[:, 2].argmax(axis=1) == trace.label).mean()
    assert held_out < 1 / k + 4 * math.sqrt(1 / k / n)
    assert 1 - fitted.answer.on(trace).risk[2] > held_out + 0.1


def test_copies_of_an_input_are_held_out_like_other_rows():
    """In a log in which inputs repeat, those to come have copies among those that an ensemble is fitted on."""
    trace = noisy_trace(50, [1.0, 1.0])
    twice = trace.take(np.tile(np.arange(50), 2))
    held_out = fit_ensemble(twice).held_out
    apart = np.abs(held_out[:50] - held_out[50:]).max(axis=(1, 2)) > 0
    assert 10 < np.count_nonzero(apart) < 50


@pytest.mark.parametrize("trace", [noisy_trace(60, [2.0, 1.0]), table_trace(60, [0.5, 0.7])])
def test_json_keeps_every_bit(trace):
    answer = fit_ensemble(trace).answer
    again = answer_from_dict(json.loads(json.dumps(answer.to_dict())))
    assert np.array_equal(again.on(trace).log_probability, answer.on(trace).log_probability)
    assert again.to_dict() == answer.to_dict()


@pytest.mark.parametrize("code", [-1, -7, -(10**9), 4, 10**12])
def test_what_is_no_class_may_have_any_number(code):
    """As -1 for no answer: it ended the process, and other numbers below 0 were taken for a class."""
    trace = table_trace(600, [0.6, 0.7])
    fifth = np.arange(600)[:, None] % 5 == 0
    of = [replace(trace, prediction=np.where(fifth, number, trace.prediction)) for number in (code, 99)]
    answers = [fit_ensemble(one).answer for one in of]
    assert answers[0].to_dict() == answers[1].to_dict()
    assert np.array_equal(answers[0].on(of[0]).prediction, answers[0].on(of[1]).prediction)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 12), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 10**6))
def test_few_inputs_constant_scores_and_one_class(n, m, k, tables, seed):
    rng = np.random.default_rng(seed)
    label, cost = rng.integers(0, k, n), ex.CostModel(np.arange(1.0, m + 1))
    if tables:
        confidence = rng.choice([0.0, 1.0], (n, m)) if seed % 2 else np.ones((n, m))
        trace = ex.ExitTrace.from_scores(confidence, rng.integers(0, k + 1, (n, m)), cost=cost, label=label)
    else:
        logits = rng.choice([0.0, 500.0], (n, m, k))  # saturated
        trace = ex.ExitTrace.from_logits(logits, cost=cost, label=label)
    if len(np.unique(label)) == 1:
        with pytest.raises(ex.InputError, match="so no ensemble of exits is fitted"):
            fit_ensemble(trace)
        return
    fitted = fit_ensemble(trace)
    assert isinstance(fitted, EnsembleFit)
    assert fitted.held_out.shape[:2] == (n, m)
    assert np.isfinite(fitted.held_out).all()
    assert np.allclose(np.exp(fitted.held_out).sum(axis=2), 1)


def test_clear_errors(refuses):
    trace = noisy_trace(40, [2.0, 1.0])
    answer = fit_ensemble(trace).answer
    scores_alone = ex.ExitTrace.from_scores(trace.scores["margin"], trace.prediction, cost=trace.cost)
    few = trace.take(np.unique(trace.label, return_index=True)[1][:3])
    refused = {
        "is of 2 exits, but the trace has 3": lambda: answer.on(noisy_trace(10, [1.0, 1.0, 1.0])),
        "log-probabilities, which the evidence lacks": lambda: answer.on(scores_alone),
        "none: make it with label=": lambda: fit_ensemble(scores_alone),
        "at least 2 folds": lambda: fit_ensemble(few),
        "unknown kind of answer 'voted'": lambda: answer_from_dict({"kind": "voted"}),
    }
    refuses(refused)


def test_a_table_term_says_what_it_holds():
    term = TableTerm("score", (0.0, 0.5, 1.0), np.arange(2 * 3 * 2, dtype=float).reshape(2, 3, 2))
    shown = term({"prediction": np.array([0, 1, 7]), "score": np.array([0.25, 2.0, -1.0])})
    assert shown.tolist() == [[0 + 0.5 * 2, 1 + 0.5 * 3], [6 + 8 + 10, 7 + 9 + 11], [6.0, 7.0]]


def test_an_exit_is_heard_where_the_next_one_keeps_what_was_said():
    answer = EnsembleAnswer(tuple(Stage(keep, LogTerm(1.0)) for keep in (0.0, 0.7, 0.0, 0.0, 1.0)))
    assert [answer.needs(exit_) for exit_ in range(5)] == [True, False, False, True, False]


def test_what_was_said_before_may_be_kept_whole():
    before, now = np.log([[0.25, 0.75]]), np.log([[0.6, 0.4]])
    ensemble = Stage(1.0, LogTerm(1.0)).log_probability({"log_probability": now}, before)
    assert np.exp(ensemble)[0] == pytest.approx([1 / 3, 2 / 3])


def test_terms_of_single_precision_are_computed_in_double():
    logs, score = np.log(np.array([[0.7, 0.3]], np.float32)), np.array([0.1], np.float32)
    assert LogTerm(1 / 3)({"log_probability": logs}).tolist() == (logs.astype(float) / 3).tolist()
    term = TableTerm("score", (0.0, 0.3), np.array([[[0.0, 0.0], [1.0, 3.0]]]))
    share = float(score[0]) / 0.3
    assert term({"prediction": np.array([0]), "score": score}).tolist() == [[share, share * 3]]


def test_of_many_classes_the_likeliest_count():
    logs = log_softmax(np.random.default_rng(0).normal(size=(3, MANY_CLASSES + 1)))
    term = LogTerm(1.5)
    np.testing.assert_array_equal(term({LOG_PROBABILITY: logs}), 1.5 * of_top_classes(logs))
    few = logs[:, 1:]
    np.testing.assert_array_equal(term({LOG_PROBABILITY: few}), 1.5 * few)
