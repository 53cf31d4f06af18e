from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from exeunt.errors import InputError
from exeunt.torch.exits.heads import Head, HeadOptions, layout_of, make_head


def make(shape, layout="channels_first", **options):
    torch.manual_seed(0)
    return Head(shape, 5, layout, HeadOptions(**options)).eval()


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 8, 14, 32])
def test_grid_covers_every_position_and_agrees_with_adaptive_pooling_where_it_divides(side):
    head = make((3, side, side))
    x = torch.randn(2, 3, side, side)
    reduced = head.reduce(x)
    if side <= 4:
        assert torch.equal(reduced, x)
        return
    assert reduced.shape == (2, 6, 4, 4)
    if side % 4 == 0:
        assert torch.allclose(reduced[:, :3], functional.adaptive_avg_pool2d(x, 4), atol=1e-6)
        assert torch.equal(reduced[:, 3:], functional.adaptive_max_pool2d(x, 4))
    # No position is lost: a peak anywhere shows in some cell's maximum.
    for row, column in [(0, 0), (side - 1, side - 1), (side // 2, side - 1)]:
        peak = x.clone()
        peak[:, :, row, column] = 99.0
        assert (head.reduce(peak)[:, 3:].amax((2, 3)) == 99.0).all()


def test_a_map_longer_than_wide_and_vectors_are_read_as_they_are():
    assert make((3, 9, 2)).reduce(torch.randn(2, 3, 9, 2)).shape == (2, 6, 4, 2)
    assert make((7,), "flat")(torch.randn(2, 7)).shape == (2, 5)


@pytest.mark.parametrize("kind", ["paper", "global"])
def test_the_papers_head_is_a_global_average_and_a_linear_layer(kind):
    head = make((3, 8, 8), head=kind)
    x = torch.randn(4, 3, 8, 8)
    linear = head.body[-1]
    assert isinstance(linear, nn.Linear)
    assert len(head.body) == 1
    expected = functional.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1), linear.weight, linear.bias)
    assert torch.allclose(head(x), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["grid", "paper", "mean"])
def test_channels_last_equals_channels_first(kind):
    first, last = make((3, 8, 8), head=kind), make((8, 8, 3), "channels_last", head=kind)
    last.load_state_dict(first.state_dict())
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(first(x), last(x.permute(0, 2, 3, 1)), atol=1e-6)


def test_token_reads_the_first_token_and_mean_skips_what_is_masked():
    x = torch.randn(3, 6, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    token = make((6, 4), "tokens", head="token")
    assert torch.equal(token.reduce(x, mask), x[:, 0])
    reduced = make((6, 4), "tokens", head="mean").reduce(x, mask)
    assert torch.allclose(reduced[0], x[0].mean(0), atol=1e-6)
    assert torch.allclose(reduced[1], x[1, :2].mean(0), atol=1e-6)
    assert torch.equal(reduced[2], torch.zeros(4))  # nothing to average, and no NaN
    both = make((6, 4), "tokens", head="both").reduce(x, mask)
    assert torch.equal(both, torch.cat([x[:, 0], reduced], dim=1))
    statistics = make((6, 4), "tokens", head="statistics").reduce(x, mask)
    for row, length in enumerate((6, 2)):
        tokens = x[row, :length].numpy()
        expected = np.concatenate([tokens.mean(0), np.sqrt(tokens.var(0) + 1e-6)])
        assert statistics[row].numpy() == pytest.approx(expected, abs=1e-5)
    assert statistics[2].numpy() == pytest.approx([0, 0, 0, 0, 1e-3, 1e-3, 1e-3, 1e-3])


def test_half_precision_holds_the_statistics_of_many_tokens():
    x = 20 * torch.randn(2, 256, 4, generator=torch.Generator().manual_seed(0))
    head = make((256, 4), "tokens", head="statistics")
    found = head.reduce(x.half(), torch.ones(2, 256))
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), head.reduce(x), rtol=1e-2, atol=1e-2)


def test_tokens_that_are_alike_have_a_gradient():
    x = torch.ones(2, 6, 4, requires_grad=True)
    make((6, 4), "tokens", head="statistics")(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_what_is_pooled_from_tokens_is_normalised_unless_said_otherwise():
    x = torch.randn(3, 6, 4)
    means = x.mean(1)
    across = functional.batch_norm(means, None, None, training=True)
    for norm, expected in (("layer", functional.layer_norm(means, (4,))), ("none", means), ("batch", across)):
        head = make((6, 4), "tokens", head="mean", hidden=0, input_norm=norm).train()
        torch.testing.assert_close(head.body[:-1](head.reduce(x)), expected)
        torch.testing.assert_close(head(x), head.body[-1](expected))


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Conv2d(3, 8, 3), (8, 8, 4), "channels_first"),
        (nn.LayerNorm(8), (4, 4, 8), "channels_last"),
        (nn.Sequential(nn.Linear(4, 8)), (5, 6, 8), "channels_last"),
        (nn.ReLU(), (4, 4, 8), "channels_last"),  # no width to tell by: the equal axes are positions
        (nn.ReLU(), (8, 4, 4), "channels_first"),
        (nn.ReLU(), (4, 4, 4), "channels_first"),
        (nn.ReLU(), (10, 32), "tokens"),
        (nn.ReLU(), (32,), "flat"),
    ],
)
def test_layout_is_told_by_the_modules_own_layers(module, shape, expected):
    assert layout_of(module, shape) == expected


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: layout_of(nn.ReLU(), (2, 3, 4, 5)), "cannot carry a head"),
        (lambda: make_head(lambda shape, k: "head", (3, 8, 8), 5, "channels_first"), r"torch\.nn\.Module"),
        (lambda: HeadOptions(input_norm="group"), "choose one of batch, layer, none"),
        (lambda: HeadOptions(head="nonsense"), "nonsense"),
        (lambda: HeadOptions(norm="group"), "group"),
        (lambda: HeadOptions(grid=0), "grid"),
        (lambda: HeadOptions(hidden=-1), "hidden"),
        (lambda: HeadOptions(dropout=1.0), "dropout"),
    ],
)
def test_what_is_no_head_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()


@pytest.mark.parametrize("kind", ["token", "both", "statistics"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_heads_on_tokens_refuse_feature_maps(kind, layout):
    with pytest.raises(InputError, match=rf"'{kind}' reads tokens, .* of shape \(3, 8, 8\): choose grid"):
        make_head(HeadOptions(head=kind), (3, 8, 8), 5, layout)


@pytest.mark.parametrize(("channels", "side"), [(64, 4), (65, 3), (128, 2), (256, 2), (257, 1), (2000, 1)])
def test_a_grid_is_as_fine_as_2048_features_allow(channels, side):
    head = Head((channels, 8, 8), 10, "channels_first", HeadOptions())
    assert head.reduce(torch.zeros(1, channels, 8, 8)).shape == (1, 2 * channels, side, side)
