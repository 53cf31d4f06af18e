"""Predictions of a kernel regression: they do not depend on which other inputs are in the batch."""

import numpy as np
import pytest

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
