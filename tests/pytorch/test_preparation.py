from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from exeunt.data import Images, Preprocess
from exeunt.data.stored_inputs import PixelArray
from exeunt.errors import ArtefactError, InputError
from exeunt.runs.run_inputs import restore_preparation
from exeunt.torch.models.hugging_face import longest_text
from exeunt.torch.models.preparation import (
    fit_tokenizer,
    image_preparation,
    save_preparation,
    summarise_inputs,
    synthetic_inputs,
    text_preparation,
)


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


@pytest.fixture
def images():
    return Images(PixelArray(np.full((4, 10, 12, 3), 51, dtype=np.uint8), name=str))


LIBRARY = Preprocess(size=(6, 6), crop_share=0.5, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Preprocess(size=(10, 12), mean=(0.2,) * 3, std=(1.0,) * 3)),
        ({"size": 5}, Preprocess(size=(5, 5), mean=(0.2,) * 3, std=(1.0,) * 3)),
        ({"library": LIBRARY}, LIBRARY),
        ({"library": LIBRARY, "size": 5}, replace(LIBRARY, size=(5, 5))),
        (
            {"library": LIBRARY, "mean": (0.0,) * 3, "std": (1.0,) * 3},
            replace(LIBRARY, mean=(0.0,) * 3, std=(1.0,) * 3),
        ),
    ],
)
def test_what_is_given_goes_before_the_library_and_that_before_measuring(images, options, expected):
    assert image_preparation(images, **options) == expected


def test_what_the_network_takes_is_summarised_in_a_line(tokenizer):
    message = summarise_inputs(LIBRARY, synthetic_inputs(LIBRARY, 2))
    assert message == "images: 6x6-crop-0.5-bilinear, mean 0.1, 0.2, 0.3, std 0.4, 0.5, 0.6"
    example = synthetic_inputs(tokenizer, 2, length=7)
    assert summarise_inputs(tokenizer, example) == ("texts: costs are those of 7 tokens, the mean length")
    tokenizer.model_max_length = 9
    assert summarise_inputs(tokenizer, example).endswith("; texts of more than 9 are cut")
