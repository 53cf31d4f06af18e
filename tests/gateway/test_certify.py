"""Certifying a gateway's policy: what is measured, what is refused, and that live models then do the same."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from tests.gateway.made_records import MODELS, WITHOUT_FEATURES, records

import exeunt as ex
from exeunt.errors import Infeasible, InfeasibleBudget
from exeunt.gateway.certify import certify
from exeunt.gateway.recorded_trace import trace_of
from exeunt.gateway.records import Said


def certified(made, models=MODELS, **options):
    return certify(trace_of(made, models).trace, "large", **{"max_loss": 0.1, **options})


@pytest.fixture(scope="module")
def found():
    return certified(records(600, scores=False))


def test_what_is_printed_was_measured_on_held_out_records(found):
    proof = found.policy.loss_certificate
    assert (proof.reference, proof.max_loss, proof.measure, proof.n_test) == ("large", 0.1, "grade", 300)
    assert found.n == 300
    assert found.policy.name == "router"
    later = trace_of(records(4_000, seed=1), MODELS).trace
    result = ex.evaluate(found.policy, later)
    large = later["large"]
    width = found.saved[2] - found.saved[1]
    assert abs(1 - result.cost / large.cost.full - found.saved[0]) < 1.3 * width  # five standard errors
    assert found.saved[0] > 0.3
    assert large.quality.mean() - result.accuracy < 0.1
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.grade == pytest.approx(found.reference_grade - found.loss[0])
    assert found.saved[0] == pytest.approx(1 - found.cost / found.reference_cost)
    ways = {way.name: way for way in found.ways}
    assert ways["large alone"].grade == found.reference_grade
    at_random = ways["the same shares at random"]
    shares = [found.shares[name] for name in ("small", "large")]
    assert at_random.grade == pytest.approx(
        np.dot(shares, [ways[f"{name} alone"].grade for name in ("small", "large")])
    )
    assert found.grade - at_random.grade == pytest.approx(found.gain[0])
    assert found.gain[1] > 0
    assert ways["the best pair mixed at random"].cost == pytest.approx(found.cost)
    assert "% of the cost of always asking large is saved" in str(found)


@pytest.fixture(scope="module")
def by_scores():
    return certified(records(300), WITHOUT_FEATURES)


def test_scores_alone_make_a_cascade(by_scores):
    assert by_scores.policy.name != "router"
    assert by_scores.saved[1] > 0.1


@pytest.mark.parametrize(("models", "scores"), [(MODELS, False), (WITHOUT_FEATURES, True)])
def test_live_models_are_asked_as_the_records_are_replayed(models, scores, found, by_scores):
    policy = (by_scores if scores else found).policy
    later = records(60, seed=2, scores=scores)
    by_key = {one.request: one for one in later}

    def model(name):
        said = {key: one.said[name] for key, one in by_key.items()}
        return ex.FunctionModel(
            lambda key: (f"{name} to {key}", said[key].score or 0.0), price=lambda key: said[key].cost
        )

    live = {name: model(name) for name in models.highest}
    if models.features:
        live["features"] = ex.FeatureModel(lambda key: by_key[key].features, price=models.features_cost)
    answers = ex.LiveCascade(live, policy).ask_sync([*by_key], ids=[*by_key])
    trace = trace_of(later, models).trace
    exits = policy.route(trace)
    assert len(set(exits.tolist())) > 1
    assert [one.answer for one in answers] == [
        f"{policy.cascade[exit_].model} to {key}" for exit_, key in zip(exits, by_key, strict=True)
    ]
    paid = policy.priced(trace).cost.of_inputs(len(later))[np.arange(len(later)), exits]
    assert [one.cost for one in answers] == pytest.approx(paid.tolist())


def test_users_are_counted_where_requests_are_linked():
    found = certified(records(600, scores=False, of_users=300))
    assert found.n_groups == found.policy.loss_certificate.n_groups == 150
    assert "150 held-out groups (300 inputs)" in str(found)
    with pytest.raises(Infeasible, match=r"600 records in 100 groups of .* takes at least 150 groups"):
        certified(records(600, scores=False, of_users=100))


@pytest.mark.slow
def test_a_budget_is_certified_or_expected_or_refused():
    made = records(600, scores=False)
    both = certified(made, budget="85%")
    assert both.policy.cost_certificate.budget == both.policy.limit == both.budget
    assert both.budget == pytest.approx(0.85 * both.reference_cost, rel=0.1)
    assert both.policy.loss_certificate.delta == 0.025
    near = certified(made, budget=both.cost * 1.01)
    assert near.cost == both.cost
    assert near.policy.loss_certificate.delta == 0.025
    assert near.policy.cost_certificate is None
    assert "is not certified, which takes more records" in str(near)
    with pytest.raises(InfeasibleBudget, match="below the cheapest model, small"):
        certified(made, budget="1%")
    with pytest.raises(Infeasible, match=r"points against large costs .* per request, more than the budget"):
        certified(made, budget="15%")


def test_a_maximum_far_above_all_bills_changes_no_policy(found):
    far = replace(MODELS, highest={"small": 4e-3, "large": 0.5})
    same = certified(records(600, scores=False), far)
    assert same.cost == found.cost
    assert same.policy.cost.highest > 0.5
    assert np.array_equal(same.policy.limits.score, found.policy.limits.score)
    later = trace_of(records(10, seed=3), far).trace
    assert ex.evaluate(same.policy, later).n == 10


def test_no_certificate_yet_says_about_how_many_more_records():
    made = records(4_000, scores=False)
    with pytest.raises(
        Infeasible, match=r"no certificate yet: 160 records .* about ([\d,]+) more records$"
    ) as error:
        certified(made[:160], max_loss=0.03)
    more = int(str(error.value).split()[-3].replace(",", ""))
    assert 40 <= more < 3_000
    assert certified(made[: 160 + 2 * more], max_loss=0.03).saved[0] > 0
    with pytest.raises(Infeasible, match=r"; a certificate takes at least 150 records$"):
        certified(made[:149])
    hopeless = [replace(one, said={**one.said, "small": Said(1e-6, grade=0.0)}) for one in made[:300]]
    with pytest.raises(
        Infeasible, match=r"no policy that saves 5% or more .* \(the best loses .*: allow a larger loss"
    ):
        certified(hopeless, max_loss=0.01)


@pytest.mark.slow
def test_guarantees_hold_over_recalibrations():
    whole = trace_of(records(20_000, scores=False, seed=5), MODELS).trace
    later = trace_of(records(20_000, scores=False, seed=6), MODELS).trace
    lost, over, saved, n = 0, 0, [], 60
    for seed in range(n):
        rows = np.random.default_rng(seed).integers(0, whole.n, 400)
        try:
            policy = certify(whole.take(rows), "large", max_loss=0.1, budget="80%", seed=seed).policy
        except Infeasible:
            continue
        result, large = ex.evaluate(policy, later), later["large"]
        lost += large.quality.mean() - result.accuracy > 0.1
        over += policy.cost_certificate is not None and result.cost > policy.cost_certificate.budget
        saved.append(1 - result.cost / large.cost.full)
    assert max(lost, over) <= binom.ppf(1 - 1e-6, n, 0.025)
    assert len(saved) > n / 2
    assert np.mean(saved) > 0.25
