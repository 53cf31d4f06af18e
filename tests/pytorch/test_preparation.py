"""How texts and images are prepared for a network, as its library does, and in which order its classes are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from torchvision.models import get_model_weights
from transformers import BertConfig, BertForSequenceClassification

from exeunt.data import Images, Preprocess
from exeunt.data.stored_inputs import PixelArray
from exeunt.errors import ArtefactError, InputError
from exeunt.runs.run_inputs import load_preparation, restore_preparation
from exeunt.torch.models.by_name import known_class_names
from exeunt.torch.models.hugging_face import longest_text
from exeunt.torch.models.image_libraries import library_preprocess
from exeunt.torch.models.preparation import (
    fit_tokenizer,
    image_preparation,
    save_preparation,
    summarise_inputs,
    synthetic_inputs,
    text_preparation,
)
from exeunt.torch.models.weights import check_class_order
from exeunt.torch.training import job_network as module
from exeunt.torch.training.job import TrainingJob
from exeunt.torch.training.run import run_training


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood")
    return transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))


@pytest.mark.parametrize("length", [3, 17])
def test_a_tokeniser_and_its_length_come_back(tokenizer, tmp_path, length):
    run = tmp_path / "run"
    described = save_preparation(tokenizer, run, synthetic_inputs(tokenizer, 2, length=length))
    back = restore_preparation(described, run)
    assert back("good") == tokenizer("good")
    tokens = synthetic_inputs(back, 5, length=described["length"])
    assert {value.shape for value in tokens.values()} == {(5, length)}
    assert tokens["attention_mask"].all()


def test_images_come_back_with_their_size(tmp_path):
    prepare = Preprocess(size=(6, 9))
    example = synthetic_inputs(prepare, 2)
    back = restore_preparation(save_preparation(prepare, tmp_path, example), tmp_path)
    assert back == prepare
    assert torch.equal(synthetic_inputs(back, 2), example)


@pytest.mark.parametrize("name", ["..", "../other", "{}/other", "link", "absent", 3, None])
def test_a_run_folder_cannot_name_a_tokeniser_outside_it(tokenizer, tmp_path, name):
    run = tmp_path / "run"
    save_preparation(tokenizer, tmp_path / "other", synthetic_inputs(tokenizer, 2, length=4))
    run.mkdir()
    (run / "link").symlink_to(tmp_path / "other", target_is_directory=True)
    given = name.format(tmp_path) if isinstance(name, str) else name
    with pytest.raises(ArtefactError, match="must be in a folder of"):
        restore_preparation({"kind": "text", "folder": given, "length": 4}, run)


def test_texts_need_a_hugging_face_model_with_a_tokeniser(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no tokeniser"):
        text_preparation(f"hf:{tmp_path}")
    with pytest.raises(InputError, match="Hugging Face"):
        text_preparation("timm:resnet18")


SMALL = {
    "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8,
    "max_position_embeddings": 12,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "takes"), [("Bert", 12), ("Roberta", 10), ("MPNet", 10)])
def test_the_longest_text_is_one_that_the_model_runs(kind, takes):
    """RoBERTa and its kin number positions from 2 on."""
    config = getattr(transformers, f"{kind}Config")(**SMALL)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    assert longest_text(model) == takes
    model(input_ids=torch.full((1, takes), 5))
    with pytest.raises((RuntimeError, IndexError)):
        model(input_ids=torch.full((1, takes + 1), 5))
    assert longest_text(torch.nn.Linear(2, 2)) is None


@pytest.mark.parametrize(("own", "expected"), [(None, 12), (7, 7), (512, 12)])
def test_texts_are_cut_to_what_model_and_tokeniser_take(tokenizer, tmp_path, own, expected):
    if own is not None:
        tokenizer.model_max_length = own
    tokenizer.save_pretrained(tmp_path / "model")
    transformers.BertConfig(**SMALL).save_pretrained(tmp_path / "model")
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL))
    prepared = text_preparation(f"hf:{tmp_path / 'model'}")
    fit_tokenizer(prepared, model)
    entry = save_preparation(prepared, tmp_path / "run", synthetic_inputs(prepared, 2, length=4))
    assert entry["longest"] == expected
    back = restore_preparation(entry, tmp_path / "run")
    assert len(back("good " * 60, truncation=True)["input_ids"]) == expected


PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
LIBRARY = Preprocess(size=(6, 6), crop_share=0.5, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Preprocess(size=(10, 12), mean=(0.2,) * 3, std=(1.0,) * 3)),
        ({"size": 5}, Preprocess(size=(5, 5), mean=(0.2,) * 3, std=(1.0,) * 3)),
        ({"library": LIBRARY}, LIBRARY),
        ({"library": LIBRARY, "size": 5}, replace(LIBRARY, size=(5, 5))),
        ({"library": LIBRARY, **PLAIN}, replace(LIBRARY, **PLAIN)),
    ],
)
def test_what_is_given_goes_before_the_library_and_that_before_measuring(options, expected):
    images = Images(PixelArray(np.full((4, 10, 12, 3), 51, dtype=np.uint8), name=str))
    assert image_preparation(images, **options) == expected


def test_what_the_network_takes_is_summarised_in_a_line(tokenizer):
    message = summarise_inputs(LIBRARY, synthetic_inputs(LIBRARY, 2))
    assert message == "images: 6x6-crop-0.5-bilinear, mean 0.1, 0.2, 0.3, std 0.4, 0.5, 0.6"
    example = synthetic_inputs(tokenizer, 2, length=7)
    assert summarise_inputs(tokenizer, example) == ("texts: costs are those of 7 tokens, the mean length")
    tokenizer.model_max_length = 9
    assert summarise_inputs(tokenizer, example).endswith("; texts of more than 9 are cut")


@pytest.fixture
def picture():
    """A smooth picture, so that two resizers can be compared."""
    y, x = np.mgrid[:300, :420] / 60
    pixels = np.stack([np.sin(x + y), np.cos(x - y), np.sin(2 * x)], axis=-1)
    return Image.fromarray(((pixels + 1) * 127).astype(np.uint8))


def as_timm_does(name):
    given = timm.get_pretrained_cfg(name).to_dict()
    return timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=given))


@pytest.mark.parametrize(
    "spec",
    [
        *[f"torchvision:{name}" for name in ("resnet18", "vit_b_16", "inception_v3", "swin_v2_t")],
        *[f"timm:{name}" for name in ("convnext_atto", "resnet18.a1_in1k", "vit_base_patch16_clip_224")],
    ],
)
def test_pictures_look_as_the_library_makes_them(picture, spec):
    library, name = spec.split(":")
    of_torchvision = library == "torchvision"
    transform = get_model_weights(name).DEFAULT.transforms() if of_torchvision else as_timm_does(name)
    prepare, theirs = library_preprocess(spec), transform(picture)
    ours = torch.from_numpy(prepare.normalise(prepare.resize(picture)))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < 0.04  # some two grey levels: the crop may start a pixel beside


@pytest.mark.parametrize(
    "spec", ["hf:some/model", "exeunt.zoo:digits", "timm:none_such", "torchvision:none_such",
             "torchvision:raft_small"],
)  # fmt: skip
def test_nothing_is_invented_where_no_library_says(spec):
    assert library_preprocess(spec) is None


def test_a_run_on_pretrained_weights_prepares_images_as_the_library_does(tmp_path, monkeypatch, picture):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    prepare = Preprocess(size=(32, 32), crop_share=0.5, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    monkeypatch.setattr(module, "library_preprocess", lambda _: prepare)
    for part, n in (("train", 4), ("test", 6)):
        for k in range(2):
            (tmp_path / "data" / part / f"class{k}").mkdir(parents=True)
            for i in range(n):
                picture.rotate(10 * i + 5 * k + n).save(tmp_path / "data" / part / f"class{k}" / f"{i}.png")
    lines: list[str] = []
    run = run_training(
        TrainingJob(
            model="timm:convnext_atto?depths=(1,1,1,1)&dims=(8,8,8,8)", weights="pretrained",
            data=str(tmp_path / "data"), exits=1, batch_size=4,
            recipe={"mode": "joint", "epochs": 1}, fit=4, calibrate=4,
        ),
        tmp_path / "run", command="test", say=lines.append, progress=False,
    )  # fmt: skip
    assert load_preparation(run) == prepare
    assert any("32x32-crop-0.5-bilinear, mean 0.1, 0.2, 0.3, std 0.4, 0.5, 0.6" in line for line in lines)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (["cat", "dog"], ("Cat", "DOG")),
        (["tench, Tinca tinca", "great white shark"], ("tench", "great_white-shark")),
        (["LABEL_0", "LABEL_1"], ("cat", "dog")),
        (["cat", "dog"], ("0", "1")),
        (["tench", "goldfish"], ("n01440764", "n01443537")),
        (None, ("cat", "dog")),
        (["cat", "dog"], None),
    ],
)
def test_orders_that_agree_or_say_nothing_pass(model, data):
    check_class_order(model, data)


@pytest.mark.parametrize(
    ("model", "data", "first"),
    [
        (["dog", "cat"], ("cat", "dog"), "first 0:"),
        (["a", "c", "b"], ("a", "b", "c"), "first 1:"),
        (["negative", "positive"], ("neg", "pos"), "first 0:"),
        ([f"c {i}" for i in range(1000)], tuple(f"c {i}" for i in reversed(range(1000))), "and 990 more"),
    ],
)
def test_another_order_is_refused_showing_both(model, data, first):
    with pytest.raises(InputError, match=first) as caught:
        check_class_order(model, data)
    for names in (model, data):
        assert ", ".join(names[:10]) in str(caught.value)


def test_names_are_those_of_the_weights_in_use():
    config = BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        id2label={i: f"word {i}" for i in range(11)},
    )  # fmt: skip
    text = BertForSequenceClassification(config)
    assert known_class_names("hf:any", text, pretrained=False) == [f"word {i}" for i in range(11)]
    shown = get_model_weights("resnet18").DEFAULT.meta["categories"]
    assert known_class_names("torchvision:resnet18", text, pretrained=True) == shown
    assert known_class_names("torchvision:resnet18", text, pretrained=False) is None
    assert known_class_names("timm:resnet18", text, pretrained=True) is None
