"""`exeunt train --task segment`, and what the other commands make of its run."""

from __future__ import annotations

import base64
import io
import json
import re
from shlex import split
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.cli.command import exeunt
from tests.pytorch.made_masks import HEIGHT, NAMES, WIDTH, png, scenes, write_table
from torch.nn import functional

from exeunt.data.masked_images import MaskedImages
from exeunt.errors import InputError
from exeunt.jobs.mask_pictures import draw_masks
from exeunt.runs import load
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import part_data
from exeunt.score.mask_confidence import mask_of
from exeunt.torch.open_run import load_network
from exeunt.trace import ExitTrace

MODEL = "tests.pytorch.made_masks:unscaled_segmenter"
TRAIN = ("train", "--task", "segment", "--model", MODEL)
SMALL = split("--exits stage1 --hidden 8 --epochs 3 --batch-size 16")
COUNTS = split("--fit 40 --calibrate 60")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_table(folder / "train.parquet", scenes(170))
    write_table(folder / "test.parquet", scenes(60, seed=1))
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("masks") / "run"
    options = ("--mode", "joint", "--balance-classes")
    done = exeunt(*TRAIN, "--data", data, "--out", out, *SMALL, *COUNTS, *options, cwd=out.parent)
    assert "mean IoU of each exit on the test part, per input: 0." in done.stdout
    return out


def test_the_run_holds_graded_traces(run):
    opened = RunFolder.open(run)
    trace = opened.trace("test")
    assert (trace.measure, trace.n, trace.n_exits) == ("mean IoU", 60, 2)
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
    small = split("--budgets 80% --splits 2 --policies eero --workers 1 --out compared.json")
    assert "mean IoU" in exeunt("compare", run, *small, cwd=run).stdout


def test_agreement_is_of_pixels(run):
    done = exeunt("calibrate", run, "--agree", "60%", "--delta", "0.1", cwd=run)
    assert "40% of the pixels (mean over inputs) differ from those of the full network" in done.stdout
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
        logits = network(torch.from_numpy(inputs))
        outputs = [functional.interpolate(one, scale_factor=2, mode="bilinear") for one in logits]
    for i in range(5):
        expected = outputs[answers.exit[i]][i].argmax(0).numpy()
        assert (answers.masks[i] == expected).mean() > 0.999
    inputs[2, 0, 0, 0] = np.nan
    spoilt = runner(inputs)
    assert not spoilt.valid[2]
    assert (spoilt.masks[2] == 255).all()


def test_pictures_show_the_masks_of_all_exits_and_which_answered(run):
    exeunt("calibrate", run, "--budget", "70%", cwd=run)
    refused = exeunt("evaluate", run, "--pictures", "4", cwd=run, ok=False)
    assert (refused.stdout, refused.stderr.count("drawing")) == ("", 0)
    assert f"--model {MODEL}" in refused.stderr
    done = exeunt("evaluate", run, "--no-figures", "--pictures", "4", "--model", MODEL, cwd=run)
    page = (run / "figures" / "masks.html").read_text()
    assert f"written to {run / 'figures' / 'masks.html'}" in done.stdout
    assert (page.count("<article>"), page.count("<figure"), page.count("<strong>answered")) == (4, 16, 4)
    opened, data = RunFolder.open(run), part_data(RunFolder.open(run), "test")
    answered = dict(re.findall(r"<h2>(.*?)</h2><p>answered at exit (\d)", page))
    names = [data.name(i) for i in range(len(data))]
    exits = opened.policy.route(opened.replayed(opened.policy, "test"))
    assert answered == {name: str(exits[names.index(name)]) for name in answered}
    assert set(answered.values()) == set(map(str, np.unique(exits)))
    shown = re.search(r'<figure class="answer"><img src="data:image/png;base64,(.*?)"', page)[1]
    image = data.content(names.index(next(iter(answered))))
    expected = load(run, trusted=MODEL)(load(run, trusted=MODEL).prepare([image])).masks[0]
    assert (np.array(Image.open(io.BytesIO(base64.b64decode(shown)))) == expected).mean() > 0.999
    with pytest.raises(InputError, match="answers with classes: pictures are of networks that answer with"):
        draw_masks(SimpleNamespace(masks=False, path="run"), opened.policy, 1, run / "a.html")


def test_heads_alone_learn_from_the_full_depth_without_masks(run, tmp_path):
    write_table(tmp_path / "train.parquet", scenes(60, seed=5), without=60)
    options = [*SMALL, *split("--fit 10 --calibrate 10 --test 10 --unlabelled --mode frozen")]
    done = exeunt(*TRAIN, "--data", tmp_path, "--out", tmp_path / "run", *options, cwd=tmp_path)
    assert "agreement of each exit with the full network on the test part" in done.stdout
    trace = RunFolder.open(tmp_path / "run").trace("test")
    assert (trace.measure, trace.counted) == ("agreement", "pixels")
    lines = (tmp_path / "run" / "training" / "history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    assert history[-1]["train_loss"][0] < history[0]["train_loss"][0]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--augment", "resized-crop"), "changes images and not their masks"),
        (("--most-tokens", "3"), "--task segment takes no --most-tokens"),
        (("--ignore-class", "sky"), "ignored class 'sky' is none of the data's"),
        (("--head", "grid"), "head 'grid' answers with classes"),
        (
            ("--task", "classify", "--ignore-class", "ground"),
            "--task classify takes no --ignore-class: only --task segment does",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(data, tmp_path, options, why):
    given = (*TRAIN, "--data", data, "--out", tmp_path / "run", *SMALL, *COUNTS, *options)
    done = exeunt(*given, cwd=tmp_path, ok=False)
    assert done.returncode == 2
    assert why in done.stderr


@pytest.fixture(scope="module")
def exported(run):
    exeunt("calibrate", run, "--budget", "70%", cwd=run)
    exeunt("export", run, "--model", MODEL, cwd=run)
    return run


def test_predictions_hold_masks_as_runs_and_as_files(exported, tmp_path):
    for i, (image, _) in enumerate(scenes(5, seed=3)):
        (tmp_path / "in" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / str(i % 2) / f"{i}.png").write_bytes(png(image))
    (tmp_path / "in" / "0" / "bad.png").write_bytes(b"no image")
    out, masks = tmp_path / "answers.parquet", tmp_path / "masks"
    exeunt("predict", exported, "--data", "in", "--out", out, "--masks", masks, cwd=tmp_path)
    rows = pq.read_table(out).to_pylist()
    assert " ".join(row["name"] for row in rows) == "0/0.png 0/2.png 0/4.png 0/bad.png 1/1.png 1/3.png"
    assert rows[3]["mask"] is None
    assert not (masks / "0" / "bad.png").exists()
    for row in (*rows[:3], *rows[4:]):
        mask = mask_of(row["mask"])
        assert mask.shape == (HEIGHT, WIDTH)
        assert row["class_name"] == NAMES[np.bincount(mask.ravel()).argmax()]
        assert np.array_equal(np.array(Image.open(masks / row["name"])), mask)
    printed = exeunt("predict", exported, "--data", "in", cwd=tmp_path).stdout
    assert f"{HEIGHT}x{WIDTH} " in printed


def test_onnx_runtime_answers_alike(exported):
    inputs = load(exported, executor="onnx").prepare([image for image, _ in scenes(20, seed=4)])
    one, other = (load(exported, executor=name, trusted=MODEL)(inputs) for name in ("onnx", "eager"))
    assert np.array_equal(one.exit, other.exit)
    assert (one.masks == other.masks).mean() > 0.9999


def test_int8_answers_with_masks(exported):
    exeunt("export", exported, "--model", MODEL, "--precision", "int8", cwd=exported)
    whole, small = (RunFolder.open(f"{exported}{at}").trace("test") for at in ("", "@int8"))
    assert small.measure == "mean IoU"
    assert abs(small.risk - whole.risk).max() < 0.1
    exeunt("calibrate", f"{exported}@int8", "--budget", "70%", cwd=exported)
    answers = load(f"{exported}@int8")(load(exported).prepare([scenes(1)[0][0]]))
    assert answers.masks.shape == (1, HEIGHT, WIDTH)


def test_recorded_outputs_calibrate_as_the_runs_own_do(exported, tmp_path):
    for i, (image, _) in enumerate(scenes(30, seed=6)):
        (tmp_path / f"{i:02d}.png").write_bytes(png(image))
    exeunt("record", exported, "--data", tmp_path, "--out", "recorded", cwd=exported)
    (part,) = (exported / "recorded").glob("*.parquet")
    trace = ExitTrace.load(part)
    assert (trace.n, trace.counted) == (30, "pixels")
    assert trace.features[0].shape == (30, 6)
    calibrate = ("calibrate", exported, "--budget", "80%", "--policy", "eco_m2f", "--traces", "recorded")
    exeunt(*calibrate, cwd=exported)
    more = ("record", exported, "--data", tmp_path, "--out", "more", "--probabilities")
    assert "probabilities of each pixel" in exeunt(*more, cwd=exported, ok=False).stderr


def test_what_is_not_for_masks_is_refused(exported, tmp_path):
    (tmp_path / "a.png").write_bytes(png(scenes(1)[0][0]))
    given = ("predict", exported, "--data", tmp_path)
    alone = "answers with masks, and one file, or a page, holds policies of classes alone"
    for arguments, why in (
        (("export", exported, "--one-file"), alone),
        (("export", exported, "--web"), "answers with masks"),
        ((*given, "--top", "2", "--out", tmp_path / "a.csv"), "leave out --top"),
        ((*given, "--masks", tmp_path / "m"), "name one with --out"),
        (("cascade", f"a={exported}", f"b={exported}", "--out", "c"), "a answers with masks"),
    ):
        done = exeunt(*arguments, cwd=tmp_path, ok=False)
        assert done.returncode == 2, arguments
        assert why in done.stderr, (arguments, done.stderr)
