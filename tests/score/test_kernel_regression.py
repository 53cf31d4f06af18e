"""Predictions of a kernel regression: the formula, the same in any batch, and what is learned of the features."""

import numpy as np
import pytest

from exeunt.score import kernel_regression
from exeunt.score.kernel_regression import KernelRegression


@pytest.mark.parametrize("d", [2, 32])
def test_a_lone_input_has_the_prediction_that_it_has_in_a_batch(d):
    rng = np.random.default_rng(d)
    # Whole numbers: many landmarks are equally far from an input, and more than are its nearest.
    features = rng.integers(0, 3, (400, d)).astype(float)
    found = KernelRegression.fit(features, rng.random((400, 3)), seed=0)
    inputs = rng.integers(0, 3, (300, d)) + rng.choice([0.0, 0.1], (300, 1))
    batch, unlike = found(inputs)
    for size in (1, 7):
        parts = [found(inputs[start : start + size]) for start in range(0, 300, size)]
        np.testing.assert_allclose(np.concatenate([part for part, _ in parts]), batch, rtol=0, atol=1e-12)
        assert np.concatenate([part for _, part in parts]).tolist() == unlike.tolist()


def one_by_one(found, features):
    """The prediction of each input as the formula says it, by loops."""
    predicted = []
    for x in features:
        z = (x - found.centre) / found.scale
        if found.direction:
            z = z * np.sqrt(len(z)) / np.linalg.norm(z)
        distance = [2 * np.sum((z - landmark.astype(float)) ** 2) / len(z) for landmark in found.landmarks]
        ridge = found.mean + sum(np.exp(-d) * w for d, w in zip(distance, found.weights, strict=False))
        nearest = sorted(range(len(distance)), key=lambda k: distance[k])[: found.nearest]
        middle = np.mean([distance[k] for k in nearest])
        weight = [np.exp(-2 * distance[k] / middle) for k in nearest]
        local = sum(w * found.around[k] for w, k in zip(weight, nearest, strict=True)) / sum(weight)
        predicted.append((1 - found.share) * ridge + found.share * local)
    return np.array(predicted)


def embedded(n, seed, d=24):
    """Vectors of many lengths around directions of topics, and how good three models are at a topic."""
    rng = np.random.default_rng(seed)
    centres, quality = np.random.default_rng(7).normal(size=(12, d)), np.random.default_rng(8).random((12, 3))
    topic = rng.integers(0, 12, n)
    vectors = centres[topic] + 0.8 * rng.normal(size=(n, d))
    return vectors * np.exp(0.4 * rng.normal(size=(n, 1))), quality[topic], rng


@pytest.mark.parametrize("most", [4_096, 120])
def test_a_prediction_is_what_the_formula_says(most, monkeypatch):
    monkeypatch.setattr(kernel_regression, "_LANDMARKS", most)
    monkeypatch.setattr(kernel_regression, "_CENTRES", 100)
    features, quality, rng = embedded(600, 0)
    found = KernelRegression.fit(features, (rng.random(quality.shape) < quality).astype(float), seed=0)
    assert found.direction
    assert found.share == 0.5
    assert (len(found.landmarks), found.nearest) == ((600, 60) if most > 600 else (120, 12))
    new = embedded(40, 1)[0]
    np.testing.assert_allclose(found(new)[0], one_by_one(found, new), rtol=0, atol=1e-5)


def test_around_a_landmark_hold_the_values_of_the_inputs_nearest_to_it(monkeypatch):
    monkeypatch.setattr(kernel_regression, "_LANDMARKS", 100)
    monkeypatch.setattr(kernel_regression, "_CENTRES", 100)
    features, quality, _ = embedded(400, 0)
    found = KernelRegression.fit(features, quality, seed=0)
    order = np.random.default_rng(0).permutation(400)
    z = (features[order] - found.centre) / found.scale
    z *= (z.shape[1] ** 0.5 / np.linalg.norm(z, axis=1))[:, None]
    for k in range(100):
        nearest = np.argsort(((z - z[k]) ** 2).sum(axis=1))[:4]
        np.testing.assert_allclose(found.around[k], quality[order][nearest].mean(axis=0), atol=1e-5)


def test_lengths_of_embeddings_do_not_matter():
    features, quality, _ = embedded(800, 0)
    found = KernelRegression.fit(features, quality, seed=0)
    new, true, _ = embedded(300, 1)
    error = ((found(new)[0] - true) ** 2).mean() / true.var(axis=0).mean()
    assert error < 0.1


def test_features_that_tell_of_the_quality_count_more():
    """Three columns of 60 tell of it; the others are noise."""
    rng = np.random.default_rng(0)
    features, new = rng.normal(size=(2, 1000, 60))
    weights = np.zeros((60, 2))
    weights[:3] = rng.normal(size=(3, 2))
    values = 1 / (1 + np.exp(-(features @ weights)))
    found = KernelRegression.fit(features, values, seed=0)
    told = 1 / (found.scale / features.std(axis=0))
    assert told[:3].min() > 2 * np.delete(told, [0, 1, 2]).max()
    true = 1 / (1 + np.exp(-(new @ weights)))
    assert ((found(new)[0] - true) ** 2).mean() < 0.15 * true.var(axis=0).mean()
    assert not found(new)[1].any()
    assert found(np.where(np.arange(60) == 59, 40.0, new))[
        1
    ].all()  # one that tells nothing may be like none before


def test_an_embedding_much_longer_than_any_is_like_none_before():
    features, quality, _ = embedded(600, 0)
    found = KernelRegression.fit(features, quality, seed=0)
    new = embedded(300, 1)[0]
    assert found.direction
    assert found(new)[1].mean() < 0.02
    assert found(1e3 * new)[1].mean() > 0.9
