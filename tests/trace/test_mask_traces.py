"""Traces of masks: the loss per image, the share of pixels that differ, and what policies make of both."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import exeunt as ex
from exeunt.errors import InputError
from exeunt.policy.learned_quality import best_depth_gate
from exeunt.rules.baselines import eco_m2f, random_routing
from exeunt.trace import concatenate
from exeunt.trace.mask_trace import disagreements, image_losses, mask_trace

COST = ex.CostModel([1, 2, 4])


@cache
def recorded(n: int = 60, seed: int = 0, *, labelled: bool = True) -> ex.ExitTrace:
    """Exits that see the true mask through less and less noise, some images through more of it than others."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (n, 3, 4)).repeat(2, 1).repeat(2, 2)
    hard = rng.uniform(0.2, 2, (n, 1, 1, 1))
    clean = 2.0 * (truth[:, None] == np.arange(3)[:, None, None])
    noise = [hard * scale * rng.normal(size=clean.shape) for scale in (2, 1, 0.3)]
    logits = [(clean + one).astype(np.float32) for one in noise]
    return mask_trace(logits, cost=COST, truth=truth if labelled else None, id=np.arange(n))


def slow_loss(said: np.ndarray, truth: np.ndarray) -> float:
    found = []
    for k in {*truth[truth >= 0].tolist()}:
        here = (said == k) & (truth >= 0)
        found.append((here & (truth == k)).sum() / (here | (truth == k)).sum())
    return 1 - float(np.mean(found))


def test_losses_are_those_of_a_loop_over_classes():
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 4, (5, 2, 6, 7)).astype(np.uint8)
    truth = rng.integers(-1, 4, (5, 6, 7))
    expected = [[slow_loss(mask, true) for mask in said] for said, true in zip(masks, truth, strict=True)]
    assert np.allclose(image_losses(masks, truth, 4), expected)


def test_a_class_that_is_not_in_the_image_does_not_count_itself_and_without_any_the_image_is_named():
    masks = np.array([[[[0, 0], [0, 3]], [[0, 0], [0, 0]]]], np.uint8)
    assert image_losses(masks, np.zeros((1, 2, 2), int), 4).tolist() == [[0.25, 0.0]]
    with pytest.raises(InputError, match="image 1 of a batch has a mask in which no pixel has a class"):
        image_losses(np.zeros((2, 1, 2, 2), np.uint8), np.array([[[0, 0], [0, 0]], [[-1, -1], [-1, -1]]]), 2)


def test_disagreement_is_a_distance_between_masks():
    masks = np.random.default_rng(2).integers(0, 3, (4, 3, 5, 5)).astype(np.uint8)
    found = disagreements(masks)
    assert np.array_equal(found, found.transpose(0, 2, 1))
    assert (found[:, range(3), range(3)] == 0).all()
    assert (found[:, 0, 2] <= found[:, 0, 1] + found[:, 1, 2] + 1e-12).all()
    assert found[1, 0, 2] == np.mean(masks[1, 0] != masks[1, 2])


def test_a_trace_is_graded_by_mean_iou_and_measures_agreement_in_pixels():
    trace = recorded()
    assert trace.measure == "mean IoU"
    assert trace.default_score == "margin"
    assert trace.risk[0] > trace.risk[1] > trace.risk[2]
    agreeing = trace.with_reference()
    assert (agreeing.measure, agreeing.counted) == ("agreement", "pixels")
    assert agreeing.risk[2] == 0
    assert np.allclose(1 - agreeing.quality, trace.disagreement[:, :, 2])
    # A part of the exits agrees with its own last exit.
    some = trace.selected([0, 1]).with_reference()
    assert np.allclose(some.risk, [trace.disagreement[:, 0, 1].mean(), 0])


def test_files_and_joined_batches_keep_everything(tmp_path):
    trace = recorded()
    trace.save(tmp_path / "a.parquet")
    again = ex.ExitTrace.load(tmp_path / "a.parquet")
    for one in (again, concatenate([trace.take(slice(0, 20)), trace.take(slice(20, None))])):
        assert np.array_equal(one.disagreement, trace.disagreement)
        assert np.array_equal(one.features[0], trace.features[0])
        assert np.array_equal(one.grades.loss, trace.grades.loss)
    assert repr(again) == repr(trace)
    trace.with_reference().save(tmp_path / "b.parquet")
    assert ex.ExitTrace.load(tmp_path / "b.parquet").reference == "the full network"


def test_wrong_disagreement_is_refused():
    right = recorded().disagreement
    for wrong, told in (
        (right + 1, r"shares in \[0, 1\] of shape \(60, 3, 3\)"),
        (right[:, :2], "got shape"),
    ):
        with pytest.raises(InputError, match=told):
            replace(recorded(), disagreement=wrong)


@pytest.fixture(scope="module")
def parts():
    return recorded(1000).split(seed=1)


@pytest.mark.parametrize("policy", [ex.auto, ex.learned_correctness])
def test_policies_keep_the_budget_on_masks(parts, policy):
    fit, calibrate, test = parts
    made = policy(fit, calibrate, budget="50%", delta=0.05)
    found = ex.evaluate(made, test)
    assert found.cost <= made.budget * 1.05
    assert found.accuracy > 1 - fit.risk[0]


def test_agreement_in_pixels_is_certified():
    fit, calibrate, test = recorded(1500, labelled=False).split(seed=1)
    made = ex.cheapest(fit, calibrate, agree=0.85)
    said = "at most 15% of the pixels (mean over inputs) differ from those of the full network in the long"
    assert said in str(made.loss_certificate)
    assert ex.evaluate(made, test.with_reference()).accuracy >= 0.84
    assert made.calibration_cost < 4


def test_the_best_answer_so_far_is_of_masks_too(parts):
    fit, calibrate, test = parts
    made = ex.eero(fit, calibrate, budget="60%", answer="best")
    assert ex.evaluate(made, test).accuracy > 1 - fit.risk[0]
    assert np.allclose(made.answer.on(test).disagreement[:, 0, 0], 0)


def test_a_gate_predicts_the_depth_from_the_first_exit_and_names_what_it_lacks(parts, tmp_path):
    fit, calibrate, test = parts
    made = eco_m2f(fit, calibrate, budget="60%")
    assert ex.evaluate(made, test).cost <= made.budget * 1.05
    by_lot = random_routing(fit, calibrate, budget="60%")
    assert ex.evaluate(made, test).accuracy > ex.evaluate(by_lot, test).accuracy + 0.02
    assert "features" in made.score.names
    made.save(tmp_path / "policy.json")
    assert np.array_equal(ex.Policy.load(tmp_path / "policy.json").route(test), made.route(test))
    lacks = r"this gate reads .*features at exit 0, and the evidence lacks features"
    with pytest.raises(InputError, match=lacks):
        made.route(replace(test, features={}))


def test_the_best_depth_is_the_one_that_pays():
    trace = recorded(900)
    cheap, dear = (best_depth_gate(trace, price)[1] for price in (1e-6, 10.0))
    assert cheap @ COST.cumulative > dear @ COST.cumulative
    assert dear[0] == 1


def test_few_groups_of_images_cannot_show_that_few_pixels_differ():
    fit, calibrate, _ = recorded(100, labelled=False).split(seed=1)
    fit, calibrate = replace(fit, groups=fit.id), replace(calibrate, groups=calibrate.id % 2 + 10_000)
    with pytest.raises(ex.Infeasible, match=r"2 calibration groups .* at most 5% of the pixels differ"):
        ex.cheapest(fit, calibrate, agree=0.95, policy="eero", points=8)
