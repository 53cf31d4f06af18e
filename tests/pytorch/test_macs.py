from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from exeunt.errors import InputError
from exeunt.torch.exits.multiply_adds import count_macs, cumulative_macs

torchvision = pytest.importorskip("torchvision")
models = torchvision.models


@pytest.mark.parametrize(
    ("build", "expected"),
    [(models.resnet18, 1.82e9), (models.convnext_tiny, 4.46e9), (models.vit_b_16, 17.6e9)],
)
def test_published_counts(build, expected):
    with torch.device("meta"):
        model = build()
    assert count_macs(model, torch.empty(1, 3, 224, 224, device="meta")) == pytest.approx(expected, rel=5e-3)


class Toy(nn.Module):
    """Two layers, one of them used twice, and one not at all."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.shared = nn.Linear(8, 8)
        self.idle = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

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


class LooksAtValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x) if bool((x > 0).all()) else self.linear(self.linear(x))


def test_a_model_that_looks_at_values_is_run_on_them():
    assert count_macs(LooksAtValues(), torch.ones(3, 4)) == 8


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
