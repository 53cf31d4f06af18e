"""Cascades are of the models that pay for themselves, and their guarantees are those of any policy."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from itertools import permutations

import numpy as np
import pytest
from made_traces import trace
from scipy.stats import binom

import exeunt as ex
from exeunt.errors import ExeuntWarning
from exeunt.policy.allocation_search import price_path
from exeunt.policy.calibration import ALWAYS, Thresholds
from exeunt.policy.ensemble_fitting import fit_ensemble
from exeunt.rules.cascade import _comparing, _Search, find_cascade, with_unasked
from exeunt.trace.cascade_step import CascadeStep


def answering(right, sure, *, price, label, id_, k=4, seed=0):
    """A model of one exit, right where `right` says so, with these confidences."""
    rng = np.random.default_rng(seed)
    predicted = np.where(right, label, (label + rng.integers(1, k, len(label))) % k)
    cost = ex.CostModel([price], unit="usd")
    of = {"label": label, "id": id_, "name": "confidence"}
    return ex.ExitTrace.from_scores(sure[:, None], predicted[:, None], cost=cost, **of)


def world(n=2000, seed=0):
    """A cheap model that knows what it knows, a good one, one that is worse than it costs, and a copy."""
    rng = np.random.default_rng(seed)
    label, id_ = rng.integers(0, 4, n), np.arange(n, dtype=np.uint64) + np.uint64(seed * 10**6)
    easy = rng.uniform(size=n) < 0.6
    of = {"label": label, "id_": id_}
    sure = np.where(easy, 0.9, 0.1) + rng.uniform(0, 0.1, n)
    cheap = answering(easy | (rng.uniform(size=n) < 0.2), sure, price=1, seed=seed, **of)
    good = answering(rng.uniform(size=n) < 0.95, rng.uniform(size=n), price=10, seed=seed + 1, **of)
    poor = answering(rng.uniform(size=n) < 0.5, rng.uniform(size=n), price=8, seed=seed + 2, **of)
    copy = good.with_cost(ex.CostModel([20], unit="usd"))
    return ex.CascadeTrace({"poor": poor, "copy": copy, "good": good, "cheap": cheap})


@cache
def parts_of_world(n=1000):
    """Return the parts of one world, on which what is learned is kept from test to test."""
    return world(n).split()


@pytest.mark.parametrize("answer", ["own", "auto"])
def test_who_does_not_pay_for_itself_is_left_out(answer):
    fit, calibrate, test = parts_of_world(2000)
    policy = ex.cascade(fit, calibrate, budget="30%", answer=answer)
    assert policy.models == ("cheap", "good")
    assert policy.budget == pytest.approx(6)
    result = ex.evaluate(policy, test)
    assert 5 < result.cost < 6.3  # 1 for all, and 10 for the four in ten that are hard
    assert result.accuracy > 0.95
    assert result.saved == 1 - result.cost / 20
    assert "(30.0% of 20 usd)" in str(policy)
    shown = float(str(result).split("% of 20 usd saved")[0].split()[-1])
    assert shown == pytest.approx(100 * result.saved, abs=0.051)
    for table in (policy, result):
        assert [row[0] for row in table._table()[1]] == ["cheap exit 0", "good exit 0"]
    assert ex.cascade(fit, calibrate, budget=1, answer=answer).models == ("cheap",)


def test_a_single_model_that_is_wrong_where_it_is_unsure_is_ensembled():
    """It says 1 for 0 where it is unsure: a table learns that."""
    rng = np.random.default_rng(0)
    n = 2000
    label, unsure = rng.integers(0, 2, n), rng.uniform(size=n) < 0.2
    sure = np.where(unsure, 0.1, 0.9)
    one = answering(~unsure, sure, price=1.0, label=label, id_=np.arange(n), k=2)
    fit, calibrate, test = ex.CascadeTrace({"one": one}).split()
    policy = ex.cascade(fit, calibrate, budget="100%")
    assert policy.answer.name == "ensemble"
    assert ex.evaluate(policy, test).accuracy == 1


def test_rows_sorted_by_class_change_nothing(monkeypatch):
    monkeypatch.setattr("exeunt.rules.cascade._MOST", 300)
    fit, calibrate, _ = world(1000).without(["copy"]).split()
    ordered = fit.take(np.argsort(fit.label, kind="stable"))
    assert ex.cascade(ordered, calibrate, budget="30%").models == ("cheap", "good")


def test_two_that_err_apart_are_better_than_each():
    rng = np.random.default_rng(0)
    n = 3000
    label, id_ = rng.integers(0, 4, n), np.arange(n, dtype=np.uint64)
    right = rng.uniform(size=(n, 2)) < 0.8
    sure = np.where(right, rng.beta(4, 2, (n, 2)), rng.beta(2, 4, (n, 2)))
    of = {"label": label, "id_": id_}
    one, other = (answering(right[:, i], sure[:, i], price=1 + i / 10, seed=i, **of) for i in (0, 1))
    fit, calibrate, test = ex.CascadeTrace({"a": one, "b": other}).split()
    ensemble = ex.cascade(fit, calibrate, budget=2.1)
    assert (set(ensemble.models), ensemble.answer.name) == ({"a", "b"}, "ensemble")
    best = max(1 - test[name].risk[0] for name in "ab")
    assert ex.evaluate(ensemble, test).accuracy > best + 0.03


def test_late_exits_that_only_spoil_answer_next_to_nothing():
    data = replace(trace(2000, 4), log_probability=None)
    spoilt = data.prediction.copy()
    spoilt[:, 3] = (spoilt[:, 3] + 1) % 5
    other = data.exits(2, 3).with_cost(ex.CostModel([50.0], unit="MMACs"))
    models = ex.CascadeTrace({"network": replace(data, prediction=spoilt), "other": other})
    assert find_cascade(models, float(data.cost.full), "own")[0][0].model == "network"
    fit, calibrate, _ = models.split()
    policy = ex.cascade(fit, calibrate, budget=float(data.cost.full), answer="own")
    assert policy.models == ("network",)
    assert policy.rates[3] < 0.001


def test_a_search_among_many_models_finds_what_all_orders_hold(monkeypatch):
    fit, _, _ = world(900).split(fit=0.8, calibrate=0.1, test=0.1)
    found = {amount: find_cascade(fit, amount, "own")[0] for amount in (3.0, 6.0, 12.0)}
    monkeypatch.setattr("exeunt.rules.cascade._ENUMERATED", 0)
    assert {amount: find_cascade(fit, amount, "own")[0] for amount in found} == found


def test_cascades_are_compared_on_as_many_inputs_as_tell_them_apart():
    """A model that is right on 84% of the inputs against one on 82%: the error of 10,000 is half a point."""
    for seed in range(5):
        rng, n = np.random.default_rng(seed), 10_000
        of = {"label": rng.integers(0, 4, n), "id_": np.arange(n), "price": 1, "seed": seed}
        worse, better = (answering(rng.uniform(size=n) < k, rng.uniform(size=n), **of) for k in (0.82, 0.84))
        fit = ex.CascadeTrace({"worse": worse, "better": better})
        assert find_cascade(fit, 1.0, "own")[0] == (CascadeStep("better", 1),)


@pytest.mark.parametrize(
    ("n", "k", "compared"),
    [(12_000, 4, 10_000), (4_000, 4, 4_000), (12_000, 100, 5242), (12_000, 1000, 3000)],
)
def test_fewer_inputs_of_many_classes_are_compared(n, k, compared):
    rows = np.arange(n)
    one = answering(rows >= 0, np.ones(n), price=1, label=rows % k, id_=rows, k=k)
    assert _comparing(ex.CascadeTrace({"one": one}), 0).models.n == compared


def test_ensemble_answers_that_do_not_fit_in_memory_are_made_anew(monkeypatch):
    found = [find_cascade(world(100).without(["copy"]), amount, "ensemble")[0] for amount in (3.0, 12.0)]
    monkeypatch.setattr("exeunt.rules.cascade._KEPT", 0)
    fit = world(100).without(["copy"])
    assert [find_cascade(fit, amount, "ensemble")[0] for amount in (3.0, 12.0)] == found
    assert len(_comparing(fit, 0)._ensembles) == 1


def of_two_kinds(n=450, seed=0):
    """A network of four classes that gives probabilities, of which one is rare, and a service that gives a label."""
    rng = np.random.default_rng(seed)
    label, id_ = np.where(rng.uniform(size=n) < 0.003, 3, rng.integers(0, 3, n)), np.arange(n)
    logits = 1.5 * np.eye(4)[label][:, None] + rng.normal(size=(n, 2, 4))
    network = ex.ExitTrace.from_logits(logits, cost=ex.CostModel([1.0, 2.0], unit="usd"), label=label, id=id_)
    right = rng.uniform(size=n) < 0.9
    service = answering(right, rng.uniform(size=n), price=10, label=label, id_=id_, seed=seed)
    return ex.CascadeTrace({"network": network, "service": service})


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_models_are_ensembled_by_tables_where_one_has_no_probabilities(seed):
    """The search measures the ensemble answer that the policy gives.

    The rarest class is in the test part alone, the calibration part alone, or the fit and test parts.
    """
    fit, calibrate, test = of_two_kinds(seed=seed).split(fit=0.5, calibrate=0.25, test=0.25)
    on = _comparing(fit, 0)
    network, service = CascadeStep("network", 2), CascadeStep("service", 1)
    for steps in ((network,), (network, service), (service, network)):
        along = on.models.along(steps)
        assert on.ensemble(steps, along).held_out == pytest.approx(fit_ensemble(along).held_out, abs=1e-6)
    ex.evaluate(ex.cascade(fit, calibrate, budget=6.0), test)


@pytest.mark.parametrize("pays", [True, False])
def test_the_search_measures_the_answers_that_the_policy_would_give(pays, monkeypatch):
    fit = world(600)
    monkeypatch.setattr("exeunt.rules.cascade.ensemble_is_better", lambda ensemble, own, probabilities: pays)
    steps = (CascadeStep("cheap", 1), CascadeStep("good", 1))
    answers = ("auto", "own", "ensemble")
    right = {answer: _Search(_comparing(fit, 0), 6.0, answer).right(steps) for answer in answers}
    assert (right["own"] != right["ensemble"]).any()
    assert (right["auto"] == right["ensemble" if pays else "own"]).all()


def test_the_search_makes_no_table_that_the_policy_would_not_make(monkeypatch):
    monkeypatch.setattr("exeunt.rules.cascade.ensemble_is_better", lambda ensemble, own, probabilities: True)
    steps = (CascadeStep("cheap", 1), CascadeStep("good", 1))
    # A table of five predicted labels by four classes.
    for n, same in ((19, "own"), (20, "ensemble")):
        on = _comparing(world(n), 0)
        auto, other = (_Search(on, 6.0, answer).right(steps) for answer in ("auto", same))
        assert (auto == other).all()
    # Fewer inputs than folds of an ensemble answer.
    assert ex.cascade(world(3), world(3, seed=1), budget="100%").models


def test_a_cascade_is_affordable_by_what_all_fit_inputs_cost(monkeypatch):
    """Prices depend on the input: those of the inputs that cascades are searched on may be higher on average."""
    monkeypatch.setattr("exeunt.rules.cascade._MOST", 40)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        label, id_ = rng.integers(0, 4, 400), np.arange(400, dtype=np.uint64)
        right, sure = rng.uniform(size=400) < 0.8, rng.uniform(size=400)
        one = answering(right, sure, price=1, label=label, id_=id_, seed=seed)
        prices = ex.CostModel(rng.uniform(0.1, 1.0, (400, 1)), unit="usd")
        fit = ex.CascadeTrace({"one": one.with_cost(prices)})
        assert find_cascade(fit, fit["one"].cost.first, "own")[0] == (CascadeStep("one", 1),)


def log_of_texts(n, seed, longest=200, names=("small", "large")):
    """A log of language models, whose prices go with the length of a text and differ by more than 100."""
    rng = np.random.default_rng(seed)
    length, label = np.exp(rng.uniform(0, np.log(100), n)), rng.integers(0, 4, n)
    hard = rng.normal(size=n) + 0.3 * np.log(length)

    def model(skill, price):
        right, sure = (1 / (1 + np.exp(hard + noise - skill)) for noise in (0.0, rng.normal(0, 0.5, n)))
        costs = price * length[:, None] * np.exp(rng.normal(0, 0.1, (n, 1)))
        return answering(
            rng.random(n) < right, sure, price=1, label=label, id_=np.arange(n) + 10**6 * seed, seed=seed
        ).with_cost(ex.CostModel(costs, unit="usd", highest=longest * price))

    skills = {"small": (1.5, 1e-5), "large": (3.0, 3e-4), "middle": (2.3, 1e-4)}
    return ex.CascadeTrace({name: model(*skills[name]) for name in names})


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_prices_that_vary_by_a_hundred_refuse_no_budget_that_can_be_kept(seed):
    """The mean price of a part is above or below that of another, by as much as some of the budgets differ."""
    fit, calibrate, _ = log_of_texts(1200, seed).split(fit=0.4, calibrate=0.4, test=0.2, seed=seed)
    every = log_of_texts(20_000, 99)
    for budget, delta in (("10%", None), ("40%", 0.05), ("100%", None), ("100%", 0.05)):
        policy = ex.cascade(fit, calibrate, budget=budget, delta=delta, policy="auto" if delta else "eero")
        if delta:
            assert ex.evaluate(policy, every).cost <= 1.02 * policy.budget
    policy = ex.cheapest(fit, calibrate, max_loss=0.12, points=5)
    assert policy.models[0] == "small"


@pytest.mark.parametrize("seed", range(3))
def test_a_cascade_is_one_that_can_be_certified(seed):
    """The highest price is far above those seen. To ask "middle" first costs less than the budget, but too little."""
    log = log_of_texts(1200, seed, longest=1500, names=("small", "large", "middle"))
    fit, calibrate, _ = log.split(fit=0.4, calibrate=0.4, test=0.2, seed=seed)
    for budget in ("40%", "50%", "60%"):
        policy = ex.cascade(fit, calibrate, budget=budget, delta=0.05, policy="eero")
        assert policy.models[0] == "small"
        assert policy.certificate.budget == pytest.approx(policy.budget)
    with pytest.raises(ex.InfeasibleBudget, match="calibration inputs cannot show that a mean cost"):
        ex.cascade(fit, calibrate, budget="40%", delta=0.05, policy="eero", order=["middle"])
    uncertified = ex.cascade(fit, calibrate, budget="60%", policy="eero", order=["middle", "large"])
    assert uncertified.models[0] == "middle"


@pytest.mark.parametrize(
    ("order", "told"),
    [(("good", "cheap", "good"), "order names a model twice, got good, cheap, good"), ((), "names no model")],
)
def test_no_model_is_asked_twice(order, told):
    with pytest.raises(ex.InputError, match=told):
        find_cascade(world(60), 6.0, "own", 0, order)


def test_every_order_is_tried_where_they_are_few(monkeypatch):
    tried, found = [], (CascadeStep("good", 1),)
    monkeypatch.setattr("exeunt.rules.cascade._Search.best", lambda _, some: tried.append(some) or found)
    fit, _, _ = world(300).split()
    find_cascade(fit, 6.0)
    names = [tuple(step.model for step in steps) for steps in tried[0]]
    assert sorted(names) == sorted(o for k in range(1, 5) for o in permutations(fit.names, k))


def test_a_cascade_is_kept_in_its_file_and_replays_as_the_trace_of_its_exits(tmp_path):
    fit, calibrate, test = parts_of_world(2000)
    policy = ex.cascade(fit, calibrate, budget="30%", delta=0.1, reference="copy")
    policy.save(tmp_path / "policy.json")
    again = ex.Policy.load(tmp_path / "policy.json")
    assert again == policy
    assert (again.models, again.cost.reference) == (policy.models, 20)
    body = json.loads((tmp_path / "policy.json").read_text())["policy"]
    assert body["cascade"] == [["cheap", 1], ["good", 1]]
    trace_ = test.along(policy.cascade)
    assert np.array_equal(again.route(test), policy.route(trace_))
    assert ex.evaluate(again, test).to_dict() == ex.evaluate(policy, trace_).to_dict()
    assert policy.was_calibrated_on(calibrate)


def test_a_cascade_overspends_as_often_as_its_certificate_says():
    """Over fresh calibration inputs, the cascade chosen on one fit part."""
    fit, steps = world(600), (CascadeStep("cheap", 1), CascadeStep("good", 1))
    test = world(10_000, seed=1).along(steps)
    trials, broken, chance = 40, 0, set()
    for seed in range(trials):
        policy = ex.cascade(fit, world(60, seed=10 + seed), budget="30%", policy="eero", delta=0.2)
        assert policy.cascade == steps
        broken += test.cost.cumulative[policy.route(test)].mean() > policy.budget
        chance.add(1 - policy.certificate.probability)
    (breaks,) = chance
    assert breaks <= 0.2
    assert binom.ppf(1e-4, trials, breaks) <= broken <= binom.ppf(1 - 1e-4, trials, 0.2)


@pytest.mark.slow
def test_the_cheapest_cascade_that_loses_little_against_a_model():
    """Guarantees of the loss are kept as often as they say, over fresh calibration inputs."""
    fit, test = world(900), world(4000, seed=1)
    trials, made, broken = 10, 0, 0
    for seed in range(trials):
        calibrate = world(1600, seed=10 + seed)
        options = {"reference": "good", "policy": "eero", "points": 3}
        policy = ex.cheapest(fit, calibrate, max_loss=0.03, delta=0.2, **options)
        made += policy.budget < 10
        result = ex.evaluate(policy, test)
        broken += result.accuracy < 1 - test["good"].risk[0] - 0.03
    proof = policy.loss_certificate
    assert proof.reference == "good"
    assert "the long-run accuracy per input is at most 3 points below that of good (" in str(policy)
    assert made == trials
    assert broken <= binom.ppf(1 - 1e-4, trials, 0.2)


def test_the_reference_is_the_most_accurate_model_unless_named():
    """The copy is as good as the model it copies, and dearer; poor is dear and bad."""
    fit, calibrate, _ = world(800).split(fit=0.2, calibrate=0.7, test=0.1)
    dearer = ex.CascadeTrace({"best": fit["good"], "dear": fit["poor"].with_cost(fit["copy"].cost)})
    assert (dearer.most_accurate, dearer.most_expensive) == ("best", "dear")
    fit, calibrate = fit.without(["poor"]), calibrate.without(["poor"])
    options = {"policy": "eero", "points": 2, "answer": "own"}
    policy = ex.cheapest(fit, calibrate, max_loss=0.05, budget="60%", **options)
    assert policy.loss_certificate.reference == "good"
    assert policy.cost_certificate.budget <= 6
    assert "against good, the model of the highest accuracy on the 160 fit inputs (" in str(policy)
    named = ex.cheapest(fit, calibrate, max_loss=0.05, reference="copy", **options)
    assert named.loss_certificate.reference == "copy"
    assert "most accurate" not in str(named)
    with pytest.raises(ex.Infeasible, match="the loss stands in the way"):
        ex.cheapest(fit, calibrate.take(slice(40)), max_loss=0.001, reference="good", **options)


def test_without_a_better_cascade_no_loss_is_the_reference_alone():
    fit, calibrate, test = world(300).without(["copy"]).split()
    policy = ex.cheapest(fit, calibrate, max_loss=0, policy="eero", points=2)
    assert policy.models == ("good",)
    assert np.array_equal(policy.answers(test), test["good"].prediction[:, -1])
    assert "every input gets the answer of good." in str(policy)


def test_what_serves_all_budgets_is_learned_once(monkeypatch):
    """Eight budgets take hardly more ensembles and searches of rates than one."""
    fit = world(400).without(["copy"])
    paths, counts, name = [], [], "exeunt.policy.allocation_search.price_path"
    monkeypatch.setattr(name, lambda *given: paths.append(0) or price_path(*given))
    for budgets in ([20.0], np.linspace(20, 1, 8)):
        paths.clear()
        part = fit.take(slice(None))
        for amount in budgets:
            find_cascade(part, float(amount), "own")
        counts.append(len(paths))
    assert counts[1] <= 2 * counts[0]


def test_any_rule_makes_the_policy_of_a_cascade():
    fit, calibrate, test = parts_of_world()
    for rule in ("eero", "common_threshold", ex.optimised):
        policy = ex.cascade(fit, calibrate, budget="30%", policy=rule)
        assert policy.name == (rule if isinstance(rule, str) else "optimised")
        assert ex.evaluate(policy, test).accuracy > 0.85


def test_mistakes_are_named(refuses):
    fit, held, test = parts_of_world()
    one, another = fit["good"], held["good"]
    refused = {
        "made of a CascadeTrace: .": lambda: ex.cascade(one, another, budget="50%"),
        "made of a CascadeTrace": lambda: ex.cascades(fit, another, budgets=["50%"]),
        "no model 'best'": lambda: ex.cascade(fit, held, budget="50%", reference="best"),
        r"no model 'godo' \(did you mean good\?\)": lambda: ex.cascade(
            fit, held, budget="50%", reference="godo"
        ),
        "no policy 'cascade'": lambda: ex.cascade(fit, held, budget="50%", policy="cascade"),
        "answer must be": lambda: ex.cascade(fit, held, budget="50%", answer="voted"),
        "share 300 rows": lambda: ex.cascade(fit, fit, budget="50%"),
        "the fit part is empty": lambda: ex.cascade(fit.take([]), held, budget="50%"),
        "at least one budget, got none": lambda: ex.cascades(fit, held, budgets=[]),
        "no labels": lambda: ex.cascade(unlabelled(fit), held, budget="50%"),
        "for one network, not for a cascade": lambda: ex.evaluate(ex.eero(one, another, budget="100%"), test),
        "no model 'cheap'": lambda: ex.evaluate(policy, ex.CascadeTrace({"good": test["good"]})),
    }
    policy = ex.cascade(fit, unlabelled(held), budget="50%", answer="own")
    assert policy.models
    refuses(refused)
    with pytest.raises(ex.InfeasibleBudget, match="cheapest model, cheap, which costs 1 usd"):
        ex.cascade(fit, held, budget=0.5)


def test_models_whose_classes_do_not_fit_are_warned_of():
    """Their columns are in another order, or one is missing: then they are wrong nearly everywhere, or beyond it."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, 2000)
    logits = rng.normal(size=(2000, 1, 5))
    logits[np.arange(2000), 0, label] += 3

    def parts(small):
        named = {"small": (small, 1), "large": (logits, 10)}
        options = {"label": label, "id": np.arange(2000)}
        models = {
            name: ex.ExitTrace.from_logits(outputs, cost=ex.CostModel([price]), **options)
            for name, (outputs, price) in named.items()
        }
        return ex.CascadeTrace(models).split()

    fit, calibrate, _ = parts(np.roll(logits, 1, axis=2))
    worse = "model 'small' is right on .*% of 600 inputs, and always saying .* on 2.*: are its classes in another order"
    with pytest.warns(ExeuntWarning, match=worse):
        ex.cascade(fit, calibrate, budget="50%", policy="eero")
    with pytest.warns(ExeuntWarning, match=worse) as of_compare:
        ex.compare({"models": fit}, budgets=["50%"], policies="eero", splits=2, workers=0)
    assert len(of_compare) == 1
    fit, calibrate, _ = parts(np.pad(logits, ((0, 0), (0, 0), (0, 1)), constant_values=-9.0))
    with pytest.warns(
        ExeuntWarning, match="different numbers of classes .'small' 6, 'large' 5.: give all of them"
    ):
        ex.cascade(fit, calibrate, budget="50%", policy="eero")


def unlabelled(models):
    return ex.CascadeTrace({name: replace(models[name], label=None) for name in models.names})


def test_a_set_of_cascades_has_one_order_and_skips_models_that_a_budget_does_not_pay_for(tmp_path):
    fit, calibrate, test = parts_of_world()
    options = {"delta": 0.1, "jointly": True, "answer": "own", "policy": "eero"}
    policies = ex.cascades(fit, calibrate, budgets=["5%", "30%", "60%"], **options)
    assert [policy.models for policy in policies][:2] == [("cheap",), ("cheap", "good")]
    assert policies.models[0] == "cheap"
    for policy in policies:
        assert [name for name in policies.models if name in policy.models] == list(policy.models)
        assert ex.evaluate(policy, test).cost < 1.1 * policy.budget
        assert policy.costliest <= policy.budget or policy.certificate.delta == pytest.approx(0.1 / 3)
    assert policies.at("29%") is policies.policies[0]
    assert policies.at("6 usd") is policies.policies[1]
    with pytest.raises(ex.InfeasibleBudget, match="smallest budget of this set"):
        policies.at("1%")
    policies.save(tmp_path / "set.json")
    assert list(ex.PolicySet.load(tmp_path / "set.json")) == list(policies)
    assert "cheap, good" in str(policies)


def test_cascades_of_two_orders_are_no_set():
    fit, calibrate, _ = parts_of_world()
    one = ex.cascade(fit, calibrate, budget=7, order=("cheap", "good"), policy="eero", answer="own")
    assert one.models == ("cheap", "good")
    other = replace(one, budget=8.0, cascade=(CascadeStep("good", 1), CascadeStep("cheap", 1)))
    with pytest.raises(ex.InputError, match="in one order"):
        ex.PolicySet((one, other))


@pytest.mark.parametrize("order", [*permutations(("cheap", "good", "poor"))])
def test_an_order_that_is_given_is_kept(order):
    fit = parts_of_world()[0]
    names = [step.model for step in find_cascade(fit, 11.0, "own", 0, order)[0]]
    assert names == [name for name in order if name in names]
    search = _Search(_comparing(fit, 0), 11.0, "own")
    alone = [search.accuracy((CascadeStep(name, 1),)) for name in order]
    assert search.accuracy(find_cascade(fit, 11.0, "own", 0, order)[0]) >= max(alone)


@cache
def with_an_idle_model():
    """Return 960 inputs to fit and 960 to calibrate."""
    return idle_beside_good(2400).split(fit=0.4, calibrate=0.4, test=0.2, seed=0)[:2]


def idle_beside_good(n):
    """A cheap model that is right by chance alone, beside two good ones."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, 4, n)

    def model(skill, cost):
        logits = rng.normal(size=(n, 1, 4))
        logits[np.arange(n), 0, label] += skill
        return ex.ExitTrace.from_logits(logits, cost=ex.CostModel([cost]), label=label, id=np.arange(n))

    return ex.CascadeTrace({"chance": model(0.0, 3), "small": model(2.5, 10), "large": model(4, 100)})


def test_a_model_that_is_never_asked_is_named_with_the_reason(tmp_path):
    fit, calibrate = with_an_idle_model()
    policy = ex.cascade(fit, calibrate, budget="40%", answer="own", policy="eero")
    assert policy.models == ("small", "large")
    (name, why), *others = policy.unasked.items()
    assert (name, others) == ("chance", [])
    found = re.fullmatch(
        r"chance is not asked: for its 3\.0% of the cost of large, the best cascade found with it \((.*)\) is (.*) "
        r"small, large, within 40 MACs on 960 inputs\.",
        why,
    )
    search = _Search(_comparing(fit, 0), 40.0, "own")
    names = found[1].split(", ")
    assert "chance" in names
    gain = search.accuracy(tuple(CascadeStep(name, 1) for name in names)) - search.accuracy(policy.cascade)
    how = "less accurate than" if gain < 0 else "more accurate (too little to tell) than"
    told = f"{100 * abs(gain):.1f} points {how}"
    assert found[2] == ("as accurate as" if abs(gain) < 5e-4 else told)
    assert why in str(policy)
    policy.save(tmp_path / "policy.json")
    assert ex.Policy.load(tmp_path / "policy.json").unasked == policy.unasked
    ordered = {"order": ["small", "large"], "answer": "own", "policy": "eero"}
    assert not ex.cascade(fit, calibrate, budget="40%", **ordered).unasked  # the order leaves it out


def test_a_model_that_would_come_first_and_costs_too_much_is_not_compared():
    _, reasons = find_cascade(world(600), 3.0, "own", 0, ("good", "cheap"))
    why = "good is not asked: no cascade with it, in this order, keeps a budget of 3 usd."
    assert reasons == {"good": why}


def test_a_set_of_cascades_names_models_that_none_of_them_asks():
    fit, calibrate = with_an_idle_model()
    policies = ex.cascades(fit, calibrate, budgets=["10%", "40%"], answer="own", policy="eero")
    assert [policy.models for policy in policies] == [("small",), ("small", "large")]
    assert set(policies.policies[0].unasked) == {"chance", "large"}
    assert [*policies.unasked] == ["chance"]
    assert policies.unasked["chance"] in str(policies)


def test_a_model_after_one_that_answers_everything_is_named():
    fit, calibrate = with_an_idle_model()
    both = ex.cascade(fit, calibrate, budget="40%", answer="own", policy="eero")
    always = replace(both, limits=Thresholds.of([(ALWAYS, ALWAYS)] * 2), notes={})
    assert with_unasked(both, {}) is both
    why = "large is not asked: small or a model before it answers everything."
    assert with_unasked(always, {}).unasked == {"large": why}


def test_the_comparison_names_a_model_that_never_answers():
    models = {"services": idle_beside_good(1200)}
    found = ex.compare(models, budgets="15%,20%", policies="eero", splits=1, workers=0)
    (sentence,) = (one for one in found.summary() if "is not asked" in one)
    assert sentence.startswith("On services: chance is not asked: for its 3.0% of the cost of large, ")
    assert sentence.endswith(" on 1,200 inputs.")
