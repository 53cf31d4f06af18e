from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from exeunt.torch import cut
from exeunt.torch.cutting.batch_norm_folding import folded_layers, folded_stages


class Branching(nn.Module):
    """One norm follows a convolution, one reads what is read elsewhere too, one stands alone."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.shared = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.alone = nn.BatchNorm2d(4, affine=False)
        norm = nn.BatchNorm2d(4, affine=False)
        self.last = nn.Sequential(nn.Conv2d(4, 4, 1), norm, nn.Flatten(), nn.LazyLinear(5))

    def forward(self, x):
        x = self.first(x)
        y = self.shared(x)
        return self.last(self.alone(y + self.norm(y)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Branching()
    with torch.no_grad():
        for _ in range(3):  # running averages that are not those of a new layer
            model(3 * torch.randn(8, 3, 6, 6) + 1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.normal_(layer.bias)
    return model.eval()


def norms(staged):
    names = [str(node.target) for stage in staged.stages for node in stage.body.graph.nodes]
    return sum("batch_norm" in name for name in names)


@torch.inference_mode()
def test_folded_stages_compute_the_same_without_the_norms_behind_convolutions(model):
    x = torch.randn(5, 3, 6, 6)
    before = copy.deepcopy(model.state_dict())
    staged = cut(model, x[:2], at=["first"])
    folded = folded_stages(staged, {})
    assert (norms(staged), norms(folded)) == (4, 2)
    assert torch.allclose(folded(x), model(x), atol=1e-5)
    assert torch.equal(staged(x), model(x))  # the model and its own stages are left as they were
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_not_folded_and_what_was_before_is_shared(model):
    known = {}
    cuts = (cut(model, torch.randn(2, 3, 6, 6), at=[name]) for name in ("first", "alone"))
    small, large = (folded_stages(one, known) for one in cuts)
    assert len(known) == 2
    tensors = {id(value) for value in small.parameters()}
    assert {id(value) for value in large.parameters()} == tensors
    assert id(model.shared.weight) in tensors
    assert id(model.first[0].weight) not in tensors


class Recurrent(nn.Module):
    """The first convolution with its norm is called again, then with another norm."""

    def __init__(self):
        super().__init__()
        self.shared, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3, eps=eps) for eps in (1e-5, 0.1, 1e-3))
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))

    def forward(self, x):
        first, second, third = self.norms
        x = first(self.shared(first(self.shared(x)).relu())).relu()
        return self.last(third(self.other(second(self.shared(x)))))


def test_layers_that_are_called_again_keep_their_weights():
    torch.manual_seed(0)
    model, x = Recurrent(), torch.randn(5, 3, 6, 6)
    with torch.no_grad():
        model(3 * x + 1)
        model.eval()
        known = {}
        for name in ("norms.0", "norms.1"):
            folded = folded_stages(cut(model, x[:2], at=[name]), known)
            assert torch.allclose(folded(x), model(x), atol=1e-5)
    assert len(known) == 3


def test_layers_in_sequence_are_folded_in_a_copy():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3), nn.LayerNorm(3))
    with torch.no_grad():
        layers(2 * torch.randn(50, 6) + 1)
    layers.eval()
    folded = folded_layers(layers)
    x = torch.randn(7, 6)
    assert torch.allclose(folded(x), layers(x), atol=1e-6)
    assert isinstance(folded[1], nn.Identity)
    assert isinstance(folded[4], nn.LayerNorm)
    assert isinstance(layers[1], nn.BatchNorm1d)
