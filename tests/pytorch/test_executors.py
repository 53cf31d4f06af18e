"""Both executors answer as the recorded trace says, with rows dropped or not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx_stages import check_logits
from torch import nn

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.engine.inputs import input_keys
from exeunt.runs.executors import executor_device
from exeunt.torch import attach, record
from exeunt.torch.devices import best_device, device_name
from exeunt.torch.executor import StagedExecutor, WholeExecutor, make_executor, original
from exeunt.zoo import digits


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return attach(digits(), torch.randn(2, 3, 8, 8), 3, verbose=False).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def trace(network, images):
    return record(network, [(images, torch.zeros(64, dtype=torch.int64), torch.arange(64))])


@pytest.fixture(scope="module", params=[StagedExecutor, WholeExecutor])
def executor(request, network, images):
    return request.param(network, images[:2])


def _policy(trace, budget):
    return ex.eero(*trace.split(fit=0.2, calibrate=0.2, test=0.6)[:2], budget=budget)


def _rows(trace):
    """Rows that set no threshold: a calibration input lies on one, where batch arithmetic decides."""
    return np.flatnonzero(np.isin(trace.id, trace.split(fit=0.2, calibrate=0.2, test=0.6)[2].id))


@pytest.mark.parametrize("budget", ["17%", "50%", "80%", "100%"])
def test_answers_equal_replay(executor, trace, images, budget):
    rows = _rows(trace)
    policy, test = _policy(trace, budget), trace.take(rows)
    exits = policy.route(test)
    found = Engine(executor, policy).answer(images[rows], id=test.id)
    at = np.arange(test.n), exits
    np.testing.assert_array_equal(found.exit, exits)
    np.testing.assert_array_equal(found.label, test.prediction[at])
    np.testing.assert_allclose(found.confidence, test.scores["max_probability"][at], atol=1e-5)
    whole = isinstance(executor, WholeExecutor)  # it computes everything for everybody
    np.testing.assert_allclose(found.cost, policy.cost.full if whole else policy.cost.cumulative[exits])
    assert found.mean_cost == pytest.approx(found.cost.mean())


def test_arrays_of_any_order_that_may_not_be_written_to_are_inputs(executor, trace, images, request):
    """Such are those of a file that is mapped into memory; PyTorch warns of them, and a warning fails this test."""
    torch.set_warn_always(True)  # else once per process
    request.addfinalizer(lambda: torch.set_warn_always(False))
    policy, array, id_ = _policy(trace, "50%"), images[:4].numpy(), np.arange(4)
    expected = Engine(executor, policy).answer(array, id=id_)
    for locked in (array.copy(), np.asfortranarray(array)):
        locked.flags.writeable = False
        for given in (locked, (locked,)):
            np.testing.assert_array_equal(Engine(executor, policy).answer(given, id=id_).exit, expected.exit)


def test_nan_is_flagged_and_the_others_are_answered(executor, trace, images):
    policy = _policy(trace, "100%")
    spoilt = images.clone()
    spoilt[3, 0, 0, 0] = float("nan")
    clean, found = Engine(executor, policy).answer(images), Engine(executor, policy).answer(spoilt)
    assert list(np.flatnonzero(~found.valid)) == [3]
    assert (found.label[3], found.exit[3], found.cost[3]) == (-1, -1, 0.0)
    assert np.isnan(found.confidence[3])
    others = np.arange(64) != 3
    np.testing.assert_array_equal(found.label[others], clean.label[others])


class Doubles(nn.Module):
    """Doubles its input, in place or not, and answers; with control flow on values it cannot be cut."""

    def __init__(self, *, in_place=False, branches=True):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.in_place, self.branches = in_place, branches

    def forward(self, x):
        x = self.first(x.mul_(2) if self.in_place else x * 2)
        return self.last(x if not self.branches or bool(x.sum() > -1e9) else -x)


def test_what_cannot_be_cut_runs_whole_and_says_so(network, images):
    assert isinstance(make_executor(network, images[:2]), StagedExecutor)
    example = torch.randn(2, 4)
    model = attach(Doubles().eval(), example, ["first"], check=False, verbose=False)
    said = r"runs whole: .*test_executors.py, `return self.last\(x if not self.branches or bool"
    with pytest.warns(ex.errors.RunsWhole, match=said):
        executor = make_executor(model, example)
    assert isinstance(executor, WholeExecutor)


def test_heads_that_nobody_wants_are_not_run(executor, network, images):
    ran = []
    heads = getattr(executor, "heads", network.heads)  # a staged one folds copies of them
    parts = [head.body[-1] for head in heads]
    hooks = [part.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, part in enumerate(parts)]
    state, _ = executor.start(images[:2])
    for segment, (first, last) in enumerate(executor.segments):
        _, state = executor.run(segment, state, [exit_ for exit_ in (1, 3) if first <= exit_ <= last])
    for hook in hooks:
        hook.remove()
    assert ran == [1]


def test_original_is_the_network_that_was_given(network, images):
    with torch.no_grad():
        expected = network.backbone(images[:5]).numpy()
    ran = []
    hooks = [part.register_forward_hook(lambda *_: ran.append(0)) for part in network.heads]
    np.testing.assert_array_equal(original(network)(images[:5].numpy()), expected)
    for hook in hooks:
        hook.remove()
    assert not ran


class InputAtTheEnd(nn.Module):
    """Its input is needed to the end, so it is part of every state."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))

    def forward(self, x):
        return self.last(self.second(self.first(x)) + x)


def test_dropping_rows_in_place_leaves_the_callers_inputs_alone():
    torch.manual_seed(0)
    network = attach(InputAtTheEnd().eval(), torch.randn(2, 3, 4, 4), ["first", "second"], verbose=False)
    inputs = torch.randn(8, 3, 4, 4)
    given = inputs.clone()
    executor = StagedExecutor(network, inputs)
    state, _ = executor.start(inputs)
    _, state = executor.run(0, state, [])
    made = [tensor.clone() for tensor in state.tensors]
    keep = np.array([1, 4, 7])
    state, order = executor.compact(state, keep)
    assert sorted(order) == keep.tolist()
    for tensor, before in zip(state.tensors, made, strict=True):
        assert torch.equal(tensor, before[torch.from_numpy(order)])
    assert torch.equal(inputs, given)
    _, state = executor.run(1, state, [])
    logits, _ = executor.run(2, state, [2])
    with torch.no_grad():
        expected = network.backbone(given).numpy()[order]
    assert np.allclose(logits[0], expected, atol=1e-5)


@pytest.fixture
def waited(monkeypatch):
    """Return the devices that were waited for. There is no accelerator here: made-up ones take its place."""
    found = []
    name = "Made Up {0.index}".format
    made_up = SimpleNamespace(get_device_name=name, is_available=lambda: False)
    monkeypatch.setattr(torch.accelerator, "synchronize", found.append)
    monkeypatch.setattr(torch, "get_device_module", lambda device: made_up if device.type == "cuda" else None)
    return found


def test_an_accelerator_is_waited_for(executor, waited, monkeypatch):
    executor.wait()
    assert (executor.device, waited) == ("cpu", [])
    cuda = torch.device("cuda", 3)
    monkeypatch.setattr(executor, "_like", SimpleNamespace(device=cuda))
    executor.wait()
    assert waited == [cuda]


def test_devices_have_names(waited):
    assert device_name(torch.device("cuda", 3)) == "cuda (Made Up 3)"
    assert device_name(torch.device("mps")) == "mps"
    assert executor_device("eager") == device_name(best_device())
    assert executor_device("onnx") == "cpu"


def test_what_a_network_changes_in_place_does_not_keep_it_from_being_cut():
    inputs, model = torch.randn(5, 4), Doubles(in_place=True, branches=False).eval()
    given = inputs.clone()
    expected = model(inputs.clone()).detach().numpy()
    network = attach(model, inputs, ["first"], verbose=False)
    assert network.runs_whole == ""
    executor = StagedExecutor(network, inputs)
    _, state = executor.run(0, executor.start(inputs)[0], [0])
    np.testing.assert_allclose(executor.run(1, state, [1])[0][0], expected, rtol=1e-6)
    np.testing.assert_allclose(original(network)(inputs), expected, rtol=1e-6)
    assert torch.equal(inputs, given)


def test_what_a_network_changes_in_place_is_not_the_callers():
    inputs = torch.randn(5, 4)
    given = inputs.clone()
    with pytest.warns(ex.errors.RunsWhole):
        network = attach(Doubles(in_place=True).eval(), inputs, ["first"], verbose=False)
    original(network)(inputs)
    trace = record(network, [(inputs, None)])
    np.testing.assert_array_equal(trace.id, input_keys(given, 5))
    assert torch.equal(inputs, given)
    with pytest.warns(ex.errors.RunsWhole):
        executor = make_executor(network, inputs[:2].clone())
    assert isinstance(executor, WholeExecutor)
    state, _ = executor.start(inputs)
    first, again = (executor.run(0, state, [0, 1])[0] for _ in range(2))
    assert torch.equal(inputs, given)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_a_head_of_ones_own_changes_in_place_is_not_the_networks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)).eval()
    inputs = torch.randn(6, 4)

    def head(shape, k):
        return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(*shape, k))

    with torch.no_grad():
        expected = model(inputs)
        network = attach(model, inputs[:2], ["0"], head=head, verbose=False).eval()
        torch.testing.assert_close(network(inputs)[-1], expected)
    for kind in (StagedExecutor, WholeExecutor):
        check_logits(kind(network, inputs[:2]), network, inputs, atol=1e-6)


class Residual(nn.Sequential):
    """Its layers do not follow each other: the first's output is read twice."""

    def forward(self, x):
        first, norm = self
        x = first(x)
        return x + norm(x)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Flatten()],  # norms tokens
        [nn.Flatten(), Residual(nn.Linear(36, 36), nn.BatchNorm1d(36))],
    ],
    ids=["other axis", "residual"],
)
def test_norms_in_heads_of_ones_own_are_left_alone(layers):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Flatten(), nn.Linear(36, 5)).eval()
    tokens = torch.randn(8, 6, 6)
    head = nn.Sequential(*layers, nn.Linear(36, 5))
    network = attach(model, tokens[:2], ["0"], head=lambda *_: head, verbose=False)
    with torch.no_grad():
        network.train()(3 * tokens + 1)  # running averages that are not those of a new layer
    check_logits(StagedExecutor(network.eval(), tokens[:2]), network, tokens)
