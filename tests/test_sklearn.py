"""The scikit-learn estimator: scikit-learn's own checks, and what the budget does."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest

import exeunt as ex

pytest.importorskip("torch")
pytest.importorskip("sklearn")

import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from exeunt.sklearn import ExeuntClassifier

EXPECTED_FAILURES: dict[str, str] = {}  # all pass


@pytest.mark.slow  # 40 s in all
@parametrize_with_checks([ExeuntClassifier()], expected_failed_checks=lambda _: EXPECTED_FAILURES)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris() -> tuple[np.ndarray, np.ndarray]:
    rows, labels = load_iris(return_X_y=True)
    return rows, np.array(["setosa", "versicolor", "virginica"])[labels]


@pytest.fixture(scope="module")
def fitted(iris) -> ExeuntClassifier:
    return ExeuntClassifier(random_state=0, epochs=20).fit(*iris)


def test_iris_is_learned_within_the_budget(iris, fitted):
    rows, labels = iris
    assert fitted.score(rows, labels) > 0.9
    cost = fitted.network_.cost
    assert fitted.policy_.budget == pytest.approx(0.5 * cost.full)
    assert fitted.cost_.mean() <= fitted.policy_.budget
    np.testing.assert_array_equal(fitted.cost_, cost.cumulative[fitted.exit_])
    assert fitted.n_parts_ == {"fit": 22, "calibrate": 22, "train": 106}
    assert "Guarantee: with probability" in str(fitted.policy_)


def test_what_is_said_is_what_the_exit_says_that_answers(iris, fitted):
    rows, _ = iris
    probabilities = fitted.predict_proba(rows)
    tensor = torch.from_numpy((rows - fitted._mean) / fitted._scale)
    with torch.no_grad():
        exits = torch.stack([logits.softmax(1) for logits in fitted.network_(tensor)], dim=1).numpy()
    at = np.arange(len(rows)), fitted.exit_
    np.testing.assert_allclose(probabilities, exits[at], atol=1e-6)
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(axis=1)], fitted.predict(rows))
    assert len(set(fitted.exit_.tolist())) > 1


def test_exit_and_cost_are_those_of_the_last_prediction(iris, fitted):
    rows, labels = iris
    copied = clone(fitted).set_params(epochs=1).fit(rows, labels)
    for name in ("exit_", "cost_"):
        with pytest.raises(NotFittedError, match=f"{name} describes the last prediction"):
            getattr(copied, name)
    copied.predict(rows[:7])
    assert (len(copied.exit_), len(copied.cost_)) == (7, 7)
    copied.predict(rows[:2])
    assert len(copied.exit_) == 2


def test_pickled_it_says_the_same(iris, fitted):
    opened = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(opened.predict_proba(iris[0]), fitted.predict_proba(iris[0]))


def network(n_features: int, n_classes: int) -> nn.Module:
    sizes = [n_features, 8, 64, 64]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(64, n_classes))


def test_another_network_budget_and_policy(iris):
    model = ExeuntClassifier(network, "3 kMACs", None, policy="auto", random_state=0, epochs=15)
    rows, labels = iris
    model.fit(rows, labels)
    assert isinstance(model.network_.backbone, nn.Sequential)
    assert next(model.network_.parameters()).dtype == torch.float32
    assert (model.policy_.budget, model.policy_.certificate) == (3000, None)
    assert model.score(rows, labels) > 0.7
    assert model.cost_.mean() <= 3000


def test_it_is_an_estimator_like_others(iris):
    scores = cross_val_score(ExeuntClassifier(random_state=0, epochs=15), *iris, cv=2)
    assert scores.mean() > 0.8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": 50}, 'a share above 0 and at most 1, or a text such as "20 kMACs", got 50'),
        ({"budget": None}, "a share above 0"),
        ({"budget": "1 MAC"}, "budget"),
        ({"fit_share": -0.1}, "must be 0 or more, got -0.1"),
        ({"fit_share": 0.5, "calibrate_share": 0.5}, "take 75 and 75 of n_samples = 150"),
        ({"exits": 4}, "blocks.3"),
        ({"policy": "none"}, "none"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_wrong_options_are_told(iris, options, said):
    with pytest.raises(ex.InputError, match=said):
        ExeuntClassifier(**{"epochs": 1, **options}).fit(*iris)


def test_too_few_rows_to_certify_are_told():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(40, 3)), np.arange(40) % 2
    with pytest.raises(ex.InfeasibleBudget, match="cannot certify"):
        ExeuntClassifier(epochs=1, delta=1e-4).fit(rows, labels)
