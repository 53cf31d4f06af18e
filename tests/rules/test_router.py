"""Routers ask whom it pays to ask, and their budgets and certificates are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binom

import exeunt as ex
from exeunt.errors import InputError
from exeunt.rules import router_fitting as router
from exeunt.rules.by_name import policy_set
from exeunt.rules.router_fitting import _limits, _on_paths
from exeunt.rules.router_plans import learned_router
from exeunt.score.kernel_regression import KernelRegression
from exeunt.score.router_score import NEXT
from exeunt.trace.cascade_step import CascadeStep

PRICES = {"small": 1.0, "code": 2.0, "large": 8.0}


def topics(n, seed=0, *, told=True, varies=False, repeats=False):
    """Questions on two topics: `code` is right on one of them, `small` on easy ones, `large` nearly always."""
    rng = np.random.default_rng(seed)
    id_ = rng.integers(0, n // 4, n) if repeats else np.arange(n) + 10**6 * seed
    of = np.random.default_rng([id_.min(), 7])
    noise = of.random((id_.max() + 1 - id_.min(), 8))[id_ - id_.min()] if repeats else rng.random((n, 8))
    label, is_code, easy = (noise[:, 0] * 4).astype(int), noise[:, 1] < 0.5, noise[:, 2] < 0.5
    right = {
        "small": np.where(easy, 0.95, 0.3),
        "code": np.where(is_code, 0.95, 0.3),
        "large": np.full(n, 0.97),
    }
    models = {}
    for k, (name, price) in enumerate(PRICES.items()):
        correct = noise[:, 3 + k] < right[name]
        sure = np.where(right[name] > 0.5, 0.8, 0.3) + 0.1 * noise[:, 6]
        cost = ex.CostModel([price], unit="usd")
        if varies:
            cost = ex.CostModel(price * (0.5 + noise[:, [7]]), unit="usd", highest=1.5 * price)
        answer, of = np.where(correct, label, (label + 1) % 4)[:, None], {"label": label, "id": id_}
        models[name] = ex.ExitTrace.from_scores(sure[:, None], answer, cost=cost, name="confidence", **of)
    found = ex.CascadeTrace(models)
    if not told:
        return found
    features = np.stack([is_code + 0.1 * noise[:, 6], noise[:, 7]], axis=1)
    return found.with_features("topic", features, cost=0.01)


@pytest.fixture(autouse=True, scope="module")
def _routers():
    """Make routers also where a cascade would do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(router, "_SURELY", -1e9)  # times a standard error, which may be 0
        yield


@pytest.fixture(scope="module")
def parts():
    return topics(3200).split(fit=0.2, calibrate=0.3, test=0.5)


@pytest.fixture(scope="module")
def routed(parts, _routers):
    return ex.router(*parts[:2], budget=3.0, delta=0.1)


@pytest.fixture(scope="module")
def set_of_routers(parts, _routers):
    return ex.PolicySet.make(ex.cascade_router, *parts[:2], budgets=[1.0, 2.0, 4.0, 7.0])


def test_a_router_asks_the_model_of_the_topic(parts):
    fit, calibrate, test = parts
    policy = ex.router(fit, calibrate, budget=3.0)
    asked = np.array([policy.cascade[exit_].model for exit_ in policy.route(test)])
    is_code = test["topic"].features[0][:, 0] > 0.55
    assert (asked[is_code] == "code").mean() > 0.95
    result = ex.evaluate(policy, test)
    assert result.cost == pytest.approx(3.0, rel=0.07)
    # By lot between `code` and `large` at this cost: .625 + (3 - 2) / 6 * (.97 - .625) = .68.
    assert result.accuracy > 0.76


def test_a_cascade_router_skips_and_is_better_than_router_and_cascade(parts, set_of_routers):
    fit, calibrate, test = parts
    bare = [part.without(["topic"]) for part in parts]
    for budget in (2.0, 4.0):
        skipping = set_of_routers.at(budget)
        assert skipping.budget == budget
        whole = ex.evaluate(ex.router(fit, calibrate, budget=budget), test)
        found = ex.evaluate(skipping, test)
        plain = ex.evaluate(ex.cascade(*bare[:2], budget=budget), bare[2])
        assert found.accuracy > max(whole.accuracy, plain.accuracy) - 0.015
        assert found.cost < budget * 1.06
        assert any(path.startswith("topic > code") for path in skipping.exit_names)


def test_where_a_router_is_not_better_it_is_the_cascade(parts, monkeypatch):
    """Here `code` and `small` tell how sure they are, and a look at the topic brings nothing beyond that."""
    monkeypatch.setattr(router, "_SURELY", 2.0)
    fit, calibrate, test = parts
    policy = ex.cascade_router(fit, calibrate, budget=2.0, delta=0.1)
    chain = ex.cascade(fit, calibrate, budget=2.0, delta=0.1)
    assert policy.name == "cascade_router"
    assert "in a row: no router answers the fit inputs better" in str(policy)
    assert policy.cascade == chain.cascade
    assert np.array_equal(policy.answers(test), chain.answers(test))


def test_the_cascade_in_its_place_asks_in_the_order_that_is_best(monkeypatch):
    """As `cascade` does, or in a given order. A set keeps to the order of prices, as routers do."""
    monkeypatch.setattr(router, "_SURELY", 1e9)
    fit, calibrate, _ = topics(700, told=False).split(fit=0.5, calibrate=0.4, test=0.1)
    order = ["code", "small"]
    policy = ex.cascade_router(fit, calibrate, budget=3.0, order=order)
    assert policy.cascade == ex.cascade(fit, calibrate, budget=3.0, order=order).cascade
    alone = ex.cascade_router(fit, calibrate, budget=3.0)
    assert alone.cascade == ex.cascade(fit, calibrate, budget=3.0).cascade
    of_set = policy_set(fit, calibrate, policy="cascade_router", budgets=[1.5, 3.0, 5.0])
    assert [*of_set.models] == sorted(of_set.models, key=[*PRICES].index)


def one_by_one(policy, models):
    """The exit of each input, and what it cost, by a loop that follows the rule as it is written."""
    trace = models.along(policy.cascade)
    exits, paid = [], []
    for i in range(trace.n):
        state, exit_, seen = policy.init(1, id=trace.keys(policy.ties)[i : i + 1]), 0, {}
        while True:
            step = policy.cascade[exit_]
            seen[step.model] = models[step.model].cost.of_inputs(models.n)[i, step.exits[0]]
            decision = policy.decide(exit_, trace.evidence(exit_, np.array([i])), state)
            if decision.leave[0]:
                break
            state = decision.state
            exit_ = int(state.memory[NEXT][0])
            assert policy.cascade[exit_].after is not None
        exits.append(exit_)
        paid.append(sum(seen.values()))
    return np.array(exits), np.array(paid)


@pytest.mark.parametrize("varies", [False, True])
def test_replay_follows_each_input_and_pays_for_what_was_asked(varies):
    fit, calibrate, test = topics(900, 1, varies=varies).split(fit=0.4, calibrate=0.5, test=0.1)
    policy = ex.cascade_router(fit, calibrate, budget=3.0)
    assert len({step.model for step in policy.cascade}) >= 3
    exits, paid = one_by_one(policy, test)
    assert np.array_equal(policy.route(test), exits)
    cost = policy.priced(test).cost.of_inputs(test.n)
    np.testing.assert_allclose(cost[np.arange(test.n), exits], paid, rtol=1e-6)
    # What counts in calibration is what the policy does: the same exits as `route` finds.
    assert policy.was_calibrated_on(calibrate)


def test_an_answer_in_a_tree_is_that_of_its_path_alone():
    fit, calibrate, test = topics(1600, 2, told=False).split(fit=0.5, calibrate=0.25, test=0.25)
    policy = ex.cascade_router(fit, calibrate, budget=3.0, answer="ensemble")
    whole = policy.answer.on(test.along(policy.cascade))
    deep = max(range(policy.n_exits), key=lambda exit_: policy.exit_names[exit_].count(">"))
    names = policy.exit_names[deep].split(" > ")
    assert len(names) > 1
    path = [policy.exit_names.index(" > ".join(names[: k + 1])) for k in range(len(names))]
    alone = test.along([CascadeStep(name, 1) for name in names])
    stages = type(policy.answer)(tuple(policy.answer.stages[exit_] for exit_ in path))
    assert np.array_equal(stages.on(alone).prediction[:, -1], whole.prediction[:, deep])


def test_labels_of_the_calibration_part_are_not_needed(parts):
    fit, calibrate, test = parts
    bare = ex.CascadeTrace({name: replace(calibrate[name], label=None) for name in calibrate.names})
    for make in (ex.router, ex.cascade_router):
        policy = make(fit, bare, budget=3.0, delta=0.1)
        assert np.array_equal(policy.route(test), make(fit, calibrate, budget=3.0, delta=0.1).route(test))


def test_a_few_usual_inputs_in_a_thousand_are_called_like_none_before():
    def unlike(seed):
        rng = np.random.default_rng(seed)
        known = KernelRegression.fit(rng.normal(size=(1_500, 3)), rng.random((1_500, 1)), 0)
        return known(rng.normal(size=(5_000, 3)))[1].mean()

    assert 0.5e-3 < np.mean([unlike(seed) for seed in range(4)]) < 3e-3


@pytest.mark.parametrize("budget", [1.1, 1.5, 4.0])
def test_calibration_inputs_use_the_budget_also_where_few_are_sent_to_the_dearer_model(budget):
    """But for what a further input of the highest cost may take, and for what a few more inputs would cost."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1600, 2))
    grade = np.stack([np.full(len(x), 0.5), 1 / (1 + np.exp(-x[:, 0]))], axis=1)
    models = ex.CascadeTrace({
        name: ex.ExitTrace.from_losses(
            None, (rng.random(len(x)) < grade[:, k])[:, None].astype(float), better="higher", measure="grade",
            cost=ex.CostModel([price], unit="usd"), id=np.arange(len(x)),
        )
        for k, (name, price) in enumerate({"small": 1.0, "large": 8.0}.items())
    }).with_features("x", x, cost=0.001)  # fmt: skip
    fit, calibrate, _ = models.split(fit=0.5, calibrate=0.4, test=0.1)
    policy = ex.router(fit, calibrate, budget=budget)
    left = (budget * (calibrate.n + 1) - 8.001) - policy.expected_cost * calibrate.n
    assert 0 <= left <= 4 * (8.0 - 1.0)


def test_inputs_like_none_before_go_to_the_best_model(parts, routed):
    odd = np.random.default_rng(0).normal(size=(400, 2)) * 100 + 1000
    strange = topics(400, 9, told=False).with_features("topic", odd, cost=0.01)
    asked = {routed.cascade[exit_].model for exit_ in routed.route(strange)}
    assert asked == {parts[0].answering.most_accurate}
    quality, unlike = routed.score.known.quality[0](np.full((3, 2), np.nan))
    assert unlike.all()
    assert np.isfinite(quality).all()


def test_thresholds_go_from_the_cheapest_up_and_each_input_pays_ever_more():
    """The expected cost is kept by conformal risk control, which needs costs that rise for every input."""
    fit, calibrate, _ = topics(2000, 3, told=False).split(fit=0.5, calibrate=0.4, test=0.1)
    learned = learned_router(fit, "auto", None, 0)
    plan = learned.by_cost(4.0, calibrate.n).plan(4.0)
    on_fit, on_calibrate = (_on_paths(plan, learned.seen(one, "content", 0)) for one in (fit, calibrate))
    limits = list(_limits(plan, on_fit, 4.0, calibrate.n))
    assert len(limits) > 15
    for cheaper, dearer in pairwise(on_calibrate.paid(one) for one in limits):
        assert (dearer >= cheaper).all()


@pytest.mark.parametrize("make", [ex.router, ex.cascade_router])
def test_saved_and_loaded_it_decides_the_same(parts, make, tmp_path):
    fit, calibrate, test = parts
    policy = make(fit, calibrate, budget=3.0, delta=0.1)
    policy.save(tmp_path / "policy.json")
    loaded = ex.Policy.load(tmp_path / "policy.json")
    assert loaded == policy
    assert np.array_equal(loaded.route(test), policy.route(test))
    assert np.array_equal(loaded.answers(test), policy.answers(test))
    assert "robability" in str(policy)
    assert len(json.dumps(policy.to_dict())) < 1_000_000


def test_the_score_at_the_first_model_is_watched_and_features_are_not(routed):
    fit, calibrate = topics(600, told=False), topics(800, 1, told=False)
    policy = ex.cascade_router(fit, calibrate, budget="50%")
    watch = ex.Watch(policy)
    assert watch.replay(calibrate) == []
    assert watch.n == 800
    assert policy.watched.first == 0
    worse = topics(400, 2, told=False)
    unsure = replace(worse["small"], scores={"confidence": worse["small"].scores["confidence"] - 0.2})
    models = {name: worse[name] for name in worse.names}
    assert watch.replay(ex.CascadeTrace({**models, "small": unsure})) != []
    with pytest.raises(InputError, match="a router that looks at features first"):
        ex.Watch(routed)


def test_a_set_of_routers_asks_in_one_order(set_of_routers):
    assert set_of_routers.models == ("topic", "small", "code", "large")
    costs = [one.expected_cost for one in set_of_routers]
    assert costs == sorted(costs)


def test_a_loss_is_certified(parts):
    fit, calibrate, test = parts
    policy = ex.cheapest(fit, calibrate, max_loss=0.05, policy="cascade_router", points=4)
    assert policy.loss_certificate is not None
    result = ex.evaluate(policy, test)
    assert result.accuracy > 1 - test["large"].risk[0] - 0.05
    assert result.cost < 0.8 * PRICES["large"]


def test_graded_answers_without_scores_are_routed():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 3))
    grade = 1 / (1 + np.exp(np.stack([-3 * x[:, 0], np.full(1000, -np.log(7 / 3)), 3 * x[:, 0]], axis=1)))
    models = ex.CascadeTrace({
        name: ex.ExitTrace.from_losses(
            None, (rng.random(1000) < grade[:, k])[:, None].astype(float), better="higher", measure="grade",
            cost=ex.CostModel([1.0 + k], unit="usd"), id=np.arange(1000),
        )
        for k, name in enumerate("abc")
    }).with_features("x", x, cost=0.001)  # fmt: skip
    fit, calibrate, test = models.split(fit=0.6, calibrate=0.2, test=0.2)
    result = ex.evaluate(ex.router(fit, calibrate, budget=2.2), test)
    assert result.measure == "grade"
    assert result.accuracy > 0.76  # the best single model has .7


def test_features_are_ranked_by_the_kernel():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5))
    y = np.stack([np.sin(2 * x[:, 0]), x[:, 1] ** 2], axis=1)
    found = KernelRegression.fit(x, y, 0)
    new = rng.normal(size=(200, 5))
    predicted, unlike = found(new)
    true = np.stack([np.sin(2 * new[:, 0]), new[:, 1] ** 2], axis=1)
    assert np.corrcoef(predicted[:, 0], true[:, 0])[0, 1] > 0.85
    assert unlike.mean() < 0.05
    assert found(100 * new)[1].mean() > 0.95
    again = KernelRegression.from_dict(json.loads(json.dumps(found.to_dict())))
    assert np.array_equal(again(new)[0], predicted)


def violations(n, seeds, size=20_000, **options):
    """In how many recalibrations the true mean cost of a certified router was above its budget."""
    population = topics(size, 11, **options)
    over, certified = 0, 0
    for seed in seeds:
        rows = np.random.default_rng([seed, 3]).integers(0, population.n, n)
        fit, calibrate, _ = population.take(rows).split(fit=0.4, calibrate=0.5, test=0.1, seed=seed)
        try:
            policy = ex.cascade_router(fit, calibrate, budget=3.0, delta=0.1, seed=seed)
        except ex.InfeasibleBudget:
            continue
        cost = policy.priced(population).cost.of_inputs(population.n)
        certified += 1
        over += float(cost[np.arange(population.n), policy.route(population)].mean()) > 3.0 * (1 + 1e-12)
    return over, certified


def test_certificates_of_few_recalibrations_are_kept():
    over, certified = violations(400, range(6), size=4000, told=False, repeats=True)
    assert certified >= 5
    assert binom.sf(over - 1, certified, 0.1) > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"told": False}, {"varies": True}, {"repeats": True}],
    ids=lambda one: " ".join(one) or "features",
)
def test_certificates_of_a_thousand_recalibrations_are_kept(options):
    over, certified = violations(900, range(1000), **options)
    assert certified > 900
    assert binom.sf(over - 1, certified, 0.1) > 0.01 / 4


def test_bad_input_is_refused(parts, routed, refuses):
    fit, held, _ = parts
    bare, two = [one.without(["topic"]) for one in (fit, held)], fit.take([0, 1])
    other = bare[0].with_features("topic", np.zeros((fit.n, 5)), cost=0.01)
    refused = {
        r"have none: give them with models\.with_features": lambda: ex.router(*bare, budget=3.0),
        "or 'auto', got 'best'": lambda: ex.cascade_router(*bare, budget=3.0, answer="best"),
        "the fit part has 39: give more, or": lambda: ex.router(fit.take(slice(39)), held, budget=3.0),
        "a model 'topic' already": lambda: fit.with_features("topic", np.zeros((fit.n, 1)), cost=1.0),
        "each of 640 inputs, got 3": lambda: fit.with_features("more", np.zeros((3, 1)), cost=1.0),
        r"features has 1 NaN, .* \(1, 0\)": lambda: two.with_features("more", [[0.0], [np.nan]], cost=1.0),
        r"number per input, got .*\(2, 0\)": lambda: two.with_features("more", np.zeros((2, 0)), cost=1.0),
        "numbers, got .*'a'": lambda: two.with_features("more", np.array([["a"], ["b"]]), cost=1.0),
        "delta is the probability .*, got 0": lambda: ex.router(fit, held, budget=3.0, delta=0),
        "delta is the probability .*, got 5": lambda: ex.router(fit, held, budget=3.0, delta=5),
        r"such as ex\.auto, got 'router'": lambda: ex.PolicySet.make("router", fit, held, budgets="20%,40%"),
        "the trace of one network": lambda: ex.cheapest(fit["large"], held["large"], policy="router"),
        "features of the input, and the evidence has none": lambda: routed.decide(
            0, {"prediction": np.zeros(1)}, routed.init(1, id=np.zeros(1, np.uint64))
        ),
        r"this router looks at \d+ features? of an input, got 5": lambda: ex.evaluate(routed, other),
    }
    refuses(refused)
    with pytest.raises(ex.InfeasibleBudget, match="below the cheapest model, small"):
        ex.router(fit, held, budget=0.5)
