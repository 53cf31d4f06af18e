from __future__ import annotations

import os
import pickle
import stat
from pathlib import Path

import pytest
import timm
import torch
import transformers
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import save_file
from torch import nn

from exeunt import zoo
from exeunt.errors import ArtefactError, InputError
from exeunt.torch import attach, build_model
from exeunt.torch.models.by_name import ModelSpec, build_model_and_report, check_model, runs_custom_code
from exeunt.torch.models.weights import load_weights, read_weights, save_weights
from exeunt.zoo import resnet20

SPEC = "exeunt.zoo:resnet20"
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def no_module():
    return "not a module"


def without_arguments():
    return nn.Linear(2, 3)


def by_another_word(num_classes, width=4, *, names=()):
    made = nn.Linear(width, num_classes)
    made.names = names
    return made


def trained():
    """Return a network whose weights are the same whatever the seed."""
    made = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    made.load_state_dict({name: torch.ones_like(value) for name, value in made.state_dict().items()})
    return made


def with_a_new_classifier():
    made = trained()
    made[2] = nn.Linear(4, 5)
    return made


def fails():
    raise KeyError("first line\nsecond line")


def test_names_of_libraries_and_of_this_packages_networks_run_no_custom_code():
    assert not any(map(runs_custom_code, ("torchvision:resnet18", "hf:x", SPEC)))
    others = ("DigitsNet", "functional.relu")
    more = ("exeunt.cli.app:main", "mine:net", "exeunted:net", "exeunt.torch.models.weights:read_weights")
    assert all(map(runs_custom_code, (*(f"exeunt.zoo:{name}" for name in others), *more)))


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:convnext_atto", SPEC])
def test_models_are_made_by_name_with_as_many_classes_as_asked_for(spec):
    model = build_model(spec, n_classes=7)
    assert not model.training
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_random_weights_follow_from_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    a, b, c = (build_model(SPEC, seed=seed).conv1.weight for seed in (3, 3, 4))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def tiny_text(folder: Path, *, weights: bool):
    sizes = SIZES | {"vocab_size": 30, "num_hidden_layers": 3, "max_position_embeddings": 16}
    config = transformers.BertConfig(**sizes, num_labels=4)
    model = transformers.BertForSequenceClassification(config)
    (model if weights else config).save_pretrained(folder)
    return model.eval()


def test_a_hugging_face_folder_brings_its_own_weights(tmp_path):
    original = tiny_text(tmp_path, weights=True)
    model = build_model(f"hf:{tmp_path}", n_classes=4)
    ids = torch.arange(12).reshape(2, 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(model(**batch).logits, original(**batch).logits)
    network = attach(model, batch, 2, verbose=False).eval()
    assert [x.shape for x in network(**batch)] == [(2, 4)] * 3
    assert torch.equal(network(**batch)[-1], original(**batch).logits)


def test_a_hugging_face_folder_without_weights_is_drawn_from_the_seed(tmp_path):
    tiny_text(tmp_path, weights=False)
    a, b = (build_model(f"hf:{tmp_path}", n_classes=6, seed=2).state_dict() for _ in range(2))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    assert a["classifier.weight"].shape == (6, 16)


def test_weights_of_a_hugging_face_folder_are_never_unpickled_nor_invented(tmp_path):
    tiny_text(tmp_path, weights=False)
    with pytest.raises(InputError, match="no weights in"):
        build_model(f"hf:{tmp_path}", weights="pretrained")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="pickled"):
        build_model(f"hf:{tmp_path}")


def test_an_image_classifier_is_told_from_a_text_classifier_and_names_a_new_classifier(tmp_path):
    config = transformers.ViTConfig(**SIZES, num_hidden_layers=1, image_size=8, patch_size=4, num_labels=3)
    config.save_pretrained(tmp_path / "alone")
    model = build_model(f"hf:{tmp_path / 'alone'}")
    assert model(torch.randn(2, 3, 8, 8)).logits.shape == (2, 3)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "headless")
    built = build_model_and_report(f"hf:{tmp_path / 'headless'}", n_classes=5, trained=True)
    assert (built.random, built.new_classifier) == ("", "classifier")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "torchvision:NAME"),
        ("torchvision:", "torchvision:NAME"),
        ("torchvision:resnet81", "resnet18"),
        ("timm:convnext_tinny", "convnext_tiny"),
        ("hf:./there/is/nothing", "no Hugging Face model"),
        ("nowhere.at.all:net", "no module"),
        ("exeunt.zoo:resnet999", "no function 'resnet999'; it has resnet"),
        (f"{__name__}:no_modul", "no_module"),
        (f"{__name__}:fails", r"cannot be built: KeyError: 'first line\\nsecond line'"),
        (f"{__name__}:by_another_word?widht=3", "cannot be built: TypeError: .*widht"),
        ("timm:convnext_atto?depth=3", "cannot be built: TypeError: .*depth"),
        ("timm:convnext_atto?img_size", "NAME[?]ARGUMENT=VALUE"),
        ("timm:convnext_atto?num_classes=3", "leave num_classes out"),
        ("timm:convnext_atto?pretrained=True", "leave pretrained out"),
        ("timm:convnext_atto?checkpoint_path=/tmp/x", "must be numbers, got checkpoint_path='/tmp/x'"),
        (f"{__name__}:no_module", "must return"),
    ],
)
def test_names_that_do_not_exist_are_refused_with_the_nearest_ones(spec, message):
    with pytest.raises(InputError, match=message):
        build_model(spec)


@pytest.mark.parametrize(("name", "width", "n"), [("without_arguments", 2, 3), ("by_another_word", 4, 9)])
def test_a_factory_of_ones_own_may_take_no_arguments_or_another_word_for_classes(name, width, n):
    assert build_model(f"{__name__}:{name}", n_classes=9)(torch.zeros(1, width)).shape == (1, n)


def test_keyword_arguments_follow_a_question_mark():
    made = build_model(f"{__name__}:by_another_word?width=6&names=('a', 2)", n_classes=3)
    assert made(torch.zeros(1, 6)).shape == (1, 3)
    assert made.names == ("a", 2)
    assert ModelSpec.parse("m:f?a=1&b=0.5&c=true&d=None&e=text&f=x=y").options == {
        "a": 1, "b": 0.5, "c": True, "d": None, "e": "text", "f": "x=y"
    }  # fmt: skip
    vit = build_model("timm:vit_tiny_patch16_224?img_size=32&depth=2", n_classes=4)
    assert (len(vit.blocks), vit(torch.zeros(2, 3, 32, 32)).shape) == (2, (2, 4))
    narrow = build_model("torchvision:mobilenet_v2?width_mult=0.25", n_classes=4)
    assert narrow.features[0][0].out_channels == 8


def test_a_module_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no module 'needs_more' .*`python -m exeunt` finds those in this"):
        build_model("needs_more:net")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"built: ModuleNotFoundError: .*a_package_that_is_not_there"):
        build_model("needs_more:net")


@pytest.mark.parametrize(
    ("code", "message"), [("import sys; sys.exit('no')", "SystemExit: no"), ("1 / 0", "ZeroDiv")]
)
def test_a_module_that_fails_when_it_is_imported_is_told(tmp_path, monkeypatch, code, message):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"mod_{message[:4].lower()}.py").write_text(code)
    for attempt in (build_model, lambda spec: check_model(spec, None)):
        with pytest.raises(InputError, match=f"cannot be built: {message}"):
            attempt(f"mod_{message[:4].lower()}:net")


@pytest.mark.parametrize("name", [n for n in zoo.__all__ if n.islower()])
def test_every_network_of_this_package_is_built_without_being_trusted_by_name(name):
    assert not runs_custom_code(f"exeunt.zoo:{name}")
    assert isinstance(build_model(f"exeunt.zoo:{name}", n_classes=3), nn.Module)


# -- nothing untrained under heads alone ----------------------------------------------------------------


@pytest.mark.parametrize("spec", [SPEC, "torchvision:resnet18", "timm:convnext_atto"])
def test_a_random_network_is_refused_where_a_trained_one_is_asked_for(spec, tmp_path):
    with pytest.raises(InputError, match=r"every part of .* random .*--weights .*--mode joint"):
        build_model(spec, n_classes=4, trained=True)
    save_file(build_model(spec, n_classes=4, seed=5).state_dict(), str(tmp_path / "w.safetensors"))
    build_model(spec, n_classes=4, trained=True, weights=tmp_path / "w.safetensors")


def test_a_factory_of_ones_own_may_load_weights_itself():
    build_model(f"{__name__}:trained", trained=True)
    with pytest.raises(InputError, match=r"every part of .*without_arguments' would have random weights"):
        build_model(f"{__name__}:without_arguments", trained=True)
    with pytest.raises(InputError, match=r"a part \(2.weight\) of .*_classifier' would have random weights"):
        build_model(f"{__name__}:with_a_new_classifier", trained=True)


def test_a_text_network_without_a_trained_classifier_is_an_encoder(tmp_path, capfd):
    original = tiny_text(tmp_path / "whole", weights=True)
    kept = build_model(f"hf:{tmp_path / 'whole'}", n_classes=4, trained=True)
    assert type(kept) is transformers.BertForSequenceClassification
    original.bert.save_pretrained(tmp_path / "headless")
    capfd.readouterr()
    before = transformers.logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    for folder, n_classes in (("whole", 7), ("headless", 4)):
        found = build_model(f"hf:{tmp_path / folder}", n_classes=n_classes, trained=True)
        assert type(found) is transformers.BertModel
        assert found.pooler is None
        words, given = (one.embeddings.word_embeddings.weight for one in (found, original.bert))
        assert torch.equal(words, given)
    assert capfd.readouterr().err == ""  # no bar of the library's, and `train` reports what is new
    assert before == (transformers.logging.is_progress_bar_enabled(), are_progress_bars_disabled())
    tiny_text(tmp_path / "alone", weights=False)
    with pytest.raises(InputError, match="every part"):
        build_model(f"hf:{tmp_path / 'alone'}", trained=True)


def test_a_hugging_face_model_is_refused_where_a_layer_of_it_is_random(tmp_path):
    original = tiny_text(tmp_path / "whole", weights=True)
    kept = {name: x for name, x in original.state_dict().items() if "encoder.layer.0.output" not in name}
    save_file(kept, str(tmp_path / "whole" / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"a part \(bert\.encoder\.layer\.0\.output"):
        build_model(f"hf:{tmp_path / 'whole'}", trained=True)


def test_a_new_classifier_on_pretrained_weights_is_named(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    build_model("timm:convnext_atto", n_classes=1000, weights="pretrained", trained=True)
    built = build_model_and_report("timm:convnext_atto", n_classes=4, weights="pretrained", trained=True)
    assert (built.random, built.new_classifier) == ("", "head.fc")


# -- weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["safetensors", "plain", "nested", "parallel"])
def test_weights_are_read_in_the_usual_forms(tmp_path, form):
    torch.manual_seed(5)
    state = resnet20(4).state_dict()
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(state, str(file))
    elif form == "parallel":
        torch.save({f"module.{name}": value for name, value in state.items()}, file)
    else:
        torch.save(state if form == "plain" else {"state_dict": state, "epoch": 3}, file)
    model = build_model(SPEC, n_classes=4, weights=file)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_batch_counters_may_be_missing_and_nothing_else(tmp_path):
    state = {k: v for k, v in resnet20().state_dict().items() if not k.endswith("num_batches_tracked")}
    file = tmp_path / "w.safetensors"
    save_file(state, str(file))
    build_model(SPEC, weights=file)
    del state["linear.bias"]
    save_file(state, str(file))
    with pytest.raises(InputError, match=r"lacks linear\.bias"):
        build_model(SPEC, weights=file)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": "w.safetensors"}, "has more, which the model does not"),
        ({"weights": "w.safetensors", "n_classes": 4}, r"linear\.weight has shape \(10, 64\), .*\(4, 64\)"),
        ({"weights": "absent.pt"}, "no weights file"),
        ({"weights": "pretrained"}, "no pretrained weights"),
    ],
)
def test_weights_of_another_network_are_refused_by_name_and_shape(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    save_file({**resnet20().state_dict(), "more": torch.zeros(1)}, "w.safetensors")
    with pytest.raises(InputError, match=said):
        build_model(SPEC, **options)


@pytest.mark.parametrize("spec", ["exeunt.zoo:digits", "torchvision:resnet18"])
def test_without_a_number_of_classes_the_weights_say_it(tmp_path, spec):
    torch.save(build_model(spec, n_classes=7).state_dict(), tmp_path / "seven.pt")
    built = build_model(spec, weights=tmp_path / "seven.pt")
    assert built(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_weights_files_cannot_run_code_and_damaged_ones_are_refused(tmp_path):
    marker, file = tmp_path / "ran", tmp_path / "w.pt"

    class Evil:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({"a": Evil()}, file)
    with pytest.raises(ArtefactError, match="state_dict"):
        read_weights(file)
    assert not marker.exists()
    for content in (b"", b"nonsense", pickle.dumps([1, 2], protocol=2)):
        for name in ("w.pt", "w.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ArtefactError):
                read_weights(tmp_path / name)
    torch.save({"a": 3}, file)
    with pytest.raises(ArtefactError, match="no named tensors"):
        read_weights(file)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_weights_are_as_readable_as_any_other_file(tmp_path, umask):
    before, file = os.umask(umask), tmp_path / "w.safetensors"
    saved, loaded = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    try:
        save_weights(saved, file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask
    assert list(tmp_path.iterdir()) == [file]
    load_weights(loaded, file)
    assert torch.equal(saved.weight, loaded.weight)
