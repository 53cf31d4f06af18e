from __future__ import annotations

import pytest
import torch
import transformers

from exeunt.errors import InputError
from exeunt.torch.training.job import TrainingJob
from exeunt.torch.training.run import run_training
from exeunt.zoo import DigitsNet


def random(n_classes: int) -> DigitsNet:
    return DigitsNet(n_classes)


def the_same_every_time(n_classes: int) -> DigitsNet:
    torch.manual_seed(0)
    return DigitsNet(n_classes)


@pytest.fixture
def folders(tmp_path):
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
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


@pytest.mark.parametrize("model", ["exeunt.zoo:digits", f"{__name__}:random"])
def test_heads_alone_are_not_trained_on_a_random_network(tmp_path, model):
    pytest.importorskip("sklearn")
    job = TrainingJob(model=model, data="sklearn:digits", exits=1, recipe={"epochs": 1})
    with pytest.raises(InputError, match="random weights"):
        run_training(job, tmp_path / "run", command="test", say=lambda _: None, progress=False)
    assert not (tmp_path / "run").exists()


def test_whoever_trains_heads_alone_on_a_network_of_ones_own_is_told_that_it_must_be_trained(tmp_path):
    pytest.importorskip("sklearn")
    said: list[str] = []
    model = f"{__name__}:the_same_every_time"
    job = TrainingJob(model=model, data="sklearn:digits", exits=1, recipe={"epochs": 1})
    run_training(job, tmp_path / "run", command="test", say=said.append, progress=False)
    assert any(f"{model} must return a trained network" in line for line in said)
