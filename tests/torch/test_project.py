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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": {"mode": "jiont"}}, "mode 'jiont' is not known"),
        ({"recipe": {"schedule": "linear"}}, "schedule 'linear' is not known"),
        ({"recipe": {"momentun": 0.9}}, "do not exist: momentun"),
        ({"recipe": {"exit_weights": "first"}}, "exit_weights 'first' is not known"),
        ({"recipe": {"exit_weights": (1.0, 1.0)}}, "exit_weights must be 3 finite numbers"),
        ({"exits": ("blocks.1",), "recipe": {"exit_weights": (1.0, 1.0, 1.0)}}, "must be 2 finite numbers"),
        ({"augment": "crop"}, "augment must be one of none"),
        ({"head": {"head": "gird"}}, "gird"),
        ({"model": "exeunt.torch.zoo:digit"}, "digit"),
        ({"exits": ("blocks.9",)}, r"blocks\.9"),
    ],
)
def test_a_typo_leaves_no_folder_behind(small, tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        run(replace(small, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("package", ["lightning_fabric", "safetensors"])
def test_a_missing_package_is_told_before_any_work(small, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(module, "open_source", None)
    with pytest.raises(MissingExtra, match=package):
        run(small, tmp_path / "run")
