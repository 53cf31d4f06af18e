"""Networks whose classifier is new: encoders without one, and layers that a library put behind trained weights."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader
from training_job import data, same

from exeunt.errors import InputError
from exeunt.torch import attach, train
from exeunt.torch.training.recipe import make_optimiser, make_recipe

MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
IDS = torch.tensor([[4, 5, 6, 0, 0], [7, 8, 9, 4, 5], [6, 0, 0, 0, 0]])
BATCH = {"input_ids": IDS, "attention_mask": MASK}


def encoder():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 10}
    config = transformers.BertConfig(**sizes, num_hidden_layers=2)
    return transformers.BertModel(config, add_pooling_layer=False).eval()


class Images(nn.Module):
    """A stem, blocks, and a classifier on their maxima."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        convolutions = (nn.Conv2d(channels, 4, 3, padding=1) for channels in (1, 4, 4))
        self.blocks = nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in convolutions))
        self.norm, self.classifier = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.norm(self.blocks(x).amax((2, 3))))


def images(**options):
    return attach(Images().eval(), data().tensors[0][:2], 2, verbose=False, hidden=8, **options)


def test_an_encoder_gets_a_classifier_that_reads_the_tokens_that_count_and_is_rebuilt_from_its_config():
    exits = ["bert.encoder.layer.0"]  # as in the library's own classifiers
    network = attach(encoder(), BATCH, exits, head="mean", n_classes=3, verbose=False, seed=1).eval()
    assert network.exit_names == exits
    assert network.new_classifier == "classifier"
    hidden = encoder()(**BATCH).last_hidden_state
    means = torch.stack([row[: int(mask.sum())].mean(0) for row, mask in zip(hidden, MASK, strict=True)])
    torch.testing.assert_close(network(**BATCH)[-1], network.backbone.classifier.body(means))
    assert "(new classifier)" in network.describe()
    again = attach(encoder(), BATCH, verbose=False, check=False, **network.config()).eval()
    again.load_state_dict(network.state_dict())
    for a, b in zip(again(**BATCH), network(**BATCH), strict=True):
        assert torch.equal(a, b)


class StemAndTokens(nn.Module):
    """An encoder (n, t, d) whose first features are a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 2, 2)
        self.block = nn.Sequential(nn.Linear(16, 16), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.stem(x).flatten(2).transpose(1, 2))


def test_an_encoder_with_feature_maps_and_tokens_gets_heads_for_both():
    images = torch.randn(2, 3, 8, 8)
    network = attach(StemAndTokens(), images, ["encoder.stem"], n_classes=3, verbose=False)
    assert {network.options.head, network.backbone.classifier.options.head} == {"grid"}
    again = attach(StemAndTokens(), images, verbose=False, **network.config())
    again.load_state_dict(network.state_dict())
    with pytest.raises(InputError, match="'statistics' reads tokens"):
        attach(StemAndTokens(), images, ["encoder.stem"], head="statistics", n_classes=3, verbose=False)


def test_an_encoder_needs_to_know_its_classes_and_a_classifier_gives_the_logits():
    with pytest.raises(InputError, match=r"no logits: say how many classes .*n_classes"):
        attach(encoder(), BATCH, 1, verbose=False)
    with pytest.raises(InputError, match="'norm' does not give the network's logits"):
        images(new_classifier="norm")


@pytest.mark.parametrize("cache", [True, False])
def test_frozen_trains_a_new_classifier_and_leaves_the_rest_to_the_last_bit(cache):
    network = images(new_classifier="classifier")
    before = copy.deepcopy(network.backbone)
    loader = DataLoader(data(), batch_size=40, shuffle=True)
    history = train(network, loader, epochs=12, batch_size=40, cache=cache, device="cpu", progress=False)
    assert same(network.backbone.blocks, before.blocks)
    assert same(network.backbone.norm, before.norm)
    assert not same(network.backbone.classifier, before.classifier)
    assert history.epochs[0].train_loss[-1] > history.last.train_loss[-1]
    assert not network.training


def test_training_on_a_cache_equals_training_through_the_backbone():
    loader, recipe = DataLoader(data(), batch_size=240), {"epochs": 2, "learning_rate": 0.01, "device": "cpu"}
    cached, direct = (images(new_classifier="classifier") for _ in range(2))
    for network, cache in ((cached, True), (direct, False)):
        train(network, loader, batch_size=240, cache=cache, progress=False, **recipe)
    for a, b in zip(cached.parameters(), direct.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-3)


def test_a_new_classifier_learns_at_the_rate_of_the_heads():
    network = images(new_classifier="classifier")
    recipe = make_recipe(
        mode="joint", epochs=1, optimiser="adamw", learning_rate=1.0, schedule="constant", warm_up=0.25,
        weight_decay=0.1, momentum=0.9, distill_weight=0.5, temperature=2.0, teacher="self",
        smoothing=0.0, backbone_rate=0.25, precision="fp32", seed=0,
    )  # fmt: skip
    groups = make_optimiser(network, recipe).param_groups
    scale = {id(p): group["scale"] for group in groups for p in group["params"]}
    backbone = {f"backbone.{name}" for name, _ in network.backbone.named_parameters()}
    learns = {"backbone.classifier.weight", "backbone.classifier.bias"}
    for name, parameter in network.named_parameters():
        assert scale[id(parameter)] == (0.25 if name in backbone - learns else 1.0), name
