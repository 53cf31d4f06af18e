"""Certificates, evaluation and warnings where inputs come in groups."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from scipy.stats import t as student

import exeunt as ex
from exeunt.evaluation.cache import _trace_digest
from exeunt.evaluation.replay import score_exits
from exeunt.guarantees.p_values import betting
from exeunt.policy.exchangeability import NOTICED
from exeunt.trace.derived import alike_neighbours
from exeunt.trace.groups import per_unit
from exeunt.trace.splitting import random_order

COST = ex.CostModel([1.0, 2.0, 4.0])
ASSUMED = "future groups are exchangeable with these, and that nothing else was fitted on them."


def videos(n_groups, seed, *, most=1, alike=0.8, sizes=(3, 60), cost=COST):
    """Frames of videos: many short ones, and one in ten long; frames of a video are about as easy as each other."""
    rng = np.random.default_rng(seed)
    size = np.where(rng.random(n_groups) < 0.1, sizes[1], sizes[0])
    key = np.repeat(np.arange(n_groups) + 10**4 * seed, size)
    easy = np.repeat(rng.normal(size=n_groups), size) * alike**0.5
    easy = easy + rng.normal(size=len(key)) * (1 - alike) ** 0.5
    label = rng.integers(0, 3, len(key))
    right = rng.normal(size=(len(key), 3)) + easy[:, None] + [0.5, 1.0, 1.5] > 0
    score = easy[:, None] + 0.3 * rng.normal(size=(len(key), 3))
    prediction = np.where(right, label[:, None], (label[:, None] + 1) % 3)
    ids = np.arange(len(key)) + 10**7 * seed
    groups = ex.Groups(key, most)
    return ex.ExitTrace.from_scores(score, prediction, cost=cost, label=label, id=ids, groups=groups)


FIT = videos(80, 1)


@pytest.mark.parametrize("most", [1, 20])
def test_a_cost_certificate_is_that_of_the_groups(most):
    """The test that it rests on, again from its definition, and no more expensive plan that could pass."""
    fit, calibrate = videos(80, 1, most=most), videos(120, 2, most=most)
    policy = ex.eero(fit, calibrate, budget=2.0, delta=0.05, seed=3)
    proof, paid = policy.certificate, COST.cumulative[policy.route(calibrate)]
    groups = calibrate.groups
    weight = np.minimum(most, groups.sizes)
    means = np.array([paid[groups.index == group].mean() for group in range(groups.n)])
    assert policy.calibration == "cost-per-group"
    assert (proof.n_groups, proof.rows_per_group, proof.n_calibration) == (120, most, calibrate.n)
    assert proof.expected_cost == policy.calibration_cost == pytest.approx(weight @ means / weight.sum())
    values = 2.0 + weight / most * (means - 2.0)
    np.testing.assert_allclose(per_unit(paid, groups, 2.0), values)
    assert betting(values[random_order(120, 3)] / 4.0, 0.5, delta=0.05) <= 0.05
    assert 1.5 < proof.expected_cost < 2.0
    assert ex.Policy.from_dict(policy.to_dict()) == policy
    over = f"Guarantee: with probability 95% over the 120 calibration groups ({calibrate.n:,} inputs), the long-run "
    assert str(proof).startswith(over + {
        1: "mean over groups of their mean cost is at most 2 MACs (expected: ",
        20: "mean cost, where inputs of groups of more than 20 weigh 20/size, is at most 2 MACs (expected: ",
    }[most])  # fmt: skip
    assert ASSUMED in str(proof)
    assert str(proof) in str(policy)


def test_without_delta_the_expected_cost_is_kept_with_one_more_group_of_the_highest_cost():
    calibrate = videos(40, 2)
    policy = ex.eero(FIT, calibrate, budget=2.0)
    means = calibrate.groups.means(COST.cumulative[policy.route(calibrate)])
    assert (means.sum() + 4.0) / 41 <= 2.0 < (means.sum() + 4.0) / 41 + 0.1


def test_groups_that_cost_too_much_cannot_do():
    """Inputs differ in cost, and even the first exit costs more than the budget on average."""
    calibrate = videos(30, 2)
    fit, dear = (
        one.with_cost(ex.CostModel(factor * np.ones((one.n, 1)) * COST.cumulative, highest=8.0))
        for one, factor in ((FIT, 1.0), (calibrate, 1.8))
    )
    with pytest.raises(ex.InfeasibleBudget, match=r"30 .*groups certify nothing .*: ask for a higher"):
        ex.eero(fit, dear, budget=1.5, delta=0.05)


def priced_by_size(n_groups, seed, most=1):
    """Frames of short videos cost ten times as much as frames of long ones; the network has the full cost in `COST`."""
    trace = videos(n_groups, seed, most=most)
    price = np.where(trace.groups.sizes[trace.groups.index] > 3, 1.0, 10.0)
    price *= 1 + np.arange(trace.n) % 7 / 10
    return trace.with_cost(ex.CostModel(price[:, None] * COST.cumulative, unit="usd", highest=80.0))


@pytest.mark.parametrize("most", [1, 20])
def test_shares_and_budgets_are_of_the_mean_cost_that_is_guaranteed(most):
    """The mean cost of inputs and that of groups differ by a factor of two and more where prices go with sizes."""
    fit, calibrate = priced_by_size(150, 1, most), priced_by_size(300, 2, most)
    weight, size = np.minimum(most, fit.groups.sizes), fit.groups.sizes
    rows = (weight / size)[fit.groups.index]
    for exits in range(3):
        paid = fit.cost.per_input[:, exits]
        assert fit.cost.cumulative[exits] == pytest.approx(rows @ paid / rows.sum())
    assert fit.cost.full > 1.2 * fit.cost.per_input[:, 2].mean()
    whole = score_exits(fit, np.full(fit.n, 2))
    assert whole.saved == pytest.approx(0.0, abs=1e-12)
    assert whole.cost == pytest.approx(fit.cost.full)
    policy = ex.eero(fit, calibrate, budget="60%", delta=0.05)
    assert policy.budget == pytest.approx(0.6 * fit.cost.full)
    assert 0.45 < policy.certificate.expected_cost / fit.cost.full < 0.6
    models = [ex.CascadeTrace({"a": one.exits(0, 1), "b": one.exits(2, 3)}) for one in (fit, calibrate)]
    made = ex.cascade(*models, budget="90%", policy="eero", delta=0.1)
    assert made.certificate.n_groups == 300
    risk = ex.risk_controlled(fit, calibrate, max_loss=0.3)
    found = ex.evaluate(risk, calibrate)
    assert risk.budget == risk.expected_cost == pytest.approx(found.cost)
    np.testing.assert_allclose(risk.rates, found.shares)


@pytest.mark.parametrize("budget", [1.0, 4.0])
def test_the_least_and_the_largest_budget_are_certain(budget):
    policy = ex.eero(FIT, videos(20, 2), budget=budget, delta=0.05)
    assert policy.expected_cost <= budget
    assert policy.guarantee.startswith("The budget is kept for certain")


def test_a_group_of_each_input_is_tested_as_inputs_are():
    """Rows that are groups of their own, at costs that differ: the same thresholds and test as without groups."""
    grouped = []
    for n in (300, 301):
        cost = np.random.default_rng(n).uniform(1, 2, (n, 1)) * COST.cumulative
        grouped.append(videos(n, n, sizes=(1, 1)).with_cost(ex.CostModel(cost, highest=8.0)))
    bare = [replace(one, groups=None) for one in grouped]
    for delta in (None, 0.1):
        one, other = (ex.eero(*parts, budget=3.0, delta=delta) for parts in (grouped, bare))
        np.testing.assert_array_equal(one.thresholds, other.thresholds)
        assert one.expected_cost == pytest.approx(other.expected_cost)


def test_four_groups_certify_nothing():
    """As many as there are drives in CamVid: 700 frames, and still four independent observations."""
    drives = videos(4, 2, sizes=(175, 175))
    with pytest.raises(ex.InfeasibleBudget) as raised:
        ex.eero(FIT, drives, budget=1.5, delta=0.05)
    shown = re.fullmatch(
        r"4 calibration groups certify nothing at delta=0\.05, not even that a mean cost of 1\.5 MACs is kept if "
        r"everything is answered at the first exit \(1 MACs on average; an input can cost 4 MACs\): about (\d+) groups "
        r"like these would do",
        str(raised.value),
    )
    enough = int(shown[1])
    assert 8 <= enough <= 40
    ex.eero(FIT, videos(enough, 3), budget=1.5, delta=0.05)
    with pytest.raises(ex.Infeasible, match=r"^4 labelled groups \(700 inputs\) cannot show .* within 0\.02"):
        ex.risk_controlled(FIT, drives, max_loss=0.02)
    with pytest.raises(ex.Infeasible, match=r"4 labelled groups \(700 .* show .* More groups show more\."):
        ex.cheapest(FIT, drives, max_loss=0.02, policy="eero", points=3)


def test_about_how_many_groups_would_do_is_what_the_test_takes():
    """Each costs 1 of at most 4 at the first exit; the mean must be shown to be at most 1.05."""
    with pytest.raises(ex.InfeasibleBudget) as raised:
        ex.eero(FIT, videos(1, 2, sizes=(5, 5)), budget=1.05, delta=0.05)
    assert str(raised.value).startswith("1 calibration group certifies nothing at delta=0.05, ")
    enough = int(re.search(r"about (\d+) groups like these would do", str(raised.value))[1])

    def shows(n):
        return betting(np.full(n, 0.25), 1.05 / 4, delta=0.05) <= 0.05

    assert (shows(enough), shows(int(0.8 * enough))) == (True, False)


@pytest.mark.parametrize("most", [1, 20])
@pytest.mark.parametrize("make", [ex.cheapest, ex.risk_controlled])
def test_a_loss_certificate_is_that_of_the_groups(make, most):
    fit, calibrate = videos(150, 1, most=most), videos(300, 2, most=most)
    options = {"policy": "eero", "points": 5} if make is ex.cheapest else {}
    policy = make(fit, calibrate, max_loss=0.1, **options)
    proof = policy.loss_certificate
    assert (proof.n_groups, proof.rows_per_group) == (300, most)
    assert proof.p_value <= 0.05
    over = f"over the 300 labelled calibration groups ({proof.n_test:,} inputs), the "
    assert over + {
        1: "long-run mean over groups of their accuracy is",
        20: "long-run accuracy per input, where inputs of groups of more than 20 weigh 20/size, is",
    }[most] in str(proof)  # fmt: skip
    assert str(proof).endswith(ASSUMED)
    right = calibrate.correct.astype(float)
    lost = right[:, -1] - right[np.arange(calibrate.n), policy.route(calibrate)]
    weight = np.minimum(1, most / calibrate.groups.sizes)[calibrate.groups.index]
    assert proof.loss == pytest.approx(weight @ lost / weight.sum())


def test_files_of_rows_say_nothing_of_groups():
    fit, calibrate = (replace(one, groups=None) for one in (FIT, videos(120, 2)))
    made = ex.eero(fit, calibrate, budget=2.0, delta=0.05)
    assert not {"n_groups", "rows_per_group"} & made.to_dict()["certificate"].keys()
    assert "n_groups" not in ex.evaluate(made, calibrate).to_dict()


def test_comparisons_of_other_groups_are_measured_anew():
    trace = videos(30, 2)
    others = [trace, replace(trace, groups=None), replace(trace, groups=ex.Groups(trace.groups.key, 5))]
    others.append(replace(trace, groups=np.arange(trace.n) // 5))
    assert len({_trace_digest(one) for one in others}) == 4


def test_budgets_and_cascades_keep_groups():
    trace = videos(200, 5)
    large = trace.exits(2, 3).with_cost(ex.CostModel([3.0]))
    models = ex.CascadeTrace({"small": trace.exits(0, 1), "large": large})
    fit, calibrate, test = models.split(fit=0.4, calibrate=0.4, test=0.2)
    policy = ex.cascade(fit, calibrate, budget=2.0, policy="eero", delta=0.1)
    assert policy.certificate.n_groups == 80
    assert ex.evaluate(policy, test).groups.n == 40
    found = ex.PolicySet.make(ex.eero, FIT, videos(120, 2), budgets=[2.0, 3.0], delta=0.1, jointly=True)
    assert [one.certificate.n_groups for one in found] == [120, 120]
    auto = ex.auto(FIT, videos(120, 2), budget=2.0, delta=0.1)
    assert auto.certificate.n_groups == 120


@pytest.mark.parametrize("most", [1, 20])
def test_results_are_weighted_as_guarantees_are(most):
    """The interval is that of a ratio estimator: weighted residuals of groups, Student's t with groups - 1."""
    trace = videos(60, 4, most=most)
    exits = np.random.default_rng(0).integers(0, 3, trace.n)
    found = score_exits(trace, exits)
    right, paid = trace.correct[np.arange(trace.n), exits].astype(float), COST.cumulative[exits]
    groups = trace.groups
    weight = np.minimum(most, groups.sizes)
    for values, value, interval in (
        (right, found.accuracy, found.accuracy_interval),
        (paid, found.cost, found.cost_interval),
    ):
        means = np.array([values[groups.index == group].mean() for group in range(60)])
        ratio = weight @ means / weight.sum()
        error = (np.sum((weight * (means - ratio)) ** 2) * 60 / 59) ** 0.5 / weight.sum()
        assert value == pytest.approx(ratio)
        np.testing.assert_allclose(interval, ratio + error * student.ppf([0.025, 0.975], 59))
    assert found.shares @ COST.cumulative == pytest.approx(found.cost)
    how = "mean over groups" if most == 1 else "inputs of groups of more than 20 weigh 20/size"
    assert str(found).startswith(f"routing on {trace.n:,} inputs in 60 groups ({how}): accuracy ")
    assert (found.to_dict()["n_groups"], found.to_dict()["rows_per_group"]) == (60, most)
    best = ex.oracle(trace, 2.0)
    assert found.cost > best.cost <= 2.0 * (1 + 1e-9)
    assert best.accuracy > found.accuracy


def test_groups_that_show_no_spread_have_intervals_all_the_same():
    trace = videos(30, 4)
    sure = replace(trace, prediction=np.repeat(trace.label[:, None], 3, axis=1))
    low, high = score_exits(sure, np.zeros(trace.n, dtype=int)).accuracy_interval
    assert low < 0.9
    assert high == pytest.approx(1)
    one = score_exits(trace.take(trace.groups.index == 0), np.zeros(trace.groups.sizes[0], dtype=int))
    assert (one.accuracy_interval, one.cost_interval) == ((0.0, 1.0), (1.0, 4.0))


def test_alike_rows_of_a_group_are_no_reason_to_warn():
    warned = 0
    policy = ex.eero(FIT, videos(40, 9), budget=2.0)
    for seed in range(60):
        calibration, test = videos(40, 2 * seed + 10), videos(60, 2 * seed + 11)
        warned += bool(ex.evaluate(policy, test, calibration=calibration).warning)
    assert warned <= binom.ppf(1 - 1e-6, 60, NOTICED)
    other = replace(test, scores={"score": test.scores["score"] + 2.0})
    assert "more sure of them" in ex.evaluate(policy, other, calibration=calibration).warning
    assert not ex.evaluate(policy, replace(test, groups=None)).warning  # not compared by rows
    with pytest.raises(ex.InputError, match="got none, rows_per_group=1"):
        ex.evaluate(policy, replace(test, groups=None), calibration=calibration)
    wrong = replace(test, prediction=(test.label[:, None] + 1) % 3 + np.zeros((1, 3), dtype=int))
    assert "the last exit is right on" in ex.evaluate(policy, wrong, calibration=calibration).warning


def test_a_policy_of_groups_is_never_compared_by_rows():
    """By rows, most test parts would be said to differ, since rows of a group leave alike."""
    for seed in range(8):
        calibrate, test = videos(60, 2 * seed + 20), replace(videos(60, 2 * seed + 21), groups=None)
        for policy in (
            ex.eero(FIT, calibrate, budget=2.0, calibration="marginal"),
            ex.risk_controlled(FIT, calibrate, max_loss=0.3),
        ):
            assert policy.n_groups == 60
            assert f"calibration on 60 groups ({calibrate.n:,} inputs)" in str(policy)
            assert ex.Policy.from_dict(policy.to_dict()) == policy
            assert not ex.evaluate(policy, test).warning


def rows_in(order, n, seed):
    """Rows that are independent of each other, as a file holds them."""
    rng = np.random.default_rng(seed)
    label = rng.choice(8, n, p=np.arange(1, 9) / 36)
    right = rng.random((n, 2)) < (0.5 + 0.05 * label)[:, None]  # some classes are harder than others
    score = np.where(right, 1.0, 0.5) * rng.random((n, 2))
    prediction = np.where(right, label[:, None], rng.integers(0, 8, (n, 2)))
    rows = np.argsort(label, kind="stable") if "sorted" in order else np.arange(n)
    copies = np.sort(rng.integers(0, n, n)) if order == "copies" else rows
    return ex.ExitTrace.from_scores(
        score[copies], prediction[copies], cost=ex.CostModel([1.0, 2.0]), id=copies,
        label=None if "unlabelled" in order else label[copies],
    )  # fmt: skip


@pytest.mark.parametrize("order", ["shuffled", "sorted", "copies", "sorted, unlabelled"])
def test_independent_rows_are_not_taken_for_groups(order):
    """Also where a file is sorted by class, or holds copies side by side."""
    alarms = sum(bool(alike_neighbours(rows_in(order, 40 if seed % 2 else 400, seed))) for seed in range(500))
    assert alarms <= binom.ppf(1 - 1e-6, 500, 0.01)


@pytest.mark.parametrize("labelled", [True, False])
def test_rows_of_groups_are_noticed(labelled):
    """Groups of two rows as well, also in the parts that policies see, and not once the groups are named."""
    for seed in range(10):
        named = videos(200, seed, sizes=(2, 3))
        trace = replace(named, groups=None, label=named.label if labelled else None)
        models = ex.CascadeTrace({"a": trace.exits(0, 1), "b": trace.exits(1, 3)})
        parts = [*trace.split(seed=seed), *(part["a"] for part in models.split(seed=seed))]
        assert all(alike_neighbours(one) for one in (trace, *parts))
        assert not alike_neighbours(named)


def test_policies_and_comparisons_ask_for_groups():
    trace = replace(videos(80, 3), groups=None)
    asked = "document, video or user? Then name the groups (groups=..., --group-column COLUMN of a table)"
    policy = ex.eero(*trace.split()[:2], budget=2.0)
    assert asked in str(policy)
    assert "neighbours" not in ex.eero(FIT, videos(20, 2), budget=2.0).notes
    options = {"policies": ["eero"], "budgets": "50%", "splits": 2, "workers": 0}
    assert asked in ex.compare(trace, **options).summary()[1]
    named = ex.compare(videos(80, 3, most=20), delta=0.1, **options)
    drawn = "Parts are drawn from 80 groups (inputs of groups of more than 20 weigh 20/size)."
    assert named.summary()[1].endswith(drawn)
    assert named.traces[0].parts.sum() == trace.n
