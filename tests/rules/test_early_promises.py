"""Promises of what is answered early: what they say, how they are tested, and that they are kept."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from made_traces import trace
from scipy.stats import binom

import exeunt as ex
from exeunt.policy import EarlyCertificate
from exeunt.rules.candidates import Candidates, FixedSequence
from exeunt.rules.outcomes import Outcome, early_exits
from exeunt.rules.promises import EarlyLoss, EarlyWorse, MeanLoss
from exeunt.trace.cascade_step import CascadeStep

parts = cache(lambda: (trace(800, 4, seed=1), trace(1500, 4, seed=2)))
TEST = trace(20_000, 4, seed=3)


@cache
def found(**options):
    return ex.cheapest(*parts(), policy="eero", **options)


def true(policy, data=TEST):
    """What a policy does to inputs, counted one by one: lost on average, by early answers, and how many are worse."""
    exits, lost, early = policy.route(data), [], []
    for row, exit_ in enumerate(exits.tolist()):
        lost.append(float(data.correct[row, -1]) - float(data.correct[row, exit_]))
        if exit_ < data.n_exits - 1:
            early.append(lost[-1])
    return (
        float(np.mean(lost)),
        float(np.mean(early)),
        float(np.mean([loss > 0 for loss in early])),
        len(early),
    )


def chance(n, worse, gained, seed):
    """Two exits: of early answers a share `worse` is worse and a share `gained` better, whatever their score."""
    rng = np.random.default_rng(seed)
    kind, label = rng.uniform(size=n), rng.integers(0, 4, n)
    right = np.stack([kind >= worse, (kind < 1 - gained) | (kind < worse)], axis=1)
    prediction = np.where(right, label[:, None], (label[:, None] + 1) % 4)
    return ex.ExitTrace.from_scores(
        rng.uniform(size=(n, 2)),
        prediction,
        cost=ex.CostModel([1.0, 2.0]),
        label=label,
        id=rng.integers(2**62, size=n),
    )


def test_what_is_certified_is_measured_on_the_calibration_inputs_and_close_to_the_truth():
    policy = found(max_early_loss=0.05)
    (proof,) = policy.promises
    assert policy.loss_certificate is policy.certificate is policy.limit is None
    _, lost, _, n_early = true(policy, parts()[1])
    assert (proof.promise, proof.limit, proof.delta, proof.n_test) == ("max_early_loss", 0.05, 0.05, 1500)
    assert proof.measured == pytest.approx(lost)
    assert proof.n_early == n_early
    assert proof.p_value <= 0.05
    assert true(policy)[1] <= 0.05
    worse = found(max_early_worse=0.1)
    assert worse.promises[0].measured == pytest.approx(true(worse, parts()[1])[2])
    assert worse.promises[0].bound == "binomial"
    assert true(worse)[2] <= 0.1
    # Tighter promises cost more.
    assert found(max_early_worse=0.02).budget > worse.budget
    assert max(policy.budget, worse.budget) < TEST.cost.full


def test_several_promises_are_tested_at_the_same_level_and_saved():
    policy = found(max_loss=0.02, max_early_loss=0.03, max_early_worse=0.1)
    proofs = policy.tested_certificates
    assert [proof.delta for proof in proofs] == [0.05] * 3
    assert max(proof.p_value for proof in proofs) <= 0.05
    assert [proof.promise for proof in policy.promises] == ["max_early_loss", "max_early_worse"]
    assert policy.certificate is policy.loss_certificate is proofs[0]
    lost, early, worse, _ = true(policy)
    assert (lost <= 0.02, early <= 0.03, worse <= 0.1) == (True, True, True)
    for limits in ({"max_loss": 0.02}, {"max_early_loss": 0.03}, {"max_early_worse": 0.1}):
        assert found(**limits).budget <= policy.budget * 1.02
    back = ex.Policy.from_dict(policy.to_dict())
    assert back == policy
    assert back.promises == policy.promises
    assert all(str(proof) in str(policy) for proof in proofs)
    both = found(max_early_worse=0.1, budget="90%")
    assert both.promises[0].delta == 0.025
    assert both.cost_certificate.budget <= 0.9 * TEST.cost.full * (1 + 1e-9)


@pytest.mark.parametrize("name", ["max_early_lost", "", 1, None])
def test_a_policy_file_with_another_promise_is_refused(name):
    body = found(max_early_worse=0.1).to_dict()
    body["promises"] = [{**body["promises"][0], "promise": name}]
    with pytest.raises(ex.InputError, match="promise must be 'max_early_loss' or 'max_early_worse'"):
        ex.Policy.from_dict(body)


def test_a_policy_without_such_promises_is_saved_as_before():
    assert "promises" not in found(max_loss=0.05).to_dict()


_LOSE = (
    "over the 900 labelled calibration inputs, in the long run the answers that come early lose at most 5 points of "
    "accuracy against the full network, on average over them (measured on 310: 2.00 points lost; p = 0.01, betting "
    "bound). It assumes that future inputs are exchangeable"
)
_WORSE = (
    "at most 5% of the answers that come early are worse than those of large (measured on 310: 2.00%; p = 0.01, "
    "binomial bound)"
)
_DIFFER = (
    "over the 900 calibration inputs, in the long run at most 5% of the pixels that come early differ from those of "
    "the full network (measured on 310: 2.00%"
)
_GROUPS = (
    "over the 30 labelled calibration groups (900 inputs), in the long run at most 5% of the answers that come early "
    "are worse than those of the full network (inputs of groups of more than 20 weigh 20/size) (measured"
)


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ({"promise": "max_early_loss"}, _LOSE),
        ({"promise": "max_early_worse", "bound": "binomial", "reference": "large"}, _WORSE),
        ({"promise": "max_early_loss", "measure": "agreement", "of": "pixels"}, _DIFFER),
        (
            {"promise": "max_early_worse", "n_groups": 30, "rows_per_group": 20, "further": "it is dry"},
            _GROUPS,
        ),
    ],
)
def test_how_it_is_said(of, said):
    fields = {"limit": 0.05, "p_value": 0.01, "bound": "betting", "measured": 0.02, "n_early": 310}
    proof = EarlyCertificate(**{**fields, "delta": 0.05, "n_test": 900, **of})
    assert said in str(proof)
    assert str(proof).startswith("Guarantee: with probability 95% over the ")
    assert ("and that it is dry." in str(proof)) == ("further" in of)
    gained = replace(proof, measured=-0.02)
    assert ("2.00 points gained" in str(gained)) == (of == {"promise": "max_early_loss"})


# -- what is counted -------------------------------------------------------------------------------------------------


def test_values_of_early_answers_count_and_others_are_void():
    rng = np.random.default_rng(0)
    loss, early = rng.choice([-1.0, 0.0, 0.4, 1.0], 50), rng.uniform(size=50) < 0.5
    outcome = Outcome(loss, early, np.ones(50))
    for promise, of in ((EarlyLoss(0.3), loss), (EarlyWorse(0.3), loss > 0)):
        values = promise.values(outcome)
        assert values[~early].tolist() == [0.3] * (50 - early.sum())
        assert values[early].tolist() == of[early].astype(float).tolist()
        assert promise.measured(outcome) == pytest.approx(of[early].mean())
        # The mean of the values is within the limit exactly where that of early answers is.
        for limit in (promise.measured(outcome) - 1e-6, promise.measured(outcome) + 1e-6):
            at = promise.with_limit(limit)
            assert (at.units(outcome).mean() <= limit) == (limit >= promise.measured(outcome))
    nothing = Outcome(loss, np.zeros(50, dtype=bool), np.ones(50))
    for promise in (EarlyLoss(0.3), EarlyWorse(0.3, "binomial")):
        assert promise.p_value(promise.units(nothing), 0.05) == 1.0
        assert promise.measured(nothing) == 0.0


@pytest.mark.parametrize("rows_per_group", [1, 3, 10])
def test_groups_weigh_as_in_other_guarantees(rows_per_group):
    """Against sums over rows, each of which weighs what its group does, divided by the size."""
    rng = np.random.default_rng(1)
    key = rng.integers(0, 12, 80)
    groups = ex.Groups(key, rows_per_group)
    loss, early = rng.choice([-1.0, 0.0, 1.0], 80), rng.uniform(size=80) < 0.6
    outcome, total, weight = Outcome(loss, early, np.ones(80), groups), 0.0, 0.0
    for row in range(80):
        if early[row]:
            size = int((key == key[row]).sum())
            share = min(1.0, size / rows_per_group) / size
            total, weight = total + share * float(loss[row]), weight + share
    promise = EarlyLoss(0.1)
    assert promise.measured(outcome) == pytest.approx(total / weight)
    for limit in (total / weight - 1e-6, total / weight + 1e-6):
        units = promise.with_limit(limit).units(outcome)
        assert (units.mean() <= limit) == (limit > total / weight)
        assert len(units) == 12


def test_the_bound_of_groups_is_betting():
    samples = [np.array([0.0, 1.0, 0.3] * 20)] * 2
    assert EarlyWorse(0.3).with_tightest_bound(samples, 0.05, grouped=True).bound == "betting"
    assert EarlyWorse(0.3).with_tightest_bound(samples, 0.05, grouped=False).bound == "binomial"


def test_early_is_before_the_last_exit_or_without_the_reference():
    whole = trace(400, 4, seed=5)
    other = trace(400, 4, seed=6)
    policy = ex.eero(whole, other, budget="60%", delta=None)
    assert early_exits(policy, whole, None).tolist() == [True, True, True, False]
    chosen = ex.eero(whole.exits(0, 2), other.exits(0, 2), budget="90%", delta=None)
    some = replace(chosen, cascade=(CascadeStep("", (1, 2)),))
    assert early_exits(some, whole, None).tolist() == [True, True]
    models, others = (
        ex.CascadeTrace(
            {
                "small": bare.exits(0, 2).with_cost(ex.CostModel([1.0, 2.0])),
                "large": bare.exits(2, 4).with_cost(ex.CostModel([4.0, 8.0])),
            }
        )
        for bare in (replace(whole, log_probability=None), replace(other, log_probability=None))
    )
    made = ex.cascade(models, others, budget="60%", policy="eero", delta=None)
    exits = [(step.model, exit_) for step in made.cascade for exit_ in step.exits]
    assert early_exits(made, models, "large").tolist() == [exit_ != ("large", 1) for exit_ in exits]
    # Behind the reference nothing is early.
    steps = (CascadeStep("large", 2), CascadeStep("small", 2))
    assert early_exits(replace(made, cascade=steps), models, "large").tolist() == [True, False, False, False]
    tree = (
        CascadeStep("small", (1,), -1),
        CascadeStep("large", (1,), -1),
        CascadeStep("large", (1,), 0),
    )
    assert early_exits(replace(made, cascade=tree), models, "large").tolist() == [True, False, False]
    assert early_exits(replace(made, cascade=tree), models, "small").tolist() == [False, True, False]


# -- how often they are broken ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "worse", "gained"),
    [
        ({"max_early_worse": 0.099}, 0.1, 0.1),
        ({"max_early_loss": 0.049}, 0.15, 0.1),
        ({"max_early_worse": 0.099, "max_early_loss": 0.5, "max_loss": 0.5}, 0.1, 0.1),
        ({"max_early_worse": 0.9, "max_early_loss": 0.049, "max_loss": 0.5}, 0.15, 0.1),
        ({"max_early_worse": 0.9, "max_early_loss": 0.9, "max_loss": 0.024, "budget": 1.5}, 0.15, 0.1),
    ],
)
def test_a_promise_that_no_policy_keeps_is_certified_with_probability_delta_at_most(limits, worse, gained):
    """Of many policies, all of which break one promise by a hair: more of them, or more promises, divide nothing."""
    fit, trials, delta, made = chance(400, worse, gained, 0), 50, 0.2, 0
    for seed in range(trials):
        calibrate = chance(300, worse, gained, 1000 + seed)
        try:
            policy = ex.cheapest(fit, calibrate, policy="eero", points=8, delta=delta, seed=seed, **limits)
        except ex.Infeasible:
            continue
        # Policies that answer nearly nothing early keep a mean loss.
        made += "budget" not in limits or policy.budget <= 1.5
    assert made <= binom.ppf(1 - 1e-6, trials, delta)


def test_the_first_policy_that_fails_the_test_of_any_promise_ends_the_tests(monkeypatch):
    p_values = {0: (0.01, 0.02), 1: (0.05, 0.01), 2: (0.01, 0.06), 3: (0.01, 0.01)}
    fit, calibrate = parts()
    made = [ex.eero(fit, calibrate, budget=budget, delta=None) for budget in ("80%", "70%", "60%", "50%")]
    promises = [EarlyLoss(0.1), EarlyWorse(0.1)]
    outcomes = [Outcome.of(policy, fit, None) for policy in made]
    candidates = Candidates(made, promises, 0.05, fit.cost, None, "accuracy", outcomes, 1500)

    def p_value(_, promise, k, *, on_fit=False):
        return k / 10 if on_fit else p_values[k][promises.index(promise)]

    monkeypatch.setattr(FixedSequence, "p_value", p_value)
    chosen = candidates.cheapest(calibrate, None)
    assert chosen.thresholds.tolist() == made[1].thresholds.tolist()
    assert [proof.p_value for proof in chosen.promises] == [0.05, 0.01]
    assert candidates.cheapest(calibrate, 0.65 * fit.cost.full) is None
    # Of those that pass the cheapest is taken, whatever the order; before the likeliest nothing is tested.
    likely = {0: 0.4, 1: 0.1, 2: 0.3, 3: 0.2}
    monkeypatch.setattr(
        FixedSequence, "p_value", lambda _, promise, k, on_fit=False: likely[k] if on_fit else (k == 0) + 0.01
    )
    tests = candidates.tested_on(calibrate)
    assert list(tests.order(promises)) == [1, 3, 2]
    assert tests.cheapest(promises, np.inf) == 3
    assert tests.cheapest(promises, 0.65 * fit.cost.full) == 3
    assert list(tests.order([MeanLoss(0.1)])) == [0, 1, 2, 3]


def test_a_promise_that_is_kept_is_mostly_certified():
    fit, made = chance(600, 0.05, 0.1, 0), 0
    for seed in range(20):
        try:
            policy = ex.cheapest(
                fit, chance(400, 0.05, 0.1, 100 + seed), policy="eero", points=8, max_early_worse=0.1
            )
        except ex.Infeasible:
            continue
        made += policy.budget < 1.5
    assert made >= 15


def test_worse_answers_are_found_where_better_ones_hide_them():
    """30% worse and 30% better is no loss on average."""
    fit, calibrate = (chance(2000, 0.3, 0.3, seed) for seed in (1, 2))
    policy = ex.cheapest(fit, calibrate, policy="eero", max_early_loss=0.05)
    assert policy.budget < 1.2
    with pytest.raises(
        ex.Infeasible, match="share of early answers that are worse stands in the way"
    ) as refused:
        ex.cheapest(fit, calibrate, policy="eero", max_early_worse=0.2)
    assert 0.28 <= refused.value.nearest_limits["max_early_worse"] <= 0.36


def test_few_bad_answers_among_many_that_were_never_at_risk_are_found():
    """40% of early answers are worse; a policy that answers 5% early loses 2 points."""
    fit, calibrate = (chance(4000, 0.4, 0.0, seed) for seed in (1, 2))
    assert ex.cheapest(fit, calibrate, policy="eero", max_loss=0.1).budget < 2
    with pytest.raises(ex.Infeasible, match="loss of early answers"):
        ex.cheapest(fit, calibrate, policy="eero", max_loss=0.1, max_early_loss=0.1)


# -- what stands in the way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_early_loss", "max_early_worse"])
def test_what_stands_in_the_way_is_named_and_what_it_says_can_be_had(name):
    make = partial(ex.cheapest, *parts(), policy="eero")
    with pytest.raises(
        ex.Infeasible, match=r"early answers .*stands in the way: 750 labelled inputs"
    ) as refused:
        make(budget="50%", **{name: 0.05})
    error = refused.value
    assert (error.binding, error.nearest_max_loss) == (name, None)
    nearest = error.nearest_limits[name]
    assert nearest > 0.05
    assert f"{100 * nearest:.4g}%" in str(error)
    assert make(budget="50%", **{name: nearest + 1e-9}).promises
    assert make(budget=error.nearest_budget, **{name: 0.05}).promises
    with pytest.raises(ex.Infeasible) as refused:
        ex.cheapest(
            chance(400, 0.3, 0.0, 1), chance(300, 0.3, 0.0, 2), policy="eero", max_loss=0.002, **{name: 0.6}
        )
    assert refused.value.binding == "max_loss"
    assert "max_loss=0" not in str(refused.value)  # which answers nothing early


def test_where_nothing_can_be_answered_early_a_line_says_so():
    one = trace(400, 1, seed=1)
    with pytest.raises(
        ex.InputError, match="a single exit, which answers nothing early: leave out max_early_worse"
    ):
        ex.cheapest(one, one, max_early_loss=0.1, max_early_worse=0.1)
    whole = replace(trace(600, 2, seed=1), log_probability=None)
    models = ex.CascadeTrace(
        {
            name: whole.exits(k, k + 1).with_cost(ex.CostModel([1.0 + 4 * k]))
            for k, name in enumerate(("small", "large"))
        }
    )
    fit, calibrate, _ = models.split(fit=0.5, calibrate=0.4, test=0.1)
    with pytest.raises(
        ex.Infeasible, match="asks small first, so nothing is answered early: name a dearer model"
    ):
        ex.cheapest(fit, calibrate, max_early_loss=0.1, reference="small", policy="eero", points=4)


@pytest.mark.parametrize("limit", [0, 1, -0.1, 10, float("nan"), "10%", None])
@pytest.mark.parametrize("name", ["max_early_loss", "max_early_worse"])
def test_a_limit_that_is_no_share_is_refused_in_a_line(name, limit):
    if limit is None:
        assert ex.cheapest(*parts(), policy="eero", **{name: None}).promises == ()
        return
    with pytest.raises(ex.InputError, match=rf"^{name} must .*") as refused:
        ex.cheapest(*parts(), policy="eero", **{name: limit})
    assert "\n" not in str(refused.value)


def test_the_usual_loss_is_promised_where_nothing_else_is():
    fit, calibrate = chance(2000, 0.0, 0.1, 1), chance(2000, 0.0, 0.1, 2)
    assert ex.cheapest(fit, calibrate, policy="eero").loss_certificate.max_loss == 0.01
    early = ex.cheapest(fit, calibrate, policy="eero", max_early_loss=0.1)
    assert early.loss_certificate is None
