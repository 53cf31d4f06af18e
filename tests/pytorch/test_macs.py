"""What multiply-adds are counted, and the networks that come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models

from exeunt.errors import InputError
from exeunt.torch import build_model
from exeunt.torch.exits.multiply_adds import count_macs, cumulative_macs
from exeunt.zoo import CifarResNet, resnet8_wide, resnet18, resnet20, resnet56


@pytest.mark.parametrize(("build", "expected"), [(models.convnext_tiny, 4.46e9), (models.vit_b_16, 17.6e9)])
def test_published_counts(build, expected):
    with torch.device("meta"):
        model = build()
    assert count_macs(model, torch.empty(1, 3, 224, 224, device="meta")) == pytest.approx(expected, rel=5e-3)


class Toy(nn.Module):
    """Two layers, one of them used twice, and one not at all."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.shared, self.idle = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.last(self.shared(torch.relu(self.shared(self.first(x)))))


def test_counts_by_hand_in_order_of_execution():
    model, x = Toy(), torch.zeros(5, 4)
    expected = np.cumsum([4 * 8, 2 * 8 * 8, 8 * 3])
    np.testing.assert_array_equal(cumulative_macs(model, x, ["first", "shared", "last"]), expected)
    assert count_macs(model, x) == expected[-1]


def test_attention_is_counted():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(40, 3))
    tokens, width, inner = 5, 8, 16
    linear = tokens * (4 * width * width + 2 * width * inner)
    attention = 2 * tokens * tokens * width
    assert count_macs(model, torch.zeros(2, tokens, width)) == linear + attention + 40 * 3


class LooksAtValues(nn.Linear):
    def forward(self, x):
        return super().forward(x) if bool((x > 0).all()) else super().forward(x) + super().forward(x)


def test_a_model_that_looks_at_values_is_run_on_them():
    assert count_macs(LooksAtValues(4, 2), torch.ones(3, 4)) == 8


def test_model_and_switches_are_left_as_they_were():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model[2].eval()
    before = model[1].running_mean.clone()
    fast = torch.backends.mha.get_fastpath_enabled()
    cumulative_macs(model, torch.randn(6, 4), ["0"])
    assert [m.training for m in model] == [True, True, False]
    assert torch.equal(model[1].running_mean, before)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert not any(m._forward_hooks for m in model.modules())


def test_names_that_cannot_be_counted():
    with pytest.raises(InputError, match=r"no module 'second'.*first"):
        cumulative_macs(Toy(), torch.zeros(1, 4), ["second"])
    with pytest.raises(InputError, match="'idle' did not run"):
        cumulative_macs(Toy(), torch.zeros(1, 4), ["idle"])


WEIGHTS = Path(__file__).parents[3] / "shared" / "models"


@pytest.mark.parametrize(
    ("network", "macs", "weights"), [(resnet20, 40.6e6, 27e4), (resnet56, 125.5e6, 85e4)]
)
def test_cifar_resnets_are_those_of_the_paper(network, macs, weights):
    """He et al. 2015, table 6: 0.27 million and 0.85 million parameters."""
    model = network()
    assert count_macs(model, torch.zeros(1, 3, 32, 32)) == pytest.approx(macs, rel=2e-3)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(weights, rel=0.02)
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == (20 if macs < 1e8 else 56)


@pytest.mark.parametrize(
    ("network", "shape", "macs"), [(resnet8_wide, (32, 16), 12e6), (resnet18, (64, 32), 556e6)]
)
def test_resnet8_has_half_the_resolution_and_resnet18_keeps_it_at_first(network, shape, macs):
    model, x = network(7).eval(), torch.randn(2, 3, 32, 32)
    assert model.layer1(functional.relu(model.bn1(model.conv1(x)))).shape == (2, *shape, shape[1])
    assert model(x).shape == (2, 7)
    assert count_macs(model, x) == pytest.approx(macs, rel=0.01)
    if network is resnet8_wide:
        assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == 8


def test_the_shortcut_subsamples_and_pads_with_zeros():
    block = CifarResNet(1).layer2[0].eval()
    for norm in (block.bn1, block.bn2):
        nn.init.zeros_(norm.weight)  # nothing but the shortcut is left
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="the pretrained networks are not here")
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_pretrained_weights_fit_to_the_last_name(name):
    model = build_model(f"exeunt.zoo:{name}", weights=WEIGHTS / f"{name}_cifar10.safetensors")
    model.load_state_dict(model.state_dict(), strict=True)
    assert model(torch.randn(2, 3, 32, 32)).isfinite().all()
