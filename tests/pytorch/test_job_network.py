"""The options that a network gets without any being given, and those that are; what has seen the training data."""

from __future__ import annotations

from functools import cache

import pytest
import timm
import torch
import transformers
from torch import nn

from exeunt.errors import InputError
from exeunt.torch import attach
from exeunt.torch.training.job import TrainingJob
from exeunt.torch.training.job_network import made_of, settings_for

SMALL = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 10}


class Convolutions(nn.Module):
    """A convolutional network with the norms of ResNets (batch) or those of ConvNeXt (layer)."""

    def __init__(self, *, batch_norm: bool) -> None:
        super().__init__()
        norms = (nn.BatchNorm2d(4) if batch_norm else nn.GroupNorm(1, 4) for _ in range(3))
        convolutions = (nn.Conv2d(width, 4, 3, padding=1) for width in (3, 4, 4))
        layers = zip(convolutions, norms, strict=True)
        self.blocks = nn.Sequential(*(nn.Sequential(one, norm, nn.ReLU()) for one, norm in layers))
        self.norm = nn.Identity() if batch_norm else nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(x).mean((2, 3))))


@cache
def convolutional(*, batch_norm=True):
    model = Convolutions(batch_norm=batch_norm).eval()
    return attach(model, torch.zeros(2, 3, 8, 8), 2, verbose=False)


@cache
def text():
    config = transformers.BertConfig(**SMALL, num_hidden_layers=2)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    ids = torch.full((2, 4), 5)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return attach(model, batch, 1, n_classes=3, verbose=False)


def settings(network, recipe=None, *, trained=True, **options):
    job = TrainingJob(model="exeunt.zoo:resnet20", data="any", recipe=recipe or {}, **options)
    inputs = "text" if network.new_classifier else "image"
    return settings_for(job, network, inputs=inputs, trained=trained)


SGD = {
    "epochs": 20, "optimiser": "sgd", "learning_rate": 0.1, "schedule": "one_cycle", "weight_decay": 5e-4,
    "momentum": 0.9, "precision": "fp32",
}  # fmt: skip


def test_networks_with_batch_norm_have_what_was_measured_on_cifar():
    network = convolutional()
    assert (network.options.head, network.options.hidden, network.options.norm) == ("grid", 128, "batch")
    frozen = settings(network)
    assert (frozen.recipe, frozen.batch_size, frozen.heads_first) == ({**SGD, "backbone_rate": 1.0}, 256, 0)
    assert frozen.run_size == 128
    assert settings(network, augment="crop-flip").batch_size == 128
    tuned = settings(network, {"mode": "joint"})
    assert tuned.recipe == {**SGD, "mode": "joint", "backbone_rate": 0.05, "teacher": "original"}
    assert (tuned.heads_first, tuned.heads_recipe["optimiser"], tuned.batch_size) == (10, "sgd", 128)
    scratch = settings(network, {"mode": "joint"}, trained=False)
    assert scratch.recipe == {**SGD, "mode": "joint", "backbone_rate": 1.0}
    assert scratch.heads_first == 0


def test_heads_on_tokens_have_a_hidden_layer_and_descend_with_adamw():
    network = text()
    options, frozen = network.options, settings(network)
    assert (options.head, options.hidden, options.norm) == ("statistics", 256, "batch")
    assert (frozen.recipe["optimiser"], frozen.recipe["learning_rate"]) == ("adamw", 2e-3)
    assert frozen.heads_first == 0
    tuned = settings(network, {"mode": "joint"})
    assert (tuned.heads_first, tuned.heads_recipe["optimiser"]) == (10, "adamw")
    assert tuned.recipe["learning_rate"] * tuned.recipe["backbone_rate"] == pytest.approx(9e-5)


def test_an_encoder_that_is_tuned_learns_from_labels():
    tuned = settings(text(), {"mode": "joint"})
    assert tuned.batch_size == 32
    assert "teacher" not in tuned.recipe  # the network as given has no classifier to learn from


def test_a_new_classifier_that_has_not_learned_does_not_teach():
    recipe = {"mode": "distill", "teacher": "original"}
    assert settings(text(), recipe).heads_first == 10
    with pytest.raises(InputError, match="its classifier is new"):
        settings(text(), recipe, heads_first=0)
    assert settings(text(), {"mode": "distill"}, heads_first=0).heads_first == 0
    assert settings(convolutional(), recipe, heads_first=0).recipe["teacher"] == "original"


def test_layer_norms_train_with_adamw():
    network = convolutional(batch_norm=False)
    assert settings(network, {"mode": "joint"}, trained=False).recipe["optimiser"] == "adamw"
    assert settings(network).recipe["optimiser"] == "sgd"  # its heads are those of feature maps
    assert made_of(network.backbone) == ["layer norm"]


def test_an_option_wins_and_another_optimiser_has_rates_of_its_own():
    given = {"mode": "joint", "optimiser": "adamw", "epochs": 3}
    found = settings(convolutional(), given, heads_first=2, batch_size=8)
    assert found.recipe == {**given, "schedule": "one_cycle", "backbone_rate": 0.05, "teacher": "original",
                            "precision": "fp32"}  # fmt: skip
    assert (found.heads_first, found.batch_size, found.run_size) == (2, 8, 8)
    assert settings(convolutional(), batch_size=8).batch_size == 8


SWIN = {"window_size": 2, "depths": (2, 2), "num_heads": (3, 6)}


@pytest.mark.parametrize(
    ("name", "options", "kind", "frozen"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 8, "depth": 3, "embed_dim": 24}, "statistics", "adamw"),
        pytest.param("swin_tiny_patch4_window7_224", SWIN, "grid", "sgd", marks=pytest.mark.slow),
    ],
)
def test_vision_transformers_train_with_adamw_and_have_heads_by_their_features(name, options, kind, frozen):
    model = timm.create_model(name, img_size=32, num_classes=3, **options).eval()
    network = attach(model, torch.zeros(2, 3, 32, 32), 2, verbose=False)
    assert network.options.head == kind
    assert not network.runs_whole
    assert settings(network).recipe["optimiser"] == frozen
    scratch = settings(network, {"mode": "joint"}, trained=False)
    assert (scratch.recipe["optimiser"], scratch.batch_size) == ("adamw", 128)
    assert scratch.network == "attention, layer norm; new weights"


def test_what_a_network_is_made_of():
    network = text()  # the classifier that it gets has a batch norm
    assert made_of(network.backbone, apart_from="classifier") == ["attention", "layer norm"]
    assert made_of(Convolutions(batch_norm=True)) == ["batch norm"]
    assert made_of(nn.Linear(2, 2)) == []
    said = settings(network).describe()
    assert said.startswith("attention, layer norm; trained weights: epochs 20, optimiser adamw")


@pytest.fixture
def folders(tmp_path):
    config = transformers.BertConfig(**SMALL, num_hidden_layers=1)
    config.save_pretrained(tmp_path / "alone")
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "trained")
    return tmp_path


@pytest.mark.parametrize(
    ("model", "options", "seen"),
    [
        ("exeunt.zoo:digits", {}, False),
        ("exeunt.zoo:digits", {"weights": "w.pt"}, True),
        ("exeunt.zoo:digits", {"weights": "w.pt", "pretrained": False}, False),
        ("timm:convnext_atto", {}, False),
        ("hf:{}/alone", {}, False),
        ("hf:{}/alone", {"pretrained": True}, True),
        ("hf:{}/trained", {}, True),
        ("hf:{}/trained", {"pretrained": False}, False),
        ("hf:on/the-hub", {}, True),
    ],
)
def test_trained_weights_have_seen_the_training_data_unless_said_otherwise(folders, model, options, seen):
    job = TrainingJob(model=model.format(folders), data="any", **options)
    assert job.has_seen_training_data is seen
