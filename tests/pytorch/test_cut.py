"""A cut model computes what the model computes, whatever the batch size and whichever rows are dropped."""

from __future__ import annotations

import os

import pytest
import torch
import transformers
from torch import nn
from torchvision import models

from exeunt.errors import InputError, MixedBatchAxis, NotCuttable, NotExportable
from exeunt.torch.calls import first_tensor
from exeunt.torch.cutting.cut import cut
from exeunt.torch.cutting.cut_points import cut_points

os.environ.setdefault("HF_HUB_OFFLINE", "1")

TEXT = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 100, "num_labels": 3,
}  # fmt: skip


def images(side):
    return lambda n: torch.randn(n, 3, side, side)


def tokens(n):
    mask = torch.ones(n, 8, dtype=torch.long)
    mask[:, 5:] = (torch.arange(3) < torch.randint(0, 4, (n, 1))).long()
    return {"input_ids": torch.randint(3, 100, (n, 8)), "attention_mask": mask}


def convnext():
    block = models.convnext.CNBlockConfig
    return models.ConvNeXt([block(8, 16, 2), block(16, None, 2)], num_classes=5)


def mobilenet():
    block = models.mobilenetv3.InvertedResidualConfig
    settings = [block(8, 3, 16, 8, True, "RE", 1, 1, 1), block(8, 3, 32, 16, True, "HS", 2, 1, 1)]
    return models.MobileNetV3(settings, 16, num_classes=5)


def densenet():
    return models.DenseNet(growth_rate=4, block_config=(2, 2, 2), num_init_features=8, num_classes=5)


def vit():
    return models.VisionTransformer(16, 8, 3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)


def swin():
    sizes = {"depths": [2, 1], "num_heads": [2, 2], "window_size": [2, 2]}
    return models.SwinTransformer([4, 4], embed_dim=8, num_classes=5, **sizes)


def text(family, **options):
    """Return a builder of a text classifier."""

    def build():
        config = getattr(transformers, f"{family}Config")(**{**TEXT, **options})
        return getattr(transformers, f"{family}ForSequenceClassification")(config)

    return build


def resnet():
    return models.ResNet(models.resnet.BasicBlock, [2, 1, 1, 1], num_classes=5)


bert = text("Bert")
special = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
modernbert = text("ModernBert", pad_token_id=0, **special)
deberta = text("DebertaV2", relative_attention=True, position_buckets=4, pos_att_type=["p2c", "c2p"])


def places(*names):
    return [f"features.{name}" for name in names]


DENSE = ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")
ZOO = {
    "resnet": (resnet, images(32), ["layer1.0", "layer1.1", "layer2.0", "layer3.0", "layer4.0"]),
    "convnext": (convnext, images(32), places("1.0", "1.1", "2", "3.0", "3.1")),
    "mobilenet": (mobilenet, images(32), places("1", "2")),
    "densenet": (densenet, images(32), places(*DENSE)),
    "vit": (vit, images(16), [f"encoder.layers.encoder_layer_{i}" for i in range(3)]),
    "swin": (swin, images(16), places("1.0", "1.1", "3.0")),
    "bert": (bert, tokens, [f"bert.encoder.layer.{i}" for i in range(3)]),
    "roberta": (text("Roberta"), tokens, [f"roberta.encoder.layer.{i}" for i in range(3)]),
    "distilbert": (text("DistilBert"), tokens, [f"distilbert.transformer.layer.{i}" for i in range(3)]),
    "modernbert": (modernbert, tokens, [f"model.layers.{i}" for i in range(3)]),
    "deberta": (deberta, tokens, [f"deberta.encoder.layer.{i}" for i in range(3)]),
}
QUICK = ("resnet", "convnext", "vit", "bert")
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ZOO]


def lively(model, seed=0):
    """Give every weight and statistic a value that matters: fresh networks often answer nothing but zeros."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 25
            parameter.add_(torch.randn_like(parameter) * fan_in**-0.5)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.2, 0.6)
    return model.eval()


def call(model, inputs):
    output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return getattr(output, "logits", output)


def rows_of(inputs, rows):
    return {k: v[rows] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[rows]


def run_dropping(staged, inputs, n):
    """Run the stages, dropping the first row left after each while there are two; returns the last output."""
    state = tuple(inputs.values()) if isinstance(inputs, dict) else (inputs,)
    left = torch.arange(n)
    for stage in staged.stages[:-1]:
        state = stage(*state)
        if len(left) > 1:
            state = stage.take(state, torch.arange(1, len(left)))
            left = left[1:]
    return left, staged.stages[-1](*state)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()))


@pytest.mark.parametrize("name", CASES)
def test_stages_equal_the_model(name):
    build, inputs, expected_points = ZOO[name]
    model = lively(build())
    example = inputs(2)
    points = cut_points(model, example)
    assert [point.name for point in points] == expected_points
    staged = cut(model, example, at=expected_points)
    assert staged.names == tuple(expected_points)
    features = {}
    for name in expected_points:

        def keep(_module, _inputs, output, name=name):
            features[name] = first_tensor(output).clone()

        model.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        for n in (1, 3, 5):
            batch = inputs(n)
            expected = call(model, batch)
            assert expected.abs().max() > 1e-3
            close(call(staged, batch), expected)
            state = tuple(batch.values()) if isinstance(batch, dict) else (batch,)
            for stage, point in zip(staged.stages[:-1], points, strict=True):
                state = stage(*state)
                feature = state[0]
                assert tuple(feature.shape[1:]) == point.output_shape
                close(feature, features[point.name])
            left, output = run_dropping(staged, batch, n)
            close(output, call(model, rows_of(batch, left)))
    assert {id(p) for p in staged.parameters()} <= {id(p) for p in model.parameters()}


def test_gradients_reach_the_model():
    build, inputs, points = ZOO["bert"]
    model, batch = lively(build()), inputs(3)
    staged = cut(model, inputs(2), at=points[:2])
    call(model, batch).square().sum().backward()
    expected = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    call(staged, batch).square().sum().backward()
    assert expected
    for key, parameter in model.named_parameters():
        if key in expected:
            close(parameter.grad, expected[key])
    with torch.no_grad():
        next(iter(model.parameters())).mul_(1.5)  # the stages see later changes
        close(call(staged, batch), call(model, batch))


def test_each_parameter_is_in_the_stage_that_uses_it():
    model = lively(resnet())
    staged = cut(model, torch.randn(2, 3, 32, 32), at=["layer1.0", "layer2"])
    held = [{name.removeprefix("body.") for name, _ in stage.named_parameters()} for stage in staged.stages]
    assert held[0] | held[1] | held[2] == {name for name, _ in model.named_parameters()}
    assert not held[0] & held[1]
    assert not held[1] & held[2]
    assert "layer2.0.conv1.weight" in held[1]


def test_names_of_stages_and_blocks_mean_the_same():
    model, x = lively(resnet()), torch.randn(1, 3, 32, 32)
    points = cut_points(model, x)
    assert points[1].name == "layer1.1"
    assert "layer1" in points[1].aliases
    assert points[0].kind == "BasicBlock"
    assert points[0].exportable
    with pytest.raises(InputError, match="same operation"):
        cut(model, x, at=["layer1", "layer1.1"])
    assert cut(model, x, at=["layer2", "layer1"]).names == ("layer1", "layer2")
    (whole,) = cut(model, x, at=[]).stages
    close(whole(x), model(x))


def test_hugging_face_output_is_its_logits():
    model, batch = lively(bert()), tokens(3)
    staged = cut(model, tokens(2), at=["bert.encoder.layer.0"])
    assert staged.input_names == ("input_ids", "attention_mask")
    close(staged(batch["input_ids"], attention_mask=batch["attention_mask"]), model(**batch).logits)
    with pytest.raises(InputError, match="attention_mask"):
        staged(input_ids=batch["input_ids"])
    hidden, mask = staged.stages[0].state
    assert (hidden.batch_dim, hidden.shape) == (0, (None, None, 16))
    assert mask.batch_dim == 0
    assert staged.length_is_open
    for length in (2, 3, 8, 30):
        longer = {name: batch[name][:, torch.arange(length) % 8] for name in batch}
        close(staged(**longer), model(**longer).logits)


class MixesTokens(nn.Module):
    """A text classifier whose weights are of one length: each of the 8 places has its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.last = nn.Embedding(100, 4), nn.Linear(32, 3)
        self.blocks = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    def forward(self, input_ids, attention_mask):
        x = (self.words(input_ids) * attention_mask[..., None]).transpose(1, 2)
        return self.last(self.blocks(x).flatten(1))


def test_a_length_that_the_weights_fix_stays_fixed():
    model, batch = MixesTokens().eval(), tokens(3)
    staged = cut(model, tokens(2), at=["blocks.0"])
    assert not staged.length_is_open
    close(staged(**batch), model(**batch))


class Plain(nn.Module):
    """x (n, 4) -> first -> middle, of each test's own -> last (n, 3)."""

    def __init__(self, middle=lambda net, h: net.second(h), **more):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.idle = nn.Identity()
        self.middle = middle
        for name, module in more.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.last(self.middle(self, self.first(x)))


def check_small(model, at, n=4):
    model.eval()
    staged = cut(model, torch.randn(2, 4), at=at)
    with torch.no_grad():
        for size in (1, n):
            x = torch.randn(size, 4)
            close(staged(x), model(x))
            left, output = run_dropping(staged, x, size)
            close(output, model(x[left]))
    return staged


def through_a_view(net, h):
    h.view(-1, 2, 3)[:, 0].mul_(3.0)
    return net.second(h)


@pytest.mark.parametrize("middle", [lambda net, h: net.second(h.relu_()), through_a_view])
def test_changes_in_place_are_kept_and_a_stage_leaves_what_it_was_given_unchanged(middle):
    staged = check_small(Plain(middle), ["first", "second"])
    state = staged.stages[0](torch.randn(5, 4))
    before = state[0].clone()
    staged.stages[1](*state)
    assert torch.equal(state[0], before)


def test_two_values_of_one_memory_that_is_changed_after_the_cut_are_not_cut():
    """Each would be a copy of its own, and the change would reach one of them alone."""

    def changed_through_a_view(net, h):
        part, after = h[:, :3], net.second(h)
        h.mul_(2.0)
        return after + torch.cat([part, part], 1)

    with pytest.raises(NotCuttable, match="share memory that is changed after the cut: cut elsewhere"):
        check_small(Plain(changed_through_a_view), ["second"])


def test_a_module_called_twice_is_cut_after_its_last_call():
    staged = check_small(Plain(lambda net, h: net.second(torch.relu(net.second(h)))), ["second"])
    assert {name for name, _ in staged.stages[1].named_parameters()} == {"body.last.weight", "body.last.bias"}


def counting_rows(net, h):
    """Use the batch size and the row numbers after the cut."""
    n = h.shape[0]
    numbers = torch.arange(n)
    h = net.second(h)
    mixed = h.reshape(n * 2, 3)[torch.cat([numbers, numbers + n])].reshape(n, 2, 3)
    return mixed.reshape(n, 6)[numbers] * 0 + h[numbers].expand(n, 6)


def test_batch_size_and_row_numbers_are_made_anew():
    staged = check_small(Plain(counting_rows), ["first", "second"])
    assert [len(stage.state) for stage in staged.stages] == [1, 1, 0]


class TwoResults(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, h):
        first = self.a(h).tanh()
        return first, self.b(h), {"extra": None}


def using_a_tuple(net, h):
    first, second, _ = net.pair(h)
    return first + 2 * second


def test_the_output_of_a_tuple_is_its_first_tensor():
    model = Plain(using_a_tuple, pair=TwoResults())
    staged = check_small(model, ["pair"])
    x = torch.randn(3, 4)
    state = staged.stages[0](x)
    assert len(state) == 2
    close(state[0], model.pair(model.first(x))[0])


class Turned(nn.Module):
    """Returns its input with the axes of each row stored in another order, as attention does."""

    def forward(self, h):
        return h.view(-1, 2, 3).transpose(1, 2).contiguous().transpose(1, 2)


def test_strides_may_change_between_stages():
    """A view holds for the strides of `turn`'s output only, not for a copy of it."""
    model = Plain(lambda net, h: net.second(net.turn(h).transpose(1, 2).view(-1, 6)), turn=Turned())
    check_small(model, ["first", "turn"])


def test_a_folded_batch_is_refused_by_name():
    fold = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(0, 1), nn.Linear(3, 3))
    model = Plain(lambda net, h: net.fold(h).reshape(-1, 6), fold=fold).eval()
    with pytest.raises(MixedBatchAxis, match=r"'fold'.*mixes the batch"):
        cut(model, torch.randn(2, 4), at=["fold"])
    check_small(model, ["first"])
    assert "fold" not in [p.name for p in cut_points(model, torch.randn(2, 4))]


def test_a_model_that_cannot_be_exported():
    model = Plain(lambda net, h: net.second(h) if bool((h > 0).any()) else h).eval()
    with pytest.raises(NotExportable, match="Plain cannot be exported"):
        cut(model, torch.randn(2, 4), at=["first"])
    points = cut_points(model, torch.randn(2, 4))
    found = [(p.name, p.exportable, p.output_shape, p.state) for p in points]
    assert found == [(name, False, (6,), ()) for name in ("first", "second")]


def two_streams(net, h):
    """Two paths side by side: after no block is there one value that holds everything."""
    a, b = h, h.neg()
    for left, right in zip(net.left, net.right, strict=True):
        a, b = left(a), right(b)
    return a + b


def test_a_place_with_two_values_is_not_proposed_but_can_be_cut():
    left, right = (nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in "abc") for _ in "ab")
    model = Plain(two_streams, left=left, right=right).eval()
    assert cut_points(model, torch.randn(2, 4)) == []
    staged = check_small(model, ["left.0", "right.1"])
    assert [len(stage.state) for stage in staged.stages] == [2, 2, 0]


def test_a_network_without_blocks_offers_its_layers():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 3),
    )  # fmt: skip
    points = cut_points(model, torch.randn(2, 3, 18, 18))
    assert [p.name for p in points] == ["2", "5"]
    assert model.training


def test_a_transformer_layer_that_has_a_fused_path():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(32, 3)).eval()
    assert [p.name for p in cut_points(model, torch.randn(2, 4, 8))] == ["0.layers.0", "0.layers.1"]
    staged = cut(model, torch.randn(2, 4, 8), at=["0.layers.0"])
    x = torch.randn(3, 4, 8)
    close(staged(x), model(x))


X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("example", "at", "message"),
    [
        (X, ["secnd"], r"no module 'secnd'.*Did you mean 'second'.*first, second, last, idle"),
        (X, ["idle"], "'idle' leaves no operation"),
        (X, ["first", "first"], "same operation"),
        (X, "first", r"at=\['first'\]"),
        ({"x": X, "y": torch.zeros(3, 4)}, ["first"], "one row per input"),
        *[(example, ["first"], "example") for example in (X[:0], (), ("text",), torch.tensor(1.0))],
    ],
)
def test_names_and_examples_that_cannot_be_cut(example, at, message):
    with pytest.raises(InputError, match=message):
        cut(Plain().eval(), example, at=at)
    with pytest.raises(InputError, match=r"call \.eval"):
        cut(Plain(), X, at=["first"])
