"""Networks that cannot be cut or bring their own exits, from the command to the answers: what is said and answered."""

from __future__ import annotations

import importlib
import linecache
import sys
from shlex import split
from typing import TYPE_CHECKING

import numpy as np
import own_exit_networks
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import exeunt as ex
from cli.command import printed
from exeunt.errors import RunsWhole
from exeunt.runs import load
from exeunt.runs.folder import RunFolder
from exeunt.torch import attach, record
from exeunt.torch.executor import StagedExecutor
from exeunt.torch.open_run import load_network

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("onnxscript")

ORIGINAL = "return torch.stack([self.classifier(row.mean((1, 2))) for row in x])"
CUT = "return self.classifier(x.mean((2, 3)))"
SOURCE = f"""
import torch
from exeunt.zoo import DigitsNet

class Rows(DigitsNet):
    def forward(self, x):
        x = self.blocks(x)
        {ORIGINAL}

def rows(n_classes=10):
    return Rows(n_classes)
"""


class LoopsOverRows(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return torch.stack([self.last(row) for row in self.second(self.first(x))])


@pytest.mark.parametrize("exits", [1, ["first"]])
def test_attach_warns_with_the_line_and_every_exit_costs_all(exits, capsys):
    said = r"costs as much as one at the last.*test_runs_whole.py, `return torch.stack\(.*`, turns"
    with pytest.warns(RunsWhole, match=said):
        network = attach(LoopsOverRows(), torch.randn(2, 4), exits)
    assert network.cost.cumulative / network.cost.full == pytest.approx([1, 1], rel=1e-8)
    assert "this network runs whole" in capsys.readouterr().out
    assert "for row in" in network.runs_whole
    trace = record(network, [(torch.randn(40, 4), torch.zeros(40, dtype=torch.int64))])
    with pytest.raises(ex.InfeasibleBudget, match=r"no exit saves anything .*for row in"):
        ex.eero(*trace.split()[:2], budget="90%")


def test_a_place_that_cannot_be_cut_is_named():
    class Mixes(LoopsOverRows):
        def forward(self, x):
            h = self.first(x)
            return self.last(self.second(h - h.mean(0)))

    with pytest.warns(RunsWhole, match="rows depend on each other"):
        attach(Mixes(), torch.randn(2, 4), ["first"], verbose=False)


# -- the commands ----------------------------------------------------------------------------------------


def call(*arguments: object) -> str:
    """Run a command in this process; return what it printed, or the message of its error."""
    try:
        return printed(*arguments)
    except ex.ExeuntError as error:
        return str(error)


@pytest.fixture
def module(tmp_path, monkeypatch) -> Path:
    """The file of a network that loops over rows."""
    pytest.importorskip("sklearn")
    file = tmp_path / "rows_net.py"
    file.write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "rows_net", raising=False)
    return file


def test_every_command_says_so_and_the_mend_needs_no_new_training(module, tmp_path):
    out, answers = tmp_path / "run", tmp_path / "answers.parquet"
    given = ("--model", "rows_net:rows", "--data", "sklearn:digits")
    options = split("--exits 2 --mode joint --epochs 1 --augment none")
    train = ("train", *given, *options, "--out", out)
    line = 1 + SOURCE.splitlines().index(f"        {ORIGINAL}")
    with pytest.warns(RunsWhole, match="runs whole"):
        printed = call(*train)
    where = f"line {line} of {module}, `{ORIGINAL}`"
    assert where in printed
    assert "no budget can be kept" in printed
    assert "Then run this command again" in printed
    trained = (out / "weights.safetensors").read_bytes()

    assert where in call("show", out)
    for options in (["--budget", "50%"], ["--max-loss", "10%"], ["--budgets", "50%,90%"]):
        refused = call("calibrate", out, *options)
        assert where in refused
        assert "no smaller budget can be kept" in refused
    assert "saves nothing" in call("calibrate", out, "--budget", "100%", "--policy", "eero")
    with pytest.warns(RunsWhole, match="for row in x"):
        printed = call("predict", out, *given, "--out", answers)
    assert "(100.0% of the budget)" in printed
    costs = np.array(pq.read_table(answers)["cost"])
    assert costs == pytest.approx(np.full(500, RunFolder.open(out).cost.full))
    assert "no smaller budget can be kept" in call("calibrate", out, "--budget", "0.0001ms")

    before = (out / "bundle.json").stat().st_mtime_ns
    with pytest.warns(RunsWhole):
        assert "no budget can be kept" in call(*train)
    assert (out / "bundle.json").stat().st_mtime_ns == before  # nothing was recorded again

    module.write_text(SOURCE.replace(ORIGINAL, CUT))
    sys.modules.pop("rows_net")
    importlib.invalidate_caches()
    linecache.checkcache()
    printed = call(*train)
    assert "trying again" in printed
    assert "next: exeunt calibrate" in printed
    assert (out / "weights.safetensors").read_bytes() == trained
    assert "Guarantee" in call("calibrate", out, "--budget", "80%", "--policy", "eero")
    runner = load(out, trusted="rows_net:rows")
    assert isinstance(runner.executor, StagedExecutor)


MODEL = "own_exit_networks:digits"


def train(out: Path, *options: object, model: str = MODEL) -> str:
    given = split("--data sklearn:digits --exits own --augment none")
    return call("train", "--model", model, *given, "--out", out, *options)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_every_command_takes_them(tmp_path):
    out, answers, eager = tmp_path / "run", tmp_path / "onnx.parquet", tmp_path / "eager.parquet"
    joint = ("--mode", "joint", "--epochs", "1")
    printed = train(out, *joint)
    assert "the exits are the network's own: nothing is added to it" in printed
    assert "next: exeunt calibrate" in printed
    assert "finished already" in train(out, *joint)

    assert "Guarantee" in call("calibrate", out, "--budget", "60%", "--policy", "eero")
    shown = call("show", out)
    assert all(name in shown for name in ("exits.0", "exits.1", "(own classifier)"))
    assert "3 stages written" in call("export", out, "--model", MODEL)
    assert "onnx             ok" in call("verify", out)
    assert "inputs answered" in call("predict", out, "--data", "sklearn:digits", "--out", answers)
    call("predict", out, "--data", "sklearn:digits", "--out", eager, "--executor", "eager", "--model", MODEL)
    one, other = pq.read_table(answers), pq.read_table(eager)
    sure = ~np.array(one["borderline"])
    for column in ("name", "class_name", "exit", "cost"):
        assert np.array_equal(np.array(one[column])[sure], np.array(other[column])[sure]), column
    assert len(set(np.array(one["exit"]).tolist())) > 1

    run = RunFolder.open(out)
    network = load_network(run, trusted=MODEL)
    plain = own_exit_networks.digits()
    kept = {name.removeprefix("backbone.network."): value for name, value in network.state_dict().items()}
    plain.load_state_dict(kept)
    x = torch.randn(4, 3, 8, 8)
    for mine, its in zip(network.cpu()(x), plain.eval()(x), strict=True):
        torch.testing.assert_close(mine, its)


def test_a_trained_network_is_recorded_as_it_is(tmp_path):
    out = tmp_path / "run"
    assert "nothing to train" in train(out, model="own_exit_networks:trained_digits")
    network = load_network(RunFolder.open(out), trusted="own_exit_networks:trained_digits")
    kept, given = network.state_dict(), own_exit_networks.trained_digits().state_dict()
    assert all(torch.equal(value, kept[f"backbone.network.{name}"]) for name, value in given.items())
    assert RunFolder.open(out).manifest["training"]["mode"] == "frozen"


def test_a_network_whose_code_was_changed_after_calibration_is_refused(tmp_path, monkeypatch):
    out, model = tmp_path / "run", "own_exit_networks:trained_digits"
    train(out, model=model)
    load_network(RunFolder.open(out), trusted=model)
    branchy = sys.modules["own_exit_networks"].Branchy  # as the run imports it
    before = branchy.forward
    monkeypatch.setattr(branchy, "forward", lambda network, x: before(network, 1.1 * x))
    with pytest.raises(
        ex.ArtefactError, match=r"its code was changed. Put the code back, or train .* calibrate"
    ):
        load_network(RunFolder.open(out), trusted=model)


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        ((), "would have random weights, and heads alone cannot make up for that"),
        (("--mode", "joint", "--heads-first", "1"), "there are no heads"),
        (("--mode", "joint", "--hidden", "8"), "leave out: hidden"),
    ],
)
def test_options_that_need_heads_are_refused_before_training(tmp_path, options, printed):
    assert printed in train(tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()
