from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from exeunt.errors import InputError
from exeunt.torch import attach, record
from exeunt.trace import concatenate
from exeunt.zoo import DigitsNet

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


def test_recording_changes_nothing(network, inputs):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    record(network, [inputs])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_modules_in_eval_mode_stay_in_it(network, inputs):
    network.backbone.eval()
    record(network, DataLoader(TensorDataset(*inputs), batch_size=5))
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
