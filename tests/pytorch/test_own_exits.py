"""A network's own exits: its outputs are the exits, whatever their form, and between them it is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_stages import logits_with_drops
from own_exit_networks import NETWORKS, Branchy, Named, Scales
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from exeunt.errors import InputError, NotCuttable, RunsWhole
from exeunt.torch import attach, count_macs, record, train
from exeunt.torch.cutting.graph import trace_graph
from exeunt.torch.executor import StagedExecutor, WholeExecutor, make_executor
from exeunt.torch.named_inputs import read_example


def own(name):
    kind, shape = NETWORKS[name]
    torch.manual_seed(0)
    return kind().eval(), torch.randn(6, *shape)


def outputs(model, x):
    with torch.no_grad():
        found = model(x.clone())
    return list(found.values() if isinstance(found, dict) else found)


@pytest.mark.parametrize("name", NETWORKS)
def test_exits_are_the_outputs_and_stages_give_them_too(name):
    """Rows are dropped after every stage; the network's own outputs on all rows are the oracle."""
    model, x = own(name)
    with pytest.raises(InputError, match="as one with exits of its own does: say exits='own'"):
        attach(model, x, exits=1, verbose=False)  # it is not taken for one with its first exit alone
    network = attach(model, x, exits="own", verbose=False)
    expected = outputs(model, x)
    assert network.n_exits == len(expected)
    with torch.no_grad():
        for mine, its in zip(network(x), expected, strict=True):
            assert torch.equal(mine, its)
    found = logits_with_drops(StagedExecutor(network, x), x.clone(), np.arange(len(x)))
    for (rows, logits), its in zip(found, expected, strict=True):
        np.testing.assert_allclose(logits, its[rows].numpy(), atol=1e-5)
    assert [len(rows) for rows, _ in found] == [6, 5, 4][: len(found)]


@pytest.mark.parametrize("name", NETWORKS)
def test_exits_that_are_not_wanted_are_not_decoded(name):
    """Of what earlier exits alone need, nothing runs: counted, and the last exit answers the same."""
    model, x = own(name)
    network = attach(model, x, exits="own", verbose=False)
    executor, heads = StagedExecutor(network, x), network.cost.heads
    last = network.n_exits - 1
    state, _ = executor.start(x.clone())
    with FlopCounterMode(display=False) as counter:
        for exit_ in range(last):
            _, state = executor.run(exit_, state, [])
        (logits,), _ = executor.run(last, state, [last])
    np.testing.assert_allclose(logits, outputs(model, x)[-1].numpy(), atol=1e-5)
    assert counter.get_total_flops() / 2 / len(x) == network.cost.full - heads.sum()
    assert network.cost.of_one_look.full == network.cost.full - heads.sum()
    dropped = executor.run(0, executor.start(x.clone())[0], [])[1]
    dropped = executor.gather([(dropped, np.array([1, 4]))])
    (alone,), _ = executor.run(1, dropped, [1])
    np.testing.assert_allclose(alone, outputs(model, x)[1][[1, 4]].numpy(), atol=1e-5)


def test_heads_cost_what_no_later_exit_needs():
    """Counted by hand: a linear layer from four channels to three classes at each branch of `Branchy`."""
    model, x = own("tuple")
    assert attach(model, x, exits="own", verbose=False).cost.heads.tolist() == [12, 12, 0]


def test_several_tensors_cross_a_cut_but_no_logits_of_earlier_exits():
    network = attach(Scales().eval(), torch.randn(2, 4), exits="own", verbose=False)
    first, second, last = network.stages(torch.randn(2, 4)).stages
    for stage, width in ((first, 6), (second, 8)):
        logits, *carried = stage.state
        assert logits.shape == (None, 3)
        assert [tensor.shape for tensor in carried] == [(None, width), (None, width)]
    assert last.state == ()


def test_costs_are_those_of_what_an_exit_needs_wherever_its_code_stands():
    """Counted by hand: each layer's two scales, and the classifiers up to the exit, which are all called at the end."""
    network = attach(Scales().eval(), torch.randn(2, 4), exits="own", verbose=False)
    layers, classifiers = np.array([2 * 2 * width for width in (4, 6, 8)]), np.array([6, 12, 18])
    assert network.cost.cumulative.tolist() == np.cumsum(layers + classifiers).tolist()
    assert network.cost.full == count_macs(network.backbone, torch.randn(2, 4))


class AtRandom(nn.Module):
    """Operations drawn at random on a few values, some in place, some on views; every exit reads one of them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        kinds = ("new", "add", "change", "view", "change a view")
        self.steps = [(str(rng.choice(kinds)), *map(int, rng.integers(0, 4, 2))) for _ in range(14)]
        self.read = rng.integers(0, 4, 3).tolist()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in self.steps)
        self.exits = nn.ModuleList(nn.Linear(5, 3) for _ in self.read)

    def forward(self, x):
        values = [x * (i + 1) for i in range(4)]
        early = []
        for number, ((kind, a, b), layer) in enumerate(zip(self.steps, self.layers, strict=True)):
            if kind == "new":
                values[a] = layer(values[b])
            elif kind == "add":
                values[a] = values[a] + values[b]
            elif kind == "change":
                values[a].mul_(0.5).add_(values[b])
            elif kind == "view":
                values[a] = values[b][:, :]
            else:
                values[a][:, :2].add_(values[b][:, 3:])
            if number in (4, 9):  # read now, classified later
                early.append(values[self.read[len(early)]] * 2)
        last = self.layers[0](self.layers[1](values[self.read[2]]))
        return [classify(value) for classify, value in zip(self.exits, [*early, last], strict=True)]


@pytest.mark.parametrize("seed", [0, 1, 2, 6, 13])
def test_what_an_exit_needs_comes_first_and_operations_in_place_keep_their_order(seed):
    torch.manual_seed(seed)
    model, x = AtRandom(seed).eval(), torch.randn(4, 5)
    network = attach(model, x, exits="own", verbose=False, check=False)
    graph = trace_graph(network.backbone, read_example(network.backbone, x))
    reordered, copies = fx.Graph(), {}
    for node in graph.nodes:
        copies[node] = reordered.node_copy(node, copies.__getitem__)
    constants = [tensor for _, tensor in graph.constants.values()]
    last, *early = fx.GraphModule(graph.module, reordered)(*constants, x.clone())
    for given, expected in zip([*early, last], outputs(model, x), strict=True):
        torch.testing.assert_close(given, expected)
    ends = [graph.index[node] for node in graph.exits]
    assert ends == sorted(ends)
    assert graph.nodes != list(graph.module.graph.nodes)  # the classifiers are called at the end
    try:
        executor = StagedExecutor(network, x)
    except NotCuttable:  # a value that shares memory across the cut
        return
    state, _ = executor.start(x.clone())
    for exit_ in range(2):
        _, state = executor.run(exit_, state, [])
    (logits,), _ = executor.run(2, state, [2])
    np.testing.assert_allclose(logits, outputs(model, x)[-1].numpy(), atol=1e-5)


def test_a_network_is_rebuilt_from_its_config_and_weights():
    model, x = own("tuple")
    network = attach(model, x, exits="own", verbose=False)
    again = attach(Branchy().eval(), x, verbose=False, **network.config())
    again.load_state_dict(network.state_dict())
    assert again.cost == network.cost
    for one, other in zip(network(x), again(x), strict=True):
        assert torch.equal(one, other)
    assert attach(network.backbone, x, exits="own", verbose=False).exit_names == network.exit_names


NAMED = Named().eval(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


# -- training and recording --------------------------------------------------------------------------------


def batches(seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(96, 4, generator=rng)
    return [(x[i : i + 32], (x[i : i + 32, 0] > 0).long()) for i in range(0, 96, 32)]


@pytest.mark.parametrize("options", [{"mode": "joint"}, {"mode": "distill", "teacher": "original"}])
def test_everything_learns_from_the_losses_of_all_exits(options):
    torch.manual_seed(0)
    network = attach(Named(2).eval(), NAMED[1], exits="own", verbose=False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    history = train(network, batches(), epochs=15, learning_rate=0.3, progress=False, device="cpu", **options)
    assert all(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert min(history.epochs[-1].train_accuracy) > 0.9
    trace = record(network, batches(1), device="cpu")
    assert trace.n_exits == 2
    assert trace.risk.max() < 0.2


# -- networks that have no exits of their own ----------------------------------------------------------------


class Returns(nn.Module):
    """Returns what a function makes of two linear layers' outputs."""

    def __init__(self, function) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(4, 2)
        self.function = function

    def forward(self, x):
        a = self.a(x)
        return self.function(self, x, a, self.b(a))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x, a, b: b, "this one returns Tensor: give exits a number"),
        (lambda m, x, a, b: [b], "two outputs or more, and this one returns 1"),
        (lambda m, x, a, b: [], "two outputs or more, and this one returns 0"),
        (lambda m, x, a, b: [a, {"logits": b}], "output 1 of the network is dict"),
        (lambda m, x, a, b: {"early": a, "map": b[..., None]}, r"output 'map' .* of shape \(5, 3, 1\)"),
        (lambda m, x, a, b: [a, b[:2]], r"shape \(2, 3\), on a batch of 5"),
        (lambda m, x, a, b: [a.argmax(1, keepdim=True), b], "output 0 .* is torch.int64"),
        (lambda m, x, a, b: [m.c(x), b], r"different numbers of classes: \[2, 3\]"),
        (lambda m, x, a, b: [b, a], "output 1 of the network is no exit of its own: what output 0 needs"),
        (lambda m, x, a, b: list(torch.stack([a, b]).unbind(0)), "output 1 of the network is no exit of its own"),
        (lambda m, x, a, b: [x[:, :3], b], "output 0 of the network is no exit of its own: nothing"),
    ],
)  # fmt: skip
def test_outputs_that_are_no_exits_are_refused(function, message):
    with pytest.raises(InputError, match=message):
        attach(Returns(function).eval(), torch.randn(5, 4), exits="own", verbose=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_classes": 4}, "answers with 3 classes, not with 4"),
        ({"hidden": 0}, "leave out: hidden"),
        ({"head": "grid"}, "leave out: head"),
        ({"head": "own", "exits": ["exits.0", "exits.1"]}, r"or the 1 names exits.0, got"),
        ({"exits": "all"}, r"exits must be a number, 'own' or a list of names: write exits=\['all'\]"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        attach(*NAMED, verbose=False, **{"exits": "own", **options})


class Strange(Named):
    """Gives more in training; or its code loops over the rows."""

    def __init__(self, *, loops: bool) -> None:
        super().__init__()
        self.loops = loops

    def forward(self, tokens):
        found = super().forward(tokens)
        if self.loops:
            return {**found, "dear": torch.stack([row * 2 for row in found["dear"]])}
        return {**found, "more": found["dear"]} if self.training else found


def test_what_needs_heads_and_outputs_that_depend_on_the_mode_are_refused():
    network = attach(Strange(loops=False).eval(), NAMED[1], exits="own", verbose=False, check=False)
    with pytest.raises(InputError, match="its exits are its own"):
        train(network, batches(), epochs=1, progress=False, mode="frozen")
    with pytest.raises(InputError, match="3 outputs in training mode and 2 in the other"):
        network.train()(NAMED[1])


def test_one_that_cannot_be_exported_runs_whole():
    model, x = Strange(loops=True).eval(), torch.randn(5, 4)
    with pytest.warns(RunsWhole, match="for row in"):
        network = attach(model, x, exits="own", verbose=False)
    assert network.cost.saves_nothing
    with pytest.warns(RunsWhole):
        executor = make_executor(network, x)
    assert isinstance(executor, WholeExecutor)
    logits, _ = executor.run(0, executor.start(x)[0], [0, 1])
    for mine, its in zip(logits, outputs(model, x), strict=True):
        np.testing.assert_allclose(mine, its.numpy(), atol=1e-6)
