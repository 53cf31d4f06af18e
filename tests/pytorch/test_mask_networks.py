"""Networks that answer with masks: their exits, `exeunt train --task segment`, what other commands make of its run."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from shlex import split
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.cli.command import exeunt
from tests.pytorch.made_masks import (
    HEIGHT,
    NAMES,
    WIDTH,
    Segmenter,
    png,
    scenes,
    segmenter,
    unscaled_segmenter,
    write_table,
)
from torch import nn
from torch.nn import functional

from exeunt.data.masked_images import MaskedImages
from exeunt.errors import InputError
from exeunt.jobs.mask_pictures import draw_masks
from exeunt.runs import load
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import part_data
from exeunt.score.mask_confidence import mask_of
from exeunt.torch import attach, train
from exeunt.torch.exits.heads import HeadOptions
from exeunt.torch.exits.network import record
from exeunt.torch.exits.pixel_heads import PixelHead, places_of_tokens
from exeunt.torch.exits.placement import find_candidates
from exeunt.torch.open_run import load_network
from exeunt.torch.training.losses import at_pixels_of, cross_entropies, mean_loss, objective
from exeunt.trace import ExitTrace
from exeunt.trace.mask_trace import image_losses

BY_BATCH = HeadOptions(head="pixels", input_norm="batch")
EXAMPLE = torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def attached(model=None, exits=("stage1",), **options):
    return attach(model or segmenter(), EXAMPLE, exits, masks=True, verbose=False, **options)


def changing():
    """The network, which changes the features of its batch norm in place."""
    model = segmenter()
    model.stage1[2] = nn.ReLU(inplace=True)
    return model


def test_every_exit_answers_with_masks_of_the_images_size_from_features_as_they_were():
    network = attached(changing(), ["stage1.1"], hidden=4).eval()
    outputs = network(EXAMPLE)
    assert [tuple(one.shape) for one in outputs] == [(2, 3, HEIGHT, WIDTH)] * 2
    assert torch.equal(outputs[1], network.backbone(EXAMPLE))
    assert isinstance(network.heads[0], PixelHead)
    assert 0 < network.cost.cumulative[0] < network.cost.full
    assert "mask decoder" in network.describe()
    assert all(map(torch.equal, network.classify(*network.reduce(EXAMPLE)), outputs))
    again = attach(changing(), EXAMPLE, verbose=False, **network.config()).eval()
    again.load_state_dict(network.state_dict())
    assert all(map(torch.equal, again(EXAMPLE), outputs))


def test_what_is_scaled_after_the_answer_is_graded_and_learns_at_the_size_of_the_logits():
    network = attached(unscaled_segmenter(), hidden=4).eval()
    assert network.mask_scale == 2
    assert [tuple(one.shape[2:]) for one in network(EXAMPLE)] == [(HEIGHT // 2, WIDTH // 2)] * 2
    truth = torch.randint(0, 3, (2, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    trace = record(network, [(EXAMPLE, truth)])
    masks = segmenter().eval()(EXAMPLE).argmax(1).numpy()
    assert np.allclose(trace.risk[1], image_losses(masks[:, None], truth.numpy(), 3).mean())
    train(network, [(EXAMPLE, truth)], mode="joint", epochs=1, validation=[(EXAMPLE, truth)])
    other = [torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 4, 4)]
    with pytest.raises(InputError, match=r"masks of different sizes \(2x2, 4x4 pixels\)"):
        at_pixels_of(truth, other)
    assert at_pixels_of(torch.arange(8).reshape(1, 2, 4), [torch.zeros(1, 3, 1, 2)]).tolist() == [[[5, 7]]]


@pytest.mark.parametrize(
    ("shape", "layout", "place"),
    [
        ((5, 4, 6), "channels_first", (0, 0, 1, 4)),
        ((4, 6, 5), "channels_last", (0, 1, 4, 0)),
        ((24, 5), "tokens", (0, 10, 0)),
        ((25, 5), "tokens", (0, 11, 0)),
    ],
)
@pytest.mark.parametrize("hidden", [0, 4])
def test_pixels_answer_where_they_are(shape, layout, place, hidden):
    options = HeadOptions(head="pixels", hidden=hidden, norm="none", input_norm="none")
    head = PixelHead(shape, 2, layout, options, (16, 24))
    features = torch.zeros(1, *shape)
    before = head(features)
    features[place] = 50.0
    moved = (head(features) - before).abs().sum(1)[0]
    assert moved.shape == (16, 24)
    row, column = divmod(int(moved.argmax()), 24)
    assert (row // 4, column // 4) == (1, 4)


FLAT = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
UNFLAT = nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 2, 2)))


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: places_of_tokens((7, 8), (64, 64)), "7 tokens do not cover an image of 64x64 pixels evenly"),
        (lambda: PixelHead((24, 5), 2, "tokens", BY_BATCH, (16, 24)), "choose input_norm layer or none"),
        (lambda: PixelHead((5,), 2, "flat", BY_BATCH, (16, 24)), r"features of shape \(5,\) have no places"),
        (lambda: attached(head="grid"), "'grid' answers with classes, and this network with masks"),
        (lambda: attached(grid=3), "pools to no grid: leave grid=3 out"),
        (lambda: attach(UNFLAT, torch.zeros(2, 3), ["0"], masks=True, verbose=False), "masks are of images"),
        (lambda: attach(FLAT, torch.zeros(2, 4), ["2"], head="pixels"), "head 'pixels' answers with masks"),
        (lambda: attached(_Returns("odd")), "returns masks of 8x11 pixels for images of 16x24: let it"),
        (lambda: attached(_Returns("classes")), r"logits of shape \(2, 3\), and masks need \(images, cl"),
        (lambda: attached(_Returns("dictionary"), ["pair"]), "'pair' returns a dict of 2 tensors"),
        (
            lambda: find_candidates(segmenter().eval(), EXAMPLE, None),
            r"masks, .*: say masks=True \(--task segm",
        ),
        (
            lambda: attached(Own(early=0.5), "own"),
            r"masks of several sizes \(8x12, 16x24\): scale all to one",
        ),
    ],
)
def test_what_is_no_network_of_masks_is_told_in_one_line(call, why):
    with pytest.raises(InputError, match=why) as told:
        call()
    assert "\n" not in str(told.value)


class Own(nn.Module):
    """A network with an exit of its own, after the first stage, by the decoder that both share.

    `early`: the size of that exit's masks, as a share of the images' sides.
    """

    def __init__(self, early: float = 1.0) -> None:
        super().__init__()
        self.body, self.early = segmenter(), early

    def forward(self, images):
        first = self.body.stage1(images)
        maps = {"early": (first, self.early), "late": (self.body.stage2(first), 1.0)}
        return {
            name: functional.interpolate(
                self.body.decoder(one), size=[int(side * share) for side in images.shape[2:]], mode="bilinear"
            )
            for name, (one, share) in maps.items()
        }


def test_a_network_may_bring_its_exits_with_one_decoder():
    network = attached(Own(), "own").eval()
    early, late = network(EXAMPLE)
    assert torch.equal(late, segmenter().eval()(EXAMPLE))
    assert early.shape == late.shape
    assert network.cost.cumulative[0] < network.cost.full
    again = attach(Own(), EXAMPLE, verbose=False, **network.config()).eval()
    assert torch.equal(again(EXAMPLE)[0], early)


class _Pair(nn.Module):
    def forward(self, features):
        return {"a": features + 1, "b": features}


class _Returns(Segmenter):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.pair = kind, _Pair()

    def forward(self, images):
        features = self.pair(self.stage1(images))["a"] if self.kind == "dictionary" else self.stage1(images)
        logits = self.decoder(self.stage2(features))
        if self.kind == "odd":
            return logits[..., 1:]
        if self.kind == "classes":
            return logits.mean((2, 3))
        return functional.interpolate(logits, size=images.shape[2:], mode="bilinear")


def test_pixels_without_a_class_do_not_count():
    rng = torch.Generator().manual_seed(1)
    logits = [torch.randn(2, 3, 4, 5, generator=rng, requires_grad=True) for _ in range(2)]
    label = torch.randint(-1, 3, (2, 4, 5), generator=rng)
    weights = torch.tensor([0.5, 1.0, 2.0])
    _, means = objective(logits, label, class_weights=tuple(weights.tolist()))
    counts = label >= 0
    for one, mean in zip(logits, means, strict=True):
        right = one.log_softmax(1).gather(1, label.clamp(min=0)[:, None])[:, 0]
        expected = -(weights[label.clamp(min=0)] * right)[counts].mean()
        assert float(mean) == pytest.approx(float(expected.detach()), rel=1e-5)
    unknown = torch.full((2, 4, 5), -1)
    assert mean_loss(cross_entropies(logits, unknown), unknown).tolist() == [0, 0]


def test_recorded_traces_are_graded_by_the_masks():
    network = attached(hidden=4)
    truth = torch.randint(0, 3, (2, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    trace = record(network, [(EXAMPLE, truth)])
    assert (trace.measure, trace.n, trace.n_exits) == ("mean IoU", 2, 2)
    without = record(network, [(EXAMPLE, None)])
    assert without.grades is None
    assert without.with_reference().counted == "pixels"


class Pyramid(nn.Module):
    """Stages that offer themselves as places: one returns a list of maps, one a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.body = segmenter()
        self.split, self.pool = _List(), _Pool()

    def forward(self, images):
        first, second = self.split(self.body.stage1(images))
        features = self.body.stage2(first + second) * self.pool(first)[:, :, None, None].sigmoid()
        return functional.interpolate(self.body.decoder(features), size=images.shape[2:], mode="bilinear")


class _List(nn.Module):
    def forward(self, features):
        return [features * 2, features + 1]


class _Pool(nn.Module):
    def forward(self, features):
        return features.mean((2, 3)) * 1.0


def test_places_that_are_chosen_are_feature_maps():
    found = find_candidates(Pyramid().eval(), EXAMPLE, None, masks=True)[0]
    assert found
    assert all(len(point.shape) == 3 for point in found)
    assert not {"split", "pool"} & {point.name for point in found}
    network = attached(Pyramid(), 1)
    assert network(EXAMPLE)[0].shape == (2, 3, HEIGHT, WIDTH)


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
    assert isinstance(part_data(opened, "test"), MaskedImages)


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
    runner = load(run, trusted=MODEL)
    expected = runner(runner.prepare([image])).masks[0]
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
        (("--task", "classify", "--ignore-class", "ground"), "--task classify takes no --ignore-class: only"),
    ],
)
def test_options_that_do_not_fit_are_refused(data, tmp_path, options, why):
    given = (*TRAIN, "--data", data, "--out", tmp_path / "run", *SMALL, *COUNTS, *options)
    done = exeunt(*given, cwd=tmp_path, ok=False)
    assert done.returncode == 2
    assert why in done.stderr


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    copy = shutil.copytree(run, tmp_path_factory.mktemp("exported") / "run")
    exeunt("calibrate", copy, "--budget", "70%", cwd=run)
    exeunt("export", copy, "--model", MODEL, cwd=run)
    return copy


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
