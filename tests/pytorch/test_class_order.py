from __future__ import annotations

import pytest
from torchvision.models import get_model_weights
from transformers import BertConfig, BertForSequenceClassification

from exeunt.errors import InputError
from exeunt.torch.models.by_name import known_class_names
from exeunt.torch.models.weights import check_class_order


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
        (["dog", "cat"], ("cat", "dog"), 0),
        (["a", "c", "b"], ("a", "b", "c"), 1),
        (["negative", "positive"], ("neg", "pos"), 0),
    ],
)
def test_another_order_is_refused_showing_both(model, data, first):
    with pytest.raises(InputError) as caught:
        check_class_order(model, data)
    message = str(caught.value)
    assert f"first {first}:" in message
    assert ", ".join(model) in message
    assert ", ".join(data) in message


def test_long_orders_are_shown_in_part():
    names = [f"class {i}" for i in range(1000)]
    with pytest.raises(InputError, match="and 990 more"):
        check_class_order(names, tuple(reversed(names)))


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
