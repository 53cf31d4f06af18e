"""What every policy keeps and refuses, and what the learned ones learn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import ClassVar

import numpy as np
import pytest
from made_traces import kept_parts as parts
from made_traces import trace

import exeunt as ex
from exeunt.policy import allocation
from exeunt.rules import baselines
from exeunt.rules.catalogue import PRESETS
from exeunt.score.kinds import Patience

LEARNED = ("auto", "confident_patience", "genetic", "learned_correctness", "optimised", "stopping")
OF_OWN_SCORES = ("eco_m2f", "patience", "random_routing")
OF_RATES = {
    "eero": ex.eero,
    "eero at most": partial(ex.eero, spend="at_most"),
    "eero marginal": partial(ex.eero, calibration="marginal"),
    "eero marginal slack": partial(ex.eero, calibration="marginal", slack=0.5),
    "eero certified": partial(ex.eero, delta=0.1),
    "msdnet certified": partial(baselines.msdnet, delta=0.1),
    "predictive exit": baselines.predictive_exit,
    "predictive exit narrow": partial(baselines.predictive_exit, sigma=0.5),
    "common threshold certified": partial(ex.common_threshold, delta=0.1),
    "composed": lambda fit, *more, **options: ex.compose(
        "halves", partial(allocation.geometric, fit.cost), fit, *more, **options
    ),
}
MADE = OF_RATES | {name: PRESETS[name] for name in sorted(LEARNED + OF_OWN_SCORES)}
EVERY = pytest.mark.parametrize("name", MADE)


@EVERY
def test_contract(name, tmp_path):
    fit, calibrate, test = parts()
    options = {"budget": "60%", "seed": 3} | ({} if name in OF_RATES else {"delta": 0.1})
    policy, cost = MADE[name](fit, calibrate, **options), fit.cost
    allowed = cost.budget("60%")
    assert (policy.budget, policy.n_calibration) == (allowed, calibrate.n)
    assert policy.rates.sum() == pytest.approx(1)
    assert policy.rates @ cost.cumulative <= allowed * (1 + 1e-9)
    exits = policy.route(test)
    assert set(exits) <= set(np.flatnonzero(policy.active))
    order = np.random.default_rng(0).permutation(test.n)
    assert np.array_equal(policy.route(test.take(order)), exits[order])
    # Long-run spend follows the distribution, and a test part adds its own sampling error: far beyond both is a bug.
    mean, law = ex.evaluate(policy, test).cost, policy.distribution
    if law is None:
        assert mean <= allowed + 5 * np.ptp(cost.cumulative) / 2 * (calibrate.n**-0.5 + test.n**-0.5)
    else:
        assert abs(mean - law.mean) < 6 * (law.std**2 + cost.cumulative.var() / test.n) ** 0.5
    # Calibrated shares are met on the calibration inputs to the last input.
    assert np.bincount(policy.route(calibrate), minlength=4).tolist() == policy.counts.tolist()
    assert policy.counts @ cost.cumulative <= allowed * calibrate.n * (1 + 1e-9)
    if name not in OF_RATES or "certified" in name:
        assert policy.certificate.probability >= 1 - policy.certificate.delta == 0.9
        assert policy.certificate.cost_quantile <= allowed * (1 + 1e-9)
    policy.save(tmp_path / "policy.json")
    loaded = ex.Policy.load(tmp_path / "policy.json")
    assert loaded == policy
    assert np.array_equal(loaded.route(test), exits)
    assert MADE[name](fit.take(slice(None)), calibrate, **options) == policy  # nothing random but the seed


@EVERY
def test_calibration_and_test_need_no_labels(name):
    fit, calibrate, test = parts(300)
    bare = [replace(part, label=None) for part in (calibrate, test)]
    policy = MADE[name](fit, bare[0], budget="60%", answer="own")
    assert policy == MADE[name](fit, calibrate, budget="60%", answer="own")
    result = ex.evaluate(policy, bare[1])
    assert result.accuracy is None
    assert result.cost == ex.evaluate(policy, test).cost


@EVERY
def test_the_smallest_networks_parts_and_budgets(name):
    for m, n in product((1, 2), (1, 2) if name in OF_RATES else (100,)):
        data = trace(3 * n, m)
        fit, calibrate, test = (data.take(slice(start, start + n)) for start in (0, n, 2 * n))
        policy = MADE[name](fit, calibrate, budget="100%")
        assert ex.evaluate(policy, test).cost <= data.cost.full * 1.0001
    fit, calibrate, test = parts(600)
    for budget in (1.0,) if "certified" in name else (1.0, 1.01):
        policy = MADE[name](fit, calibrate, budget=budget)
        assert ex.evaluate(policy, test).cost == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", LEARNED + OF_OWN_SCORES)
def test_a_trace_with_one_score_of_any_name(name):
    data = trace(600)
    other = replace(data, scores={"other": data.scores["margin"]}, log_probability=None)
    fit, calibrate, test = other.split(fit=0.4, calibrate=0.3, test=0.3)
    assert ex.evaluate(MADE[name](fit, calibrate, budget="60%"), test).cost < 0.75 * data.cost.full


@EVERY
def test_bad_parts_and_budgets_are_refused(name, refuses):
    (fit, held, _), make = parts(300), MADE[name]
    refused = {
        "share 5 rows": lambda: make(fit, fit.take(slice(5)), budget="60%"),
        "fit part is empty": lambda: make(fit.take([]), held, budget="60%"),
        "calibrate part is empty": lambda: make(fit, held.take([]), budget="60%"),
        "different costs": lambda: make(fit, trace(50, 3, seed=8), budget="60%"),
        "below the cheapest exit": lambda: make(fit, held, budget=0.5),
        "ms": lambda: make(fit, held, budget="3 ms"),
    }
    refuses(refused)


@pytest.mark.parametrize("name", OF_RATES)
def test_constant_scores_still_release_their_shares(name):
    n, cost, rng = 3000, ex.CostModel([1.0, 2.0, 4.0]), np.random.default_rng(5)
    label, prediction, ids = rng.integers(0, 2, n), rng.integers(0, 2, (n, 3)), rng.permutation(n)
    whole = ex.ExitTrace.from_scores(np.full((n, 3), 0.7), prediction, cost=cost, label=label, id=ids)
    fit, calibrate, test = (whole.take(slice(a, a + 1000)) for a in (0, 1000, 2000))
    policy = MADE[name](fit, calibrate, budget=2.0)
    shares = ex.evaluate(policy, test).shares
    assert np.bincount(policy.route(calibrate), minlength=3).tolist() == policy.counts.tolist()
    np.testing.assert_allclose(shares, policy.counts / 1000, atol=6 * 0.5 * 2**0.5 / 1000**0.5)
    assert (shares[policy.rates == 0] == 0).all()


@dataclass
class Weighted:
    """A score of one's own: weighs margin and entropy, by exit. It has an array, so it cannot be hashed."""

    weight: np.ndarray
    name: str = "margin"
    remembers: ClassVar[bool] = False

    def init(self, n):
        return {}

    def __call__(self, exit_, evidence, memory):
        here = self.weight[exit_]
        return here * evidence["margin"] + (1 - here) * evidence["entropy"], memory

    def to_dict(self):
        return {"kind": "weighted", "weight": self.weight.tolist()}


def weighted(weight):
    score = Weighted(np.full(4, weight))
    with pytest.raises(TypeError):
        hash(score)
    return score


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_score_of_ones_own_is_taken_by_every_policy_that_takes_one(name):
    fit, calibrate, test = parts(600)
    make = PRESETS[name]
    if name in OF_OWN_SCORES:
        with pytest.raises(ex.InputError, match=f"{name} has a score of its own"):
            make(fit, calibrate, budget="60%", score="margin")
        return
    with pytest.raises(ex.InputError, match=r"score must be a name, an exeunt\.score\.kinds\.Score, or None"):
        make(fit, calibrate, budget="60%", score=lambda exit_, evidence, memory: (evidence["margin"], memory))
    policy = make(fit, calibrate, budget="60%", score=weighted(0.5))
    assert np.bincount(policy.route(calibrate), minlength=4).tolist() == policy.counts.tolist()
    assert ex.evaluate(policy, test).cost < 0.75 * test.cost.full


@pytest.mark.parametrize("name", ["optimised", "genetic", "confident_patience", "eero", "stopping", "auto"])
def test_the_values_of_a_score_decide_and_not_what_it_is(name):
    """A score changed between two calls is another score; one equal in value to a recorded one decides alike."""
    fit, calibrate, test = parts(300)
    make, score = PRESETS[name], weighted(0.0)
    make(fit, calibrate, budget="60%", score=score)
    score.weight[:] = 1.0
    again = make(fit, calibrate, budget="60%", score=score)
    fresh = make(fit.take(slice(None)), calibrate, budget="60%", score=weighted(1.0))
    assert np.array_equal(again.route(test), fresh.route(test))
    if name not in ("stopping", "auto"):  # these learn from the recorded margin as well as from this one
        named = make(fit, calibrate, budget="60%", score="margin")
        assert np.array_equal(again.route(test), named.route(test))


@pytest.mark.parametrize("name", ["stopping", "learned_correctness", "auto", "confident_patience"])
def test_what_is_learned_on_another_score_is_saved_with_it(name, tmp_path):
    """Patience remembers, as does what is learned on it: both memories travel with the rows."""
    fit, calibrate, test = parts(600)
    policy = PRESETS[name](fit, calibrate, budget="60%", score=Patience())
    policy.save(tmp_path / "policy.json")
    loaded = ex.Policy.load(tmp_path / "policy.json")
    assert loaded == policy
    assert np.array_equal(loaded.route(test), policy.route(test))
    rows = np.arange(0, test.n, 7)
    assert np.array_equal(policy.route(test.take(rows)), policy.route(test)[rows])
    assert policy.needs.all()


def unsure(prediction, label, cost, rng):
    """Parts of a trace whose scores are noise."""
    scores, ids = rng.uniform(size=prediction.shape), np.arange(len(label))
    whole = ex.ExitTrace.from_scores(scores, prediction, cost=ex.CostModel(cost), label=label, id=ids)
    return whole.split(fit=0.4, calibrate=0.3, test=0.3)


@pytest.mark.parametrize("name", ["optimised", "stopping", "learned_correctness", "auto"])
def test_learning_beats_chance_and_fits_the_exits_that_know(name):
    """Exit 1 is always right and knows it; exits 0, 2, 3 guess. Everything should answer at exit 1."""
    rng, n = np.random.default_rng(0), 900
    label, prediction = rng.integers(0, 10, n), rng.integers(0, 10, (n, 4))
    prediction[:, 1] = label
    fit, calibrate, test = unsure(prediction, label, [1.0, 2.0, 3.0, 4.0], rng)
    policy = PRESETS[name](fit, calibrate, budget=2.05)
    assert ex.evaluate(policy, test).accuracy > 0.9


def test_stopping_uses_agreement():
    """The score is noise; an input is right at exit 1 exactly if exits 0 and 1 agree, else only at exit 2."""
    rng = np.random.default_rng(1)
    label, easy = rng.integers(0, 10, 2000), rng.uniform(size=2000) < 0.5
    early = [np.where(easy, label, (label + away) % 10) for away in (2, 1)]
    fit, calibrate, test = unsure(np.stack([*early, label], axis=1), label, [1.0, 2.0, 4.0], rng)
    knowing = ex.evaluate(ex.stopping(fit, calibrate, budget=3.0), test).accuracy
    blind = ex.evaluate(ex.eero(fit, calibrate, budget=3.0), test).accuracy
    assert knowing > 0.97 > 0.9 > blind
