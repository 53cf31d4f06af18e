from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from exeunt.torch import build_model, count_macs
from exeunt.zoo import CifarResNet, digits, resnet8_wide, resnet18, resnet20, resnet56

WEIGHTS = Path(__file__).parents[3] / "shared" / "models"


@pytest.mark.parametrize(
    ("network", "macs", "parameters"), [(resnet20, 40.6e6, 0.27e6), (resnet56, 125.5e6, 0.85e6)]
)
def test_cifar_resnets_are_those_of_the_paper(network, macs, parameters):
    """He et al. 2015, table 6: 0.27 million and 0.85 million parameters."""
    model = network()
    assert count_macs(model, torch.zeros(1, 3, 32, 32)) == pytest.approx(macs, rel=2e-3)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.02)
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == (20 if macs < 1e8 else 56)


def test_the_wide_resnet8_has_twice_the_channels_on_half_the_resolution():
    model, x = resnet8_wide(7).eval(), torch.randn(2, 3, 32, 32)
    assert model.layer1(functional.relu(model.bn1(model.conv1(x)))).shape == (2, 32, 16, 16)
    assert model(x).shape == (2, 7)
    assert count_macs(model, x) == pytest.approx(12.0e6, rel=0.01)
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


def test_resnet18_for_small_images_keeps_their_size_in_its_first_group():
    model = resnet18(7).eval()
    x = torch.randn(2, 3, 32, 32)
    assert model.layer1(functional.relu(model.bn1(model.conv1(x)))).shape == (2, 64, 32, 32)
    assert model(x).shape == (2, 7)
    assert count_macs(model, x) == pytest.approx(0.556e9, rel=0.01)


@pytest.mark.parametrize("k", [2, 10])
def test_digits_network_has_four_blocks(k):
    model = digits(k).eval()
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, k)
    assert len(model.blocks) == 4


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="the pretrained networks are not here")
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_pretrained_weights_fit_to_the_last_name(name):
    model = build_model(f"exeunt.zoo:{name}", weights=WEIGHTS / f"{name}_cifar10.safetensors")
    model.load_state_dict(model.state_dict(), strict=True)
    assert model(torch.randn(2, 3, 32, 32)).isfinite().all()
