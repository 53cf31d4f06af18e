"""Exits that answer with masks: heads on maps and tokens, exits of the network's own, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.pytorch.made_masks import HEIGHT, WIDTH, Segmenter, segmenter, unscaled_segmenter
from torch import nn
from torch.nn import functional

from exeunt.errors import InputError
from exeunt.torch import attach, train
from exeunt.torch.calls import first_tensor
from exeunt.torch.exits.heads import HeadOptions
from exeunt.torch.exits.network import record
from exeunt.torch.exits.pixel_heads import PixelHead, places_of_tokens
from exeunt.torch.exits.placement import find_candidates
from exeunt.torch.training.losses import at_pixels_of, cross_entropies, mean_loss, objective
from exeunt.trace.mask_trace import image_losses

BY_BATCH = HeadOptions(head="pixels", input_norm="batch")
EXAMPLE = torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def attached(model=None, exits=("stage1",), **options):
    return attach(model or segmenter(), EXAMPLE, exits, masks=True, verbose=False, **options)


def test_every_exit_answers_with_masks_of_the_images_size():
    network = attached(hidden=4).eval()
    outputs = network(EXAMPLE)
    assert [tuple(one.shape) for one in outputs] == [(2, 3, HEIGHT, WIDTH)] * 2
    assert torch.equal(outputs[1], network.backbone(EXAMPLE))
    assert isinstance(network.heads[0], PixelHead)
    assert 0 < network.cost.cumulative[0] < network.cost.full
    assert "mask decoder" in network.describe()


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


def test_a_network_is_rebuilt_from_its_config():
    network = attached(hidden=4).eval()
    again = attach(segmenter(), EXAMPLE, verbose=False, **network.config()).eval()
    again.load_state_dict(network.state_dict())
    assert all(map(torch.equal, again(EXAMPLE), network(EXAMPLE)))


def test_heads_read_features_as_they_were():
    model = segmenter()
    model.stage2[0] = nn.Sequential(nn.ReLU(inplace=True), model.stage2[0])
    network = attached(model, ["stage1.1"]).eval()
    reduced, final = network.reduce(EXAMPLE)
    assert all(map(torch.equal, network.classify(reduced, final), network(EXAMPLE)))


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


def test_tokens_cover_the_image_in_rows():
    assert places_of_tokens((12, 8), (192, 256)) == (3, 4)
    assert places_of_tokens((197, 8), (224, 224)) == (14, 14)


FLAT = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
UNFLAT = nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 2, 2)))


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: places_of_tokens((7, 8), (64, 64)), "7 tokens do not cover an image of 64x64 pixels evenly"),
        (lambda: PixelHead((24, 5), 2, "tokens", BY_BATCH, (16, 24)), "choose input_norm layer or none"),
        (
            lambda: PixelHead((5,), 2, "flat", BY_BATCH, (16, 24)),
            r"features of shape \(5,\) have no places in the image",
        ),
        (
            lambda: attached(head="grid"),
            "'grid' answers with classes, and this network with masks: choose pixels",
        ),
        (lambda: attached(grid=3), "pools to no grid: leave grid=3 out"),
        (
            lambda: attach(UNFLAT, torch.zeros(2, 3), ["0"], masks=True, verbose=False),
            "masks are of images",
        ),
        (
            lambda: attach(FLAT, torch.zeros(2, 4), ["2"], head="pixels", verbose=False),
            "head 'pixels' answers with masks",
        ),
        (
            lambda: attached(_Returns("odd")),
            "returns masks of 8x11 pixels for images of 16x24: let it return logits of the size of its input",
        ),
        (
            lambda: attached(_Returns("classes")),
            r"returns logits of shape \(2, 3\), and masks need \(images, classes, height, width\)",
        ),
        (
            lambda: attached(_Returns("dictionary"), ["pair"]),
            "module 'pair' returns a dict of 2 tensors, and an exit of masks reads one feature map",
        ),
    ],
)
def test_what_is_no_network_of_masks_is_told_in_one_line(call, why):
    with pytest.raises(InputError, match=why) as told:
        call()
    assert "\n" not in str(told.value)


class Own(nn.Module):
    """A network with an exit of its own, after the first stage, by the decoder that both share."""

    def __init__(self) -> None:
        super().__init__()
        self.body = segmenter()

    def forward(self, images):
        first = self.body.stage1(images)
        maps = [first, self.body.stage2(first)]
        return {
            name: functional.interpolate(self.body.decoder(one), size=images.shape[2:], mode="bilinear")
            for name, one in zip(("early", "late"), maps, strict=True)
        }


def test_a_network_may_bring_its_exits_with_one_decoder():
    network = attached(Own(), "own").eval()
    early, late = network(EXAMPLE)
    assert torch.equal(late, segmenter().eval()(EXAMPLE))
    assert early.shape == late.shape
    assert network.cost.cumulative[0] < network.cost.full
    again = attach(Own(), EXAMPLE, verbose=False, **network.config()).eval()
    assert torch.equal(again(EXAMPLE)[0], early)


def test_stages_run_the_network_piece_by_piece():
    network = attached(hidden=4)
    with torch.no_grad():
        staged = network.stages(EXAMPLE)
        (features,) = staged.stages[0].body(EXAMPLE)
        late = first_tensor(staged.stages[1].body(features))
        expected = network(EXAMPLE)
    assert torch.allclose(network.heads[0](features), expected[0], atol=1e-5)
    assert torch.allclose(late, expected[1], atol=1e-5)


class _Returns(Segmenter):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.pair = _Pair()

    def forward(self, images):
        features = self.pair(self.stage1(images))["a"] if self.kind == "dictionary" else self.stage1(images)
        logits = self.decoder(self.stage2(features))
        if self.kind == "odd":
            return logits[..., 1:]
        if self.kind == "classes":
            return logits.mean((2, 3))
        return functional.interpolate(logits, size=images.shape[2:], mode="bilinear")


class _Pair(nn.Module):
    def forward(self, features):
        return {"a": features + 1, "b": features}


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


def test_unlabelled_pixels_learn_from_the_full_depth():
    rng = torch.Generator().manual_seed(1)
    early, late = (torch.randn(1, 3, 2, 2, generator=rng, requires_grad=True) for _ in range(2))
    loss, _ = objective([early, late], torch.full((1, 2, 2), -1), unlabelled=True, teacher=late.detach())
    loss.backward()
    assert (early.grad.abs().sum(1) > 0).all()
    again, _ = objective([early, late], None, unlabelled=True, teacher=late.detach())
    assert torch.equal(loss, again)


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
