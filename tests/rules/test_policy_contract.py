from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from made_traces import kept_parts as parts
from made_traces import trace

import exeunt as ex
from exeunt.rules.auto import auto, trust
from exeunt.rules.catalogue import PRESETS
from exeunt.score.kinds import Patience

LEARNED = ("auto", "confident_patience", "genetic", "learned_correctness", "optimised", "stopping")
OF_OWN_SCORES = ("eco_m2f", "patience", "random_routing")


@pytest.fixture(params=sorted(LEARNED + OF_OWN_SCORES))
def preset(request):
    return PRESETS[request.param]


def test_contract(preset, tmp_path):
    fit, calibrate, test = parts()
    policy = preset(fit, calibrate, budget="60%", delta=0.1, seed=3)
    assert policy.certificate.probability >= 0.9
    # Long-run spend follows the distribution, and a test part adds its own sampling error: far beyond both is a bug.
    result = ex.evaluate(policy, test)
    spread = (policy.distribution.std**2 + test.cost.cumulative.var() / test.n) ** 0.5
    assert abs(result.cost - policy.distribution.mean) < 6 * spread
    # Calibrated shares are met on the calibration inputs to the last input.
    assert np.bincount(policy.route(calibrate), minlength=4).tolist() == policy.counts.tolist()
    policy.save(tmp_path / "policy.json")
    assert np.array_equal(ex.Policy.load(tmp_path / "policy.json").route(test), policy.route(test))
    assert ex.Policy.load(tmp_path / "policy.json") == policy


def test_seeds_repeat(preset):
    fit, calibrate, _ = parts(300)
    first, second = (preset(fit.take(slice(None)), calibrate, budget="50%", seed=7) for _ in range(2))
    assert first == second


def test_budgets_at_the_ends(preset):
    fit, calibrate, test = parts(600)
    whole, first, next_to_first = (preset(fit, calibrate, budget=budget) for budget in ("100%", 1.0, 1.01))
    assert ex.evaluate(whole, test).cost <= test.cost.full
    for policy in (first, next_to_first):
        assert ex.evaluate(policy, test).cost == pytest.approx(1.0, abs=0.05)


def test_one_exit_and_two(preset):
    for m in (1, 2):
        fit, calibrate, test = parts(300, m)
        policy = preset(fit, calibrate, budget="100%" if m == 1 else "70%")
        assert ex.evaluate(policy, test).cost <= test.cost.full * 1.0001


def test_a_trace_with_one_score_of_any_name(preset):
    data = trace(600)
    other = replace(data, scores={"other": data.scores["margin"]}, log_probability=None)
    fit, calibrate, test = other.split(fit=0.4, calibrate=0.3, test=0.3)
    assert ex.evaluate(preset(fit, calibrate, budget="60%"), test).cost < 0.75 * data.cost.full


def test_overlap_is_refused(preset):
    data = trace(100)
    with pytest.raises(ex.InputError, match="share"):
        preset(data, data, budget="60%")
    with pytest.raises(ex.InputError, match="empty"):
        preset(data.take(slice(0, 0)), data, budget="60%")


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


def test_auto_says_what_it_chose():
    fit, calibrate, _ = parts(600)
    found = auto(fit, calibrate, budget="60%", answer="own").notes["auto"]["allocations"].values()
    weights, gains = ([rule[name] for rule in found] for name in ("weight", "gain"))
    assert sum(weights) == pytest.approx(1)
    before = np.full(3, trust(fit.n) / 3)  # of stopping, line search and EERO
    before[2] += 1 - trust(fit.n)
    assert np.array_equal(np.argsort(weights / before), np.argsort(gains))


def test_auto_looks_at_no_label_of_the_calibration_part():
    fit, calibrate, test = parts(600)
    told, blind = (auto(fit, one, budget="60%") for one in (calibrate, replace(calibrate, label=None)))
    assert np.array_equal(told.route(test), blind.route(test))
