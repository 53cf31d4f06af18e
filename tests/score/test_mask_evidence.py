"""What an exit says that answers with a mask, against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest

from exeunt.errors import InputError
from exeunt.score.confidence import FEATURES, softmax
from exeunt.score.mask_confidence import MASK_SCORES, MaskEvidence, evidence_of, mask_of, runs_of


def logits(n: int = 3, k: int = 4, h: int = 5, w: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, k, h, w)).astype(np.float32) * 2


def test_confidences_are_those_of_a_loop_over_the_pixels():
    outputs = logits()
    shown = evidence_of(outputs)
    for i, image in enumerate(outputs):
        pixels = [softmax(image[:, y, x][None].astype(float))[0] for y in range(5) for x in range(6)]
        gaps = sorted(np.diff(np.sort(p)[-2:])[0] for p in pixels)
        assert shown["margin"][i] == pytest.approx(np.mean(gaps), abs=1e-6)
        assert shown["low_margin"][i] == pytest.approx(gaps[2], abs=1e-6)  # 10% of 29
        assert shown["max_probability"][i] == pytest.approx(np.mean([p.max() for p in pixels]), abs=1e-6)
        assert shown["entropy"][i] == pytest.approx(np.mean([p @ np.log(p) for p in pixels]), abs=1e-5)
        each = np.array(pixels)
        assert np.allclose(shown[FEATURES][i], [*each.mean(0), *each.std(0)], atol=1e-6)
        assert np.array_equal(shown["mask"][i].ravel(), each.argmax(1))


def test_the_prediction_is_the_class_of_most_pixels_and_the_first_of_equals():
    outputs = np.zeros((2, 3, 2, 2), np.float32)
    outputs[0, 2, 0] = 1  # two pixels of class 2, and two of class 0
    outputs[1, 1] = 1
    outputs[1, 2, 0, 0] = 2
    assert evidence_of(outputs)["prediction"].tolist() == [0, 1]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_any_number_of_images(n):
    shown = evidence_of(logits(n))
    assert shown["mask"].shape == shown.detail(slice(None)).shape == (n, 5, 6)
    assert MaskEvidence(logits(n), 3)["mask"].shape == (n, 15, 18)
    assert all(shown[name].shape == (n,) for name in MASK_SCORES)
    assert shown[FEATURES].shape == (n, 8)


def test_one_class_is_certain():
    assert evidence_of(logits(2, 1))["margin"].tolist() == [1, 1]


def test_large_masks_are_sampled_for_confidences_alone():
    outputs = logits(1, 3, 32, 32).repeat(3, axis=2).repeat(3, axis=3)  # blocks of 3x3 pixels are alike
    shown = MaskEvidence(outputs)
    assert shown.probabilities.shape[2] <= 1024
    assert shown["mask"].shape == (1, 96, 96)
    assert shown["margin"] == pytest.approx(MaskEvidence(outputs[:, :, ::3, ::3])["margin"])


def test_outputs_of_classes_are_evidence_of_classes():
    assert not isinstance(evidence_of(np.zeros((2, 3))), MaskEvidence)
    assert "mask" not in evidence_of(np.zeros((2, 3)))
    assert "log_probability" not in evidence_of(logits())


@pytest.mark.parametrize("seed", range(5))
def test_runs_are_read_back(seed):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 256, (rng.integers(1, 9), rng.integers(1, 9))).repeat(2, axis=1).astype(np.uint8)
    assert np.array_equal(mask_of(runs_of(mask)), mask)


@pytest.mark.parametrize("text", ["", "2x2", "2x2 1*3", "2x2 a*4", "2 1*2", "2x2 300*4", "2x2 1*-4", None])
def test_other_texts_are_no_masks(text):
    with pytest.raises(InputError, match="a mask is a text such as '2x3"):
        mask_of(text)
