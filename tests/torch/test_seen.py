from __future__ import annotations

import pytest
import transformers

from exeunt.torch.project import Project


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
        ("exeunt.torch.zoo:digits", {}, False),
        ("exeunt.torch.zoo:digits", {"weights": "w.pt"}, True),
        ("exeunt.torch.zoo:digits", {"weights": "w.pt", "pretrained": False}, False),
        ("timm:convnext_atto", {}, False),
        ("hf:{}/alone", {}, False),
        ("hf:{}/alone", {"pretrained": True}, True),
        ("hf:{}/trained", {}, True),
        ("hf:{}/trained", {"pretrained": False}, False),
        ("hf:on/the-hub", {}, True),
    ],
)
def test_trained_weights_have_seen_the_training_data_unless_said_otherwise(folders, model, options, seen):
    project = Project(model=model.format(folders), data="any", **options)
    assert project.has_seen_training_data is seen
