from __future__ import annotations

import pytest
import torch
import transformers

from exeunt.data import Preprocess
from exeunt.errors import ArtefactError, InputError
from exeunt.torch.inputs import describe_inputs, prepare_texts, restore_inputs, synthetic_inputs


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood")
    return transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))


@pytest.mark.parametrize("length", [3, 17])
def test_a_tokeniser_and_its_length_come_back(tokenizer, tmp_path, length):
    bundle = tmp_path / "run"
    described = describe_inputs(tokenizer, bundle, synthetic_inputs(tokenizer, 2, length=length))
    back = restore_inputs(described, bundle)
    assert back("good") == tokenizer("good")
    tokens = synthetic_inputs(back, 5, length=described["length"])
    assert {value.shape for value in tokens.values()} == {(5, length)}
    assert tokens["attention_mask"].all()


def test_images_come_back_with_their_size(tmp_path):
    prepare = Preprocess(size=(6, 9))
    example = synthetic_inputs(prepare, 2)
    back = restore_inputs(describe_inputs(prepare, tmp_path, example), tmp_path)
    assert back == prepare
    assert torch.equal(synthetic_inputs(back, 2), example)


@pytest.mark.parametrize("name", ["..", "../other", "{}/other", "link", "absent", 3, None])
def test_a_bundle_cannot_name_a_tokeniser_outside_it(tokenizer, tmp_path, name):
    bundle = tmp_path / "run"
    describe_inputs(tokenizer, tmp_path / "other", synthetic_inputs(tokenizer, 2, length=4))
    bundle.mkdir()
    (bundle / "link").symlink_to(tmp_path / "other", target_is_directory=True)
    given = name.format(tmp_path) if isinstance(name, str) else name
    with pytest.raises(ArtefactError, match="names no folder"):
        restore_inputs({"kind": "text", "folder": given, "length": 4}, bundle)


def test_texts_need_a_hugging_face_model_with_a_tokeniser(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no tokeniser"):
        prepare_texts(f"hf:{tmp_path}")
    with pytest.raises(InputError, match="Hugging Face"):
        prepare_texts("timm:resnet18")
