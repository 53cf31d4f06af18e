"""A network with a gate, from `train --gate` to one file: inputs go from the gate straight to their exits."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from own_exit_networks import Branchy
from tests.cli.command import exeunt, refusal
from torch.utils.flop_counter import FlopCounterMode

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.engine.executor import OneLookExecutor
from exeunt.engine.inputs import input_keys
from exeunt.errors import InputError
from exeunt.runs.folder import RunFolder
from exeunt.score.confidence import BEFORE_EXITS
from exeunt.torch import attach, record
from exeunt.torch.executor import StagedExecutor
from exeunt.torch.exits.heads import GateFeatures
from exeunt.zoo import digits

TRAIN = (
    "train --model exeunt.zoo:digits --data sklearn:digits --exits blocks.2,blocks.3 --epochs 1 --mode joint "
    "--augment none --heads-first 0"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    exeunt(f"{TRAIN} --gate blocks.0 --gate-features spread --out run", cwd=folder)
    exeunt("export run", cwd=folder)
    return folder


@pytest.fixture
def policy(folder):
    exeunt("calibrate run --policy one_look --budget 75%", cwd=folder)
    return RunFolder.open(folder / "run").policy


def images(n):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", ["mean", "spread"])
def test_the_gate_tells_means_of_its_module_and_spreads(kind):
    network = attach(
        digits(), images(2), ["blocks.2"], gate="blocks.1", gate_features=kind, verbose=False
    ).eval()
    x, seen = images(7), []
    network.backbone.get_submodule("blocks.1").register_forward_hook(lambda *given: seen.append(given[2]))
    trace = record(network, [(x[:4], None), (x[4:], None)])
    output = torch.cat(seen).flatten(2).numpy()
    expected = output.mean(axis=2)
    if kind == "spread":
        expected = np.concatenate([expected, np.sqrt(output.var(axis=2) + 1e-6)], axis=1)
    np.testing.assert_allclose(trace.features[BEFORE_EXITS], expected, atol=1e-5)
    assert network.config()["gate"] == "blocks.1"
    assert f"gate: {'mean and spread' if kind == 'spread' else 'mean'} of each channel" in network.describe()


def test_texts_are_pooled_over_the_tokens_that_count():
    gate = GateFeatures((5, 4), "tokens", "mean")
    tokens, mask = torch.randn(2, 5, 4), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    np.testing.assert_allclose(gate(tokens, mask)[1], tokens[1, :2].mean(0), atol=1e-6)
    last = GateFeatures((3, 3, 4), "channels_last", "mean")
    np.testing.assert_allclose(last(torch.ones(2, 3, 3, 4)), np.ones((2, 4)))
    flat = GateFeatures((6,), "flat", "mean")
    assert flat(torch.ones(2, 6)).shape == (2, 6)


def test_a_gate_that_runs_after_the_first_exit_is_refused():
    with pytest.raises(
        InputError, match=r"the gate 'blocks.2' does not run before the first exit.*'blocks.1'"
    ):
        attach(digits(), images(2), ["blocks.1", "blocks.3"], gate="blocks.2", verbose=False)
    with pytest.raises(InputError, match="does not run before"):
        attach(digits(), images(2), ["blocks.1"], gate="blocks.1", verbose=False)
    with pytest.raises(InputError, match=r"no place for an exit named 'blocks\.9'"):
        attach(digits(), images(2), ["blocks.1"], gate="blocks.9", verbose=False)
    with pytest.raises(InputError, match="gate_features must be one of mean, spread"):
        attach(digits(), images(2), ["blocks.1"], gate="blocks.0", gate_features="max", verbose=False)
    placed = attach(digits(), images(2), 3, gate="blocks.0", verbose=False)
    assert placed.points[0].cost > placed.gate_point.cost


def test_a_network_with_exits_of_its_own_decodes_the_exit_that_was_chosen_alone():
    torch.manual_seed(0)
    x = torch.randn(200, 2, 6, 6)
    network = attach(
        Branchy().eval(), x[:2], exits="own", gate="blocks.0", gate_features="spread", verbose=False
    )
    trace = record(network, [(x, torch.randint(0, 3, (200,)))])
    fit, calibrate, _ = trace.split()
    policy = ex.one_look(fit, calibrate, budget="80%")
    assert (policy.counts > 0).sum() >= 2
    np.testing.assert_allclose(policy.cost.cumulative, network.cost.of_one_look.cumulative)
    executor = OneLookExecutor(StagedExecutor(network, x[:2]))
    answers = Engine(executor, policy).answer(x.numpy())
    sure = ~answers.borderline
    np.testing.assert_array_equal(answers.exit[sure], policy.route(trace)[sure])
    state, _ = executor.start(x[:5])
    state = executor.run(0, state, [0])[1]
    own_exit = 1
    with FlopCounterMode(display=False) as counter:
        executor.run(own_exit + 1, state, [own_exit + 1])
    gate = network.gate_point.cost
    assert counter.get_total_flops() / 2 / 5 == policy.cost.cumulative[own_exit] - gate


def test_runners_answer_as_the_trace_does_in_pytorch_onnx_int8_and_one_file(folder, policy):
    test = RunFolder.open(folder / "run").trace("test")
    assert policy.looks_once
    assert (policy.counts > 0).sum() >= 2
    x = images(40).numpy()
    eager, onnx = (ex.load(folder / "run", executor=name)(x) for name in ("eager", "onnx"))
    sure = ~(eager.borderline | onnx.borderline)
    np.testing.assert_array_equal(eager.exit[sure], onnx.exit[sure])
    np.testing.assert_array_equal(eager.label[sure], onnx.label[sure])
    np.testing.assert_allclose(eager.cost, policy.cost.cumulative[eager.exit])
    exeunt("export run --one-file", cwd=folder)
    session = onnxruntime.InferenceSession(
        folder / "run" / "one-file.onnx", providers=["CPUExecutionProvider"]
    )
    name, keys = session.get_inputs()[0].name, input_keys(x, len(x))
    for row in np.flatnonzero(sure):
        label, _, exit_, cost = session.run(None, {name: x[[row]], "key": keys[[row]]})
        assert (label[0], exit_[0], cost[0]) == (onnx.label[row], onnx.exit[row], onnx.cost[row])
    x[0, 0, 0, 0] = np.nan
    label, _, exit_, _ = session.run(None, {name: x[:1], "key": keys[:1]})
    assert (label[0], exit_[0]) == (-1, -1)
    assert not ex.load(folder / "run")(x[:2]).valid[0]
    exeunt("export run --precision int8", cwd=folder)
    small = RunFolder.open(f"{folder / 'run'}@int8")
    assert small.trace("test").features[BEFORE_EXITS].shape == test.features[BEFORE_EXITS].shape
    exeunt("calibrate run@int8 --policy one_look --budget 75%", cwd=folder)
    policy = RunFolder.open(f"{folder / 'run'}@int8").policy
    answers = ex.load(f"{folder / 'run'}@int8")(images(40).numpy())
    np.testing.assert_allclose(answers.cost, policy.cost.cumulative[answers.exit])


def test_policies_that_look_at_every_exit_run_the_same_network(folder):
    policy = ex.eero(
        *(RunFolder.open(folder / "run").trace(part) for part in ("fit", "calibrate")), budget="75%"
    )
    x = images(40).numpy()
    eager, onnx = (ex.load(folder / "run", executor=name, policy=policy)(x) for name in ("eager", "onnx"))
    sure = ~(eager.borderline | onnx.borderline)
    np.testing.assert_array_equal(eager.exit[sure], onnx.exit[sure])
    np.testing.assert_array_equal(eager.label[sure], onnx.label[sure])


@pytest.mark.filterwarnings("ignore:a budget of 9900%")  # more than any exit takes, on any machine
@pytest.mark.usefixtures("policy")
def test_commands_take_it_from_end_to_end(folder):
    done = exeunt("predict run --data sklearn:digits --out answers.parquet", cwd=folder)
    assert "allowed" in done.stdout
    assert "one_look" in exeunt("show run", cwd=folder).stdout
    assert "one_look" in exeunt("evaluate run --no-figures", cwd=folder).stdout
    timed = exeunt("bench run --batch-size 8 --repeats 1 --max-seconds 0", cwd=folder).stdout
    assert "the run's policy" in timed
    exeunt("record run --data sklearn:digits --out recorded", cwd=folder)
    exeunt("calibrate run --policy one_look --budget 75% --traces recorded", cwd=folder)
    exeunt("calibrate run --policy one_look --budgets 70%,90%", cwd=folder)
    exeunt("calibrate run --policy one_look --budget 9900% --of time --batch-size 64", cwd=folder)
    assert RunFolder.open(folder / "run").policy.cost.unit == "ms"
    done = exeunt("calibrate run --budget 9900% --of time --batch-size 64", cwd=folder)
    assert "one look at the gate" in done.stderr


def test_a_run_without_a_gate_is_refused_by_name(folder, policy):
    exeunt(f"{TRAIN} --out bare", cwd=folder)
    assert "this trace has none: train the network with a gate (--gate STAGE)" in refusal(
        "calibrate bare --policy one_look --budget 75%", cwd=folder
    )
    assert "--gate" in refusal(f"{TRAIN} --gate-features spread --out other", cwd=folder)
    with pytest.raises(ex.ArtefactError, match="was calibrated for another network"):
        ex.load(folder / "bare", policy=policy)
