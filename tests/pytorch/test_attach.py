"""Where exits are attached, what they cost and answer, and what is recorded of them."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from exeunt.errors import ExeuntWarning, InputError
from exeunt.torch import attach, count_macs, record
from exeunt.torch.exits.placement import ExitPoint, place_exits
from exeunt.trace import concatenate
from exeunt.zoo import DigitsNet


def example(n=4):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def net(**options):
    torch.manual_seed(0)
    return attach(DigitsNet(channels=1).eval(), example(), options.pop("exits", 3), verbose=False, **options)


# -- placement ------------------------------------------------------------------------------------------


def points(costs):
    return [ExitPoint(f"p{i}", c, (1,)) for i, c in enumerate(costs)]


@pytest.mark.parametrize("seed", range(20))
def test_placement_is_the_best_of_all_choices(seed):
    rng = np.random.default_rng(seed)
    costs = np.cumsum(rng.integers(1, 9, size=rng.integers(1, 9))).astype(float)
    full = costs[-1] + rng.integers(0, 4)
    e = int(rng.integers(1, len(costs) + 1))
    targets = full * np.arange(1, e + 1) / (e + 1)
    best = min(np.square(np.array(c) - targets).sum() for c in itertools.combinations(costs, e))
    chosen = [p.cost for p in place_exits(points(costs), e, full=full)]
    assert chosen == sorted(set(chosen))
    assert np.square(np.array(chosen) - targets).sum() == pytest.approx(best)


def test_of_two_places_at_one_cost_the_later_is_taken():
    assert [p.name for p in place_exits(points([1.0, 1.0, 3.0]), 1, full=2.0)] == ["p1"]


def test_numbers_of_exits_that_do_not_fit_are_refused_or_warned_of():
    for number in (0, -1):
        with pytest.raises(InputError):
            place_exits(points([1.0, 2.0, 3.0]), number, full=4.0)
    with pytest.warns(
        ExeuntWarning,
        match=r"9 exits do not fit: 2 places .* were found.*: p1, p2. For others name .*--exits",
    ):
        chosen = place_exits(points([1.0, 1.0, 3.0]), 9, full=4.0)
    assert [p.name for p in chosen] == ["p1", "p2"]
    with pytest.raises(
        InputError, match=r"no place for an exit was found .*: name modules .*such blocks can be named"
    ):
        place_exits([], 1, full=4.0)


def test_names_are_put_in_the_networks_order():
    assert net(exits=["blocks.2", "blocks.0"]).exit_names == ["blocks.0", "blocks.2"]


# -- attach ---------------------------------------------------------------------------------------------


def test_the_last_exit_is_the_network_itself_to_the_last_bit():
    model = DigitsNet(channels=1).eval()
    before = model(example())
    network = attach(model, example(), 3, verbose=False).eval()
    logits = network(example())
    assert [x.shape for x in logits] == [(4, 10)] * 4
    assert torch.equal(logits[-1], before)
    assert torch.equal(model(example()), before)
    assert not any(m._forward_hooks for m in model.modules())


def test_features_are_read_before_they_are_overwritten():
    """As torchvision's DenseNet overwrites them."""
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    network = attach(nn.Sequential(*layers).eval(), example(), ["0"], verbose=False).eval()
    features = layers[0](example())
    assert (features < 0).any()
    assert torch.equal(network(example())[0], network.heads[0](features))


def test_costs_are_cumulative_and_count_every_head_that_has_been_run():
    network = net(exits=["blocks.0", "blocks.2"])
    conv = [8 * 8 * 9 * 1 * 16, 8 * 8 * 9 * 16 * 16, 4 * 4 * 9 * 16 * 32, 4 * 4 * 9 * 32 * 32]
    heads = [(2 * 16 * 16) * 128 + 128 * 10, (32 * 16) * 128 + 128 * 10]
    expected = [conv[0] + heads[0], sum(conv[:3]) + sum(heads), sum(conv) + 320 + sum(heads)]
    assert network.cost.cumulative.tolist() == expected
    assert network.cost.unit == "MACs"
    assert network.backbone_macs == count_macs(network.backbone, example())


def test_describe_tells_places_costs_and_what_the_heads_add(capsys):
    network = attach(DigitsNet(channels=1), example(), 3)
    printed = capsys.readouterr().out
    assert printed.strip() == network.describe()
    for name in network.exit_names:
        assert name in printed
    added = 1 - network.backbone_macs / network.cost.full
    assert f"{added / (1 - added):.2%}" in printed


def test_a_network_is_rebuilt_from_its_config_and_weights():
    network = net(exits=2, head="grid", grid=2, hidden=8, norm="layer", seed=5).eval()
    config = json.loads(json.dumps(network.config()))
    again = attach(DigitsNet(channels=1), example(), verbose=False, **config).eval()
    again.load_state_dict(network.state_dict())
    assert again.cost == network.cost
    assert again.config() == network.config()
    for a, b in zip(network(example()), again(example()), strict=True):
        assert torch.equal(a, b)


def test_heads_of_ones_own():
    network = net(head=lambda shape, k: nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), k)))
    assert network(example())[0].shape == (4, 10)
    with pytest.raises(InputError, match="own function"):
        network.config()


def test_the_heads_first_weights_follow_from_the_seed_and_leave_the_global_generator_alone():
    networks = [attach(DigitsNet(channels=1), example(), 2, seed=s, verbose=False) for s in (1, 1, 2)]
    a, b, c = (network.heads[0].body[0].weight for network in networks)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    model = DigitsNet(channels=1)
    before = torch.get_rng_state()
    attach(model, example(), 2, verbose=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_attaching_leaves_mode_and_statistics_as_they_were():
    model = DigitsNet(channels=1).train()
    before = copy.deepcopy(model.state_dict())
    attach(model, example(), 3, verbose=False)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gradients_reach_the_backbone_from_every_exit():
    network = net().train()
    for i, logits in enumerate(network(example())):
        network.zero_grad()
        logits.sum().backward(retain_graph=True)
        assert network.backbone.blocks[0][0].weight.grad.abs().sum() > 0, i


class Record(dict):
    __getattr__ = dict.__getitem__


class Tupled(nn.Linear):
    def forward(self, x):
        return super().forward(x).tanh(), None


class TextLike(nn.Module):
    """Takes a dict, returns a record with logits; its layers return tuples, one of them runs twice."""

    def __init__(self):
        super().__init__()
        self.embedding, self.classifier = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.layer, self.other = Tupled(8, 8), Tupled(8, 8)

    def forward(self, input_ids, attention_mask=None):
        x = self.layer(self.layer(self.embedding(input_ids))[0])[0]
        return Record(logits=self.classifier(self.other(x)[0][:, 0]))


def test_dict_inputs_masks_tuples_and_repeated_modules():
    ids = torch.arange(12).reshape(2, 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["attention_mask"][1, 3:] = 0
    model = TextLike().eval()
    network = attach(model, batch, ["layer", "other"], head="mean", verbose=False).eval()
    logits = network(**batch)
    assert torch.equal(logits[-1], model(**batch).logits)
    x = model.layer(model.layer(model.embedding(ids))[0])[0]  # the exit reads the last call
    assert torch.equal(logits[0], network.heads[0](x, batch["attention_mask"]))
    changed = {**batch, "input_ids": ids.clone()}
    changed["input_ids"][1, 4:] = 19  # masked tokens
    assert torch.allclose(network(**changed)[0], logits[0], atol=1e-6)
    assert network.cost.cumulative[0] == 2 * 6 * 64 + 8 * 256 + 256 * 3


class AcrossTheBatch(nn.Module):
    """A network of which one module returns the mean of all rows."""

    def __init__(self):
        super().__init__()
        self.first, self.mean, self.last = nn.Linear(64, 8), _Mean(), nn.Linear(8, 10)

    def forward(self, x):
        features = self.first(x.flatten(1))
        return self.last(features - self.mean(features))


class _Mean(nn.Module):
    def forward(self, features):
        return features.mean(0, keepdim=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exits": ["q"]}, r"blocks\.0, blocks\.1"),
        ({"exits": ["blocks.0", "blocks.0"]}, "twice"),
        ({"exits": []}, "empty"),
        ({"exits": "blocks.0"}, r"exits=\['blocks.0'\]"),
        ({"n_classes": 7}, "answers with 10 classes, not with 7: let its classifier, or the decoder of its"),
        ({"head": "nonsense"}, "not known"),
        ({"model": nn.Conv2d(1, 3, 3)}, "logits"),  # it answers with a map
        (
            {"model": AcrossTheBatch(), "exits": ["mean"]},
            r"'mean' returns torch.float32 of shape \(1, 8\) on a b",
        ),
        ({"example": example(0)}, "empty batch"),
        ({"example": torch.zeros(4, 3, 8, 8)}, r"on a batch of shape \(4, 3, 8, 8\): RuntimeError: .*chan"),
    ],
)
def test_what_cannot_carry_exits_is_refused_in_one_line(options, message):
    given = {"model": DigitsNet(channels=1), "example": example(), "exits": 3, "verbose": False, **options}
    with pytest.raises(InputError, match=message) as told:
        attach(**given)
    assert "\n" not in str(told.value)


N = 23


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = attach(DigitsNet(channels=1), torch.randn(2, 1, 8, 8), 3, dropout=0.5, verbose=False)
    for norm in made.modules():  # statistics that differ from a batch's own
        if isinstance(norm, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return made.train()


@pytest.fixture(scope="module")
def inputs():
    rng = torch.Generator().manual_seed(3)
    return torch.randn(N, 1, 8, 8, generator=rng), torch.randint(0, 10, (N,), generator=rng)


def test_a_trace_is_what_the_network_answers_one_by_one_in_eval_mode(network, inputs):
    trace = record(network, DataLoader(TensorDataset(*inputs), batch_size=5))
    assert network.training  # as it was before
    network.eval()
    with torch.no_grad():
        for row in range(N):
            for exit_, logits in enumerate(network(inputs[0][row : row + 1])):
                p = np.exp(logits[0].double().numpy())
                p = np.sort(p / p.sum())[::-1]
                assert trace.prediction[row, exit_] == int(logits[0].argmax())
                assert trace.scores["max_probability"][row, exit_] == pytest.approx(p[0], abs=1e-5)
                assert trace.scores["margin"][row, exit_] == pytest.approx(p[0] - p[1], abs=1e-5)
    network.train()
    assert np.array_equal(trace.label, inputs[1].numpy())
    assert trace.cost == network.cost


def test_more_log_probabilities_than_a_trace_keeps_are_not_gathered(network, inputs, monkeypatch):
    """Of many classes they would fill the memory, batch after batch."""
    whole = record(network, DataLoader(TensorDataset(*inputs), batch_size=5))
    assert whole.log_probability is not None
    monkeypatch.setattr("exeunt.trace.log_probability._HALF", 2 * 5 * 4 * 10)  # those of two batches
    joined = []

    def noted(parts):
        joined.extend(parts)
        return concatenate(parts)

    monkeypatch.setattr("exeunt.trace.combining.concatenate", noted)
    bounded = record(network, DataLoader(TensorDataset(*inputs), batch_size=5))
    assert [part.log_probability for part in joined] == [None] * 5
    assert np.array_equal(bounded.scores["margin"], whole.scores["margin"])
    assert record(network, [(inputs[0][:5], inputs[1][:5])] * 2).log_probability is not None


def test_recording_changes_nothing_and_modules_in_eval_mode_stay_in_it(network, inputs):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.backbone.eval()
    record(network, [inputs])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert network.heads.training
    assert not any(module.training for module in network.backbone.modules())
    network.train()


@pytest.mark.parametrize("batch_size", [1, 4, N])
def test_ids_are_keys_of_content_that_do_not_depend_on_batches_or_order(network, inputs, batch_size):
    x, y = inputs
    whole = record(network, [(x, y)])
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    split = record(network, list(zip(x[order].split(batch_size), y[order].split(batch_size), strict=True)))
    assert np.array_equal(split.id, whole.id[order.numpy()])
    assert len(set(whole.id.tolist())) == N
    twice = record(network, [(torch.cat([x[:1], x[:1]]), y[:2])])
    assert twice.id[0] == twice.id[1]


def test_given_ids_are_kept_by_their_bits(network, inputs):
    x, y = inputs
    keys = np.random.default_rng(0).integers(0, 2**64, N, dtype=np.uint64)
    trace = record(network, [(x, y, torch.from_numpy(keys.view(np.int64)))])
    assert np.array_equal(trace.id, keys)
    assert np.array_equal(record(network, [(x, y, keys)]).id, keys)
    assert np.array_equal(record(network, [(x, y, list(range(N)))]).id, np.arange(N))
    with pytest.raises(InputError, match="integers"):
        record(network, [(x, y, np.zeros(N))])


def test_labels_are_for_all_or_none(network, inputs):
    x, y = inputs
    assert record(network, [(x, None)]).label is None
    with pytest.raises(InputError, match="all or none"):
        record(network, [(x, y), (x, None)])
    with pytest.raises(InputError, match="no batches"):
        record(network, [])


def test_dicts_of_tensors_are_taken_apart_by_name(network, inputs):
    x, y = inputs
    by_name, plain = record(network, [({"x": x}, y)]), record(network, [(x, y)])
    assert np.array_equal(by_name.prediction, plain.prediction)
    assert np.array_equal(by_name.id, plain.id)
