"""Cascades are compared with what a user would take instead of them: every model alone, and random mixtures of two."""

from __future__ import annotations

import re

import numpy as np
import pytest

import exeunt as ex
from exeunt.trace.cascade_step import CascadeStep


def world(n=900):
    """Two models that err apart, and one that is worse and more expensive."""
    rng = np.random.default_rng(0)
    label, id_ = rng.integers(0, 3, n), np.arange(n, dtype=np.uint64)

    def answering(skill, price):
        right = rng.uniform(size=n) < skill
        sure = np.where(right, rng.beta(4, 2, n), rng.beta(2, 4, n))
        said = np.where(right, label, (label + 1) % 3)
        cost = ex.CostModel([price], unit="usd")
        return ex.ExitTrace.from_scores(
            sure[:, None], said[:, None], cost=cost, label=label, id=id_, name="confidence"
        )

    skills = {"large": (0.85, 10), "small": (0.7, 2), "poor": (0.5, 10)}
    return ex.CascadeTrace({name: answering(*one) for name, one in skills.items()})


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    options = {
        "policies": ["eero", "msdnet"],
        "splits": 2,
        "workers": 0,
        "cache": tmp_path_factory.mktemp("cache"),
    }
    return ex.compare({"services": world()}, budgets="30%,12 usd,8 usd per 1", **options)


def test_every_policy_is_that_of_a_cascade(comparison):
    (trace,) = comparison.traces
    assert trace.amounts == pytest.approx([3, 8, 10])  # 12 is more than the most expensive model costs alone
    fit, calibrate, test = world().split(seed=1)
    for p, name in enumerate(comparison.policies):
        for q, amount in enumerate(trace.amounts):
            policy = ex.cascade(fit, calibrate, budget=float(amount), policy=name)
            result = ex.evaluate(policy, test)
            assert trace.accuracy[p, q, 1] == result.accuracy
            assert trace.mean_cost[p, q, 1] == result.cost


def test_exits_are_those_of_all_models_alone_in_order_of_their_cost(comparison):
    (trace,) = comparison.traces
    assert trace.exit_names == ("small", "large", "poor")
    assert trace.cost.cumulative == pytest.approx([2, 10, 10])
    assert np.diff(trace.cost.cumulative)[1] > 0
    _, _, test = world().split(seed=0)
    assert trace.exits[:, 0].tolist() == [1 - test[name].risk[0] for name in trace.exit_names]
    assert trace.rates.sum(axis=-1) == pytest.approx(1)
    assert (trace.rates[..., 2] < 0.2).all()
    points = comparison.to_dict()["traces"][0]["exit_points"]
    assert [point["name"] for point in points] == ["small", "large", "poor"]


def test_all_parts_have_the_exits_in_one_order():
    """Prices depend on the input, and one part may hold those for which the other model is cheaper."""
    long, made = np.arange(40) < 18, world(40)
    prices = {"large": np.where(long, 3.0, 1.0), "small": np.where(long, 1.0, 3.0), "poor": np.full(40, 9.0)}
    priced = {name: made[name].with_cost(ex.CostModel(price[:, None])) for name, price in prices.items()}
    models = ex.CascadeTrace(priced)
    assert models.exit_names == ("large", "small", "poor")
    parts = models.take(long), models.take(~long), models.take(slice(10, 30)).take(slice(0, 8))
    for part in parts:
        assert part.exit_names == models.exit_names
        assert np.array_equal(part.alone.prediction[:, 1], part["small"].prediction[:, 0])
        assert part.places((CascadeStep("small", 1),)).tolist() == [1]


def test_the_mixture_is_of_the_models_that_are_best_for_their_price(comparison):
    """3 usd on average: seven in eight answers of the small one, one in eight of the large one."""
    (trace,) = comparison.traces
    small, large, _ = trace.exits
    assert trace.mixture_accuracy[0] == pytest.approx(7 / 8 * small + large / 8)
    assert trace.mixture_cost[0] == pytest.approx(3)


def test_a_comparison_of_models_is_kept_and_shown(comparison, tmp_path):
    comparison.save(tmp_path / "comparison.json")
    again = ex.Comparison.load(tmp_path / "comparison.json")
    assert again.to_dict() == comparison.to_dict()
    comparison.report(tmp_path / "report.html")
    assert '"small"' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_is_told_is_about_models(comparison, tmp_path):
    (trace,) = comparison.traces
    assert (trace.models, trace.whole, trace.one_exit) == (("small", "large", "poor"), "poor alone", "model")
    told = comparison.summary()
    assert told[0].startswith("At 30% of the cost of poor alone, `eero` answers ")
    assert " points above poor alone, and costs " in told[0]
    assert "knows which models are right" in told[1]
    assert "mixture of two models" in told[1]
    assert not {"exit", "exits", "network"} & set(re.findall(r"\w+", " ".join(told)))


def test_places_and_names_of_models_with_several_exits(make_logit_trace):
    network = make_logit_trace(60, 3)
    other = ex.ExitTrace.from_scores(
        network.scores["margin"][:, [0]], network.prediction[:, [0]], cost=ex.CostModel([1.5]),
        label=network.label, id=network.id, name="margin",
    )  # fmt: skip
    models = ex.CascadeTrace({"network": network, "other": other})
    assert models.exit_names == ("network exit 0", "other", "network exit 1", "network exit 2")
    assert models.alone.cost.cumulative.tolist() == [1, 1.5, 2, 3]
    assert models.places((CascadeStep("other", 1), CascadeStep("network", 2))).tolist() == [1, 0, 2]
    assert np.array_equal(models.alone.prediction[:, 2], network.prediction[:, 1])


def test_a_policy_that_is_worse_than_a_random_mixture_is_a_warning():
    rng = np.random.default_rng(0)
    n = 1500
    label = rng.integers(0, 3, n)
    prediction = np.stack([label, np.where(rng.uniform(size=n) < 0.3, label, (label + 1) % 3)], axis=1)
    prediction[:, 0] = np.where(rng.uniform(size=n) < 0.9, label, (label + 1) % 3)
    cost = ex.CostModel([1, 2])
    trace = ex.ExitTrace.from_scores(rng.uniform(size=(n, 2)), prediction, cost=cost, label=label)
    told = ex.compare(trace, budgets="75%,95%", policies=["msdnet"], splits=5, workers=0).summary()
    (warning,) = [sentence for sentence in told if sentence.startswith("Warning")]
    better = "on trace, a random mixture of two exits is better than `msdnet` at 75%, 95% of the cost."
    assert warning == f"Warning: {better}"
