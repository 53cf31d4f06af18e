"""`exeunt train --task segment`, and what the other commands make of its run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.cli.command import exeunt
from tests.pytorch.made_masks import HEIGHT, NAMES, WIDTH, scenes, write_table

from exeunt.data.masked_images import MaskedImages
from exeunt.run import load
from exeunt.run.folder import RunFolder
from exeunt.run.run_inputs import part_data
from exeunt.torch.open_run import load_network

MODEL = "tests.pytorch.made_masks:segmenter"
TRAIN = ("train", "--task", "segment", "--model", MODEL)
SMALL = (
    "--exits",
    "stage1",
    "--hidden",
    "8",
    "--epochs",
    "3",
    "--batch-size",
    "16",
    "--fit",
    "40",
    "--calibrate",
    "60",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_table(folder / "train.parquet", scenes(200))
    write_table(folder / "test.parquet", scenes(80, seed=1))
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("masks") / "run"
    options = ("--mode", "joint", "--balance-classes")
    done = exeunt(*TRAIN, "--data", data, "--out", out, *SMALL, *options, cwd=out.parent)
    assert "mean IoU of each exit on the test part, per input: 0." in done.stdout
    return out


def test_the_run_holds_graded_traces(run):
    opened = RunFolder.open(run)
    trace = opened.trace("test")
    assert (trace.measure, trace.n, trace.n_exits) == ("mean IoU", 80, 2)
    assert trace.risk[1] < 0.9
    assert opened.manifest["class_names"] == list(NAMES)
    assert opened.manifest["data"]["masks"] == {"masks": True, "ignored": None}
    weights = opened.manifest["training"]["class_weights"]
    assert weights[0] < min(weights[1:])


def test_the_data_of_a_part_have_masks(run):
    assert isinstance(part_data(RunFolder.open(run), "test"), MaskedImages)


def test_policies_are_calibrated_evaluated_and_compared(run):
    exeunt("calibrate", run, "--budget", "70%", "--delta", "0.1", cwd=run)
    assert "mean IoU" in exeunt("evaluate", run, "--no-figures", cwd=run).stdout
    budgets = ("--budgets", "70%,90%", "--splits", "2", "--policies", "eero,auto", "--out", "compared.json")
    assert "mean IoU" in exeunt("compare", run, *budgets, cwd=run).stdout


def test_agreement_is_of_pixels(run):
    done = exeunt("calibrate", run, "--agree", "60%", "--delta", "0.1", cwd=run)
    assert "40% of the pixels differ from those of the full network" in done.stdout
    assert "of the pixels of the full network" in exeunt("evaluate", run, "--no-figures", cwd=run).stdout


def test_a_runner_answers_with_masks(run, data):
    exeunt("calibrate", run, "--budget", "70%", cwd=run)
    runner = load(run, trusted=MODEL)
    pairs = scenes(5, seed=3)
    inputs = runner.prepare([image for image, _ in pairs])
    answers = runner(inputs)
    assert answers.masks.shape == (5, HEIGHT, WIDTH)
    assert answers.masks.dtype == np.uint8
    assert (answers.label == [np.bincount(mask.ravel()).argmax() for mask in answers.masks]).all()
    network = load_network(RunFolder.open(run), trusted=MODEL)
    with torch.no_grad():
        outputs = network(torch.from_numpy(inputs))
    for i in range(5):
        expected = outputs[answers.exit[i]][i].argmax(0).numpy()
        assert (answers.masks[i] == expected).mean() > 0.999
    inputs[2, 0, 0, 0] = np.nan
    spoilt = runner(inputs)
    assert not spoilt.valid[2]
    assert (spoilt.masks[2] == 255).all()


def test_heads_alone_learn_from_the_full_depth_without_masks(run, tmp_path):
    write_table(tmp_path / "train.parquet", scenes(60, seed=5), without=60)
    done = exeunt(
        *TRAIN, "--data", tmp_path, "--out", tmp_path / "run", *SMALL[:-4], "--fit", "10", "--calibrate", "10",
        "--test", "10", "--unlabelled", "--mode", "frozen", cwd=tmp_path,
    )  # fmt: skip
    assert "agreement of each exit with the full network on the test part" in done.stdout
    trace = RunFolder.open(tmp_path / "run").trace("test")
    assert (trace.measure, trace.counted) == ("agreement", "pixels")
    history = [
        json.loads(line)
        for line in (tmp_path / "run" / "training" / "history.jsonl").read_text().splitlines()
    ]
    assert history[-1]["train_loss"][0] < history[0]["train_loss"][0]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--augment", "resized-crop"), "changes images and not their masks"),
        (("--most-tokens", "3"), "--task segment takes no --most-tokens"),
        (("--ignore-class", "sky"), "ignored class 'sky' is none of the data's"),
        (("--head", "grid"), "head 'grid' answers with classes"),
    ],
)
def test_options_that_do_not_fit_are_refused(data, tmp_path, options, why):
    done = exeunt(*TRAIN, "--data", data, "--out", tmp_path / "run", *SMALL, *options, cwd=tmp_path, ok=False)
    assert done.returncode == 2
    assert why in done.stderr


def test_options_of_masks_are_no_options_of_classes(data, tmp_path):
    done = exeunt(
        "train",
        "--model",
        MODEL,
        "--data",
        data,
        "--out",
        tmp_path / "run",
        "--ignore-class",
        "ground",
        cwd=tmp_path,
        ok=False,
    )
    assert done.returncode == 2
    assert "--task classify takes no --ignore-class: they are of other tasks" in done.stderr
