"""The answer as a policy's fourth choice: every policy takes it, and nothing else of the method changes."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import exeunt as ex
from exeunt.policy.ensemble_answer import EnsembleAnswer, OwnAnswer
from exeunt.policy.ensemble_fitting import can_be_ensembled, choose_answer, ensemble_is_better
from exeunt.rules.catalogue import PRESETS
from exeunt.rules.common_threshold import risk_controlled
from exeunt.rules.router_plans import _answers
from exeunt.score.kinds import ConstantScore
from exeunt.trace.derived import one_class_remark


def independent(n: int, *, seed: int, noise: tuple[float, ...] = (2.0, 2.0, 2.0), k: int = 4) -> ex.ExitTrace:
    """Exits whose errors are independent, so that they are worth more together."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    logits = 2 * np.eye(k)[label][:, None] + np.array(noise)[:, None] * rng.normal(size=(n, len(noise), k))
    cost = ex.CostModel(np.arange(1.0, len(noise) + 1))
    return ex.ExitTrace.from_logits(logits, cost=cost, label=label, id=rng.integers(0, 2**62, n))


@pytest.fixture(scope="module")
def parts() -> tuple[ex.ExitTrace, ex.ExitTrace, ex.ExitTrace]:
    return independent(800, seed=1), independent(1500, seed=2), independent(6000, seed=3)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_policy_takes_ensemble_answers_and_says_more_with_them(name, parts, tmp_path):
    fit, calibrate, test = parts
    own = PRESETS[name](fit, calibrate, budget="80%", answer="own")
    ensemble = PRESETS[name](fit, calibrate, budget="80%", answer="ensemble")
    assert isinstance(own.answer, OwnAnswer)
    assert isinstance(ensemble.answer, EnsembleAnswer)
    assert ensemble.was_calibrated_on(calibrate)
    results = [ex.evaluate(policy, test) for policy in (own, ensemble)]
    assert results[1].accuracy - results[0].accuracy > 0.04
    assert results[1].cost < 0.8 * fit.cost.full * 1.03
    ensemble.save(tmp_path / "policy.json")
    again = ex.Policy.load(tmp_path / "policy.json")
    assert again == ensemble
    assert np.array_equal(again.route(test), ensemble.route(test))
    for policy, result in zip((own, ensemble), results, strict=True):
        assert (policy.answers(test) == test.label).mean() == result.accuracy
    assert np.array_equal(own.answers(test), test.prediction[np.arange(test.n), own.route(test)])


@pytest.mark.parametrize(("most", "highest"), [(4, 3), (3, 3), (200, 10**9)])
def test_tables_of_too_many_classes_are_not_made(most, highest, monkeypatch):
    """They hold a number for every pair of classes, those that do not occur included."""
    monkeypatch.setattr("exeunt.policy.ensemble_fitting._MOST_CLASSES", most)

    def numbered(trace):
        """The same without probabilities, and with another number for the last class."""
        prediction, label = (np.where(x == 3, highest, x) for x in (trace.prediction, trace.label))
        scores = {"confidence": trace.scores["margin"]}
        return ex.ExitTrace(prediction, scores, trace.cost, label, trace.id)

    fit, calibrate, test = map(numbered, independent(8000, seed=4).split())
    policy = ex.eero(fit, calibrate, budget="90%", answer="auto")
    assert isinstance(policy.answer, EnsembleAnswer if highest < most else OwnAnswer)
    assert ex.evaluate(policy, test).accuracy > 0.6
    if highest >= most:
        told = f"at most {most} classes, got labels up to {highest}: .*answer='own'"
        with pytest.raises(ex.InputError, match=told):
            ex.eero(fit, calibrate, budget="60%", answer="ensemble")


def test_a_policy_is_asked_of_what_is_heard_even_where_nobody_leaves(fit, calibrate):
    cost = fit.cost

    def all_but_the_second(amount: float) -> np.ndarray:
        share = (amount - cost.first) / (cost.full - cost.first)
        return np.array([1 - share, 0.0, share])

    own = ex.compose("two", all_but_the_second, fit, calibrate, budget="70%")
    ensemble = ex.compose("two", all_but_the_second, fit, calibrate, budget="70%", answer="ensemble")
    assert own.needs.tolist() == [True, False, True]
    assert ensemble.needs.tolist() == [True, True, True]


def takes_ensemble(answer, fit, score=None, share=1.0):
    rule, *_ = choose_answer(answer, fit, fit, score=score, amount=share * fit.cost.full)
    return isinstance(rule, EnsembleAnswer)


def as_table(trace):
    """The labels and margins alone."""
    return replace(trace, scores={"score": trace.scores["margin"]}, log_probability=None)


def test_auto_ensembles_where_it_helps_alone():
    fit = independent(500, seed=1)
    assert takes_ensemble("auto", fit)
    first = np.repeat(fit.log_probability[:, :1], 3, axis=1)
    repeated = ex.ExitTrace.from_logits(first, cost=fit.cost, label=fit.label, id=fit.id)
    assert not takes_ensemble("auto", repeated)
    assert takes_ensemble("ensemble", repeated)
    of_routers = [isinstance(_answers(trace, "auto")[0], EnsembleAnswer) for trace in (fit, repeated)]
    assert of_routers == [True, False]


@pytest.mark.parametrize(
    ("gained", "lost", "by_probabilities", "by_tables"),
    [
        (10, 10, True, False),  # no difference: a standard error is about .0045, or 4.5 of 1,000 inputs
        (10, 12, True, False),
        (10, 14, False, False),
        (12, 10, True, False),
        (17, 10, True, True),
        (0, 0, False, False),  # right on the same inputs
    ],
)
def test_probabilities_are_ensembled_in_doubt_and_tables_are_not(gained, lost, by_probabilities, by_tables):
    own, ensemble = np.zeros(1000), np.zeros(1000)
    ensemble[:gained] = own[500 : 500 + lost] = 1.0
    assert ensemble_is_better(ensemble, own, probabilities=True) == by_probabilities
    assert ensemble_is_better(ensemble, own, probabilities=False) == by_tables


def test_auto_ensembles_at_the_budgets_where_it_helps():
    fit = independent(2000, seed=1)
    assert not takes_ensemble("auto", fit, share=1 / 3)  # the first exit alone is no ensemble
    assert takes_ensemble("auto", fit, share=0.6)


@pytest.mark.parametrize(("highest", "enough"), [(43, True), (44, False)])  # 44 x 45 entries, and 45 x 46
def test_auto_makes_no_table_with_more_entries_than_inputs(highest, enough):
    trace = as_table(independent(2000, seed=1))
    prediction, label = (np.where(x == 3, highest, x) for x in (trace.prediction, trace.label))
    fit = ex.ExitTrace(prediction, trace.scores, trace.cost, label, trace.id)
    assert takes_ensemble("auto", fit) == enough
    assert takes_ensemble("ensemble", fit)


def test_auto_ensembles_nothing_of_fewer_inputs_than_folds(parts):
    fit, calibrate, test = parts
    assert isinstance(ex.auto(fit.take([0, 1, 2]), calibrate, budget="60%").answer, OwnAnswer)
    comparison = ex.compare(test.take(slice(10)), splits=1, workers=0, budgets="60%", policies=["auto"])
    assert comparison.splits == 1  # of three inputs to fit, as many as it asks for
    with pytest.raises(ex.InputError, match="4 folds for 3: give more labelled inputs to fit"):
        ex.auto(fit.take([0, 1, 2]), calibrate, budget="60%", answer="ensemble")


def test_auto_ensembles_no_probabilities_that_the_calibration_part_lacks(fit, calibrate):
    """It would be calibrated on what it cannot see: a trace of many inputs keeps none."""
    assert isinstance(ex.auto(fit, calibrate, budget="60%").answer, EnsembleAnswer)
    bare = replace(calibrate, log_probability=None)
    assert isinstance(ex.auto(fit, bare, budget="60%").answer, OwnAnswer)
    with pytest.raises(ex.InputError, match="an ensemble of log-probabilities"):
        ex.auto(fit, bare, budget="60%", answer="ensemble")


def test_auto_ensembles_nothing_that_would_fill_the_memory(fit, calibrate, monkeypatch):
    monkeypatch.setattr("exeunt.policy.ensemble_fitting._MOST_OUTPUTS", fit.n * 4 - 1)
    assert isinstance(ex.auto(fit, calibrate, budget="60%").answer, OwnAnswer)
    monkeypatch.setattr("exeunt.policy.ensemble_fitting._MOST_OUTPUTS", fit.n * 4)
    assert isinstance(ex.auto(fit, calibrate, budget="60%", seed=1).answer, EnsembleAnswer)


def test_a_score_of_the_exits_own_answers_decides_about_own_answers():
    table = as_table(independent(500, seed=1))
    assert takes_ensemble("auto", table)
    assert takes_ensemble("auto", table, "margin")  # ensemble answers have it
    assert not takes_ensemble("auto", table, "score")
    assert not takes_ensemble("auto", table, ConstantScore())


def test_a_loss_is_measured_against_the_last_exits_own_answer():
    better = (2.2, 2.0, 1.8)
    fit, calibrate, test = (independent(n, seed=s, noise=better) for s, n in enumerate((1200, 3000, 6000)))
    ensemble_eero = partial(ex.eero, answer="ensemble")
    policy = ex.cheapest(fit, calibrate, max_loss=0.02, delta=0.1, policy=ensemble_eero)
    last = 1 - test.risk[-1]
    assert ex.evaluate(policy, test).accuracy > last - 0.02
    assert policy.budget < fit.cost.full * 0.8  # ensemble, two exits are better than the third alone
    controlled = ex.risk_controlled(fit, calibrate, max_loss=0.02, answer="ensemble")
    assert ex.evaluate(controlled, test).accuracy > last - 0.02
    own = ex.risk_controlled(fit, calibrate, max_loss=0.02)
    assert ex.evaluate(controlled, test).cost < ex.evaluate(own, test).cost


def test_an_answer_fitted_elsewhere_is_used_as_it_is(parts):
    fit, calibrate, test = parts
    fitted = ex.eero(fit, calibrate, budget="80%", answer="ensemble").answer
    policy = ex.eero(calibrate, fit, budget="80%", answer=fitted)
    assert policy.answer is fitted
    own = ex.eero(calibrate, fit, budget="80%")
    assert ex.evaluate(policy, test).accuracy > ex.evaluate(own, test).accuracy + 0.04


def test_unknown_answers_are_refused(fit, calibrate):
    with pytest.raises(ex.InputError, match="'own', 'best', 'ensemble' or 'auto', got 'voted'"):
        ex.eero(fit, calibrate, budget="50%", answer="voted")


def judged(n: int, others: int, *, seed: int = 0, right: float = 0.46) -> ex.CascadeTrace:
    """Two models whose answers are good (1) or bad (0); the label of every input is "good", but for `others`."""
    rng = np.random.default_rng(seed)
    label = np.ones(n, dtype=int)
    label[rng.permutation(n)[:others]] = 0
    models = {}
    for name, price in (("cheap", 1.0), ("dear", 10.0)):
        good, cost = rng.random((n, 1)) < right, ex.CostModel([price])
        sure = np.where(good, rng.beta(4, 2, (n, 1)), rng.beta(3, 2, (n, 1)))
        models[name] = ex.ExitTrace.from_scores(sure, good.astype(int), cost=cost, label=label, id=range(n))
    return ex.CascadeTrace(models)


@pytest.mark.parametrize("others", [0, 3, 15, 60])
def test_no_ensemble_learns_the_constant_of_labels_of_one_class(others):
    """A judge's "good" for every input: a table of log-odds would make every answer right."""
    fit, calibrate, test = judged(4000, others).split()
    with pytest.raises(ex.InputError, match="give the loss of each answer instead"):
        ex.cascade(fit, calibrate, budget="60%", answer="ensemble")
    one, other = ex.cascade(fit, calibrate, budget="60%"), ex.cheapest(fit, calibrate, max_loss=0.2, points=5)
    for policy in (one, other):
        assert isinstance(policy.answer, OwnAnswer)
        assert 0.4 < ex.evaluate(policy, test).accuracy < 0.55
        assert "of class 1, so no ensemble of exits is fitted" in str(policy)
        assert "give the loss of each answer instead (loss=..., --loss)" in str(policy)
    controlled = risk_controlled(fit["dear"], calibrate["dear"], max_loss=0.2, delta=0.05, answer="auto")
    assert "give the loss of each answer instead" in str(controlled)


def test_the_comparison_says_what_labels_of_one_class_mean():
    options = {"budgets": ["60%"], "policies": ["eero"], "splits": 2, "workers": 0}
    found = ex.compare({"judged": judged(1200, 0)}, **options)
    (said,) = [one for one in found.summary() if "give the loss of each answer instead" in one]
    assert said.startswith("On judged: All labels of 1,200 inputs are of class 1")
    plain = ex.compare({"plain": independent(1200, seed=5)}, **options)
    assert not [one for one in plain.summary() if "a loss" in one]


@pytest.mark.parametrize(
    ("k", "share", "right", "refused"),
    [
        (2, 0.97, 0.99, False),  # rare, with 60 inputs of the other class, which the exits know
        (2, 0.97, 0.90, True),  # and which they do not know
        (2, 0.70, 0.60, False),  # weak exits on classes that are all there
        (2, 0.9925, 0.999, True),  # 15 inputs of the other class are too few for four folds
        (10, 0.5, 0.3, False),
    ],
)
def test_classes_that_are_rare_but_known_are_not_taken_for_labels_of_one_class(k, share, right, refused):
    rng, n = np.random.default_rng(1), 2000
    label = np.zeros(n, dtype=int)
    others = rng.permutation(n)[: round((1 - share) * n)]
    label[others] = rng.integers(1, k, len(others))
    known = rng.random((n, 2)) < right
    prediction, scores = np.where(known, label[:, None], (label[:, None] + 1) % k), rng.random((n, 2))
    trace = ex.ExitTrace.from_scores(scores, prediction, cost=ex.CostModel([1, 2]), label=label, id=range(n))
    assert bool(one_class_remark(trace)) is refused
    assert can_be_ensembled(trace) is not refused


def test_few_labels_of_many_classes_are_not_of_one_class():
    for n in range(4, 40):
        assert not one_class_remark(independent(n, seed=n))
    assert not one_class_remark(replace(independent(30, seed=1), label=None))
