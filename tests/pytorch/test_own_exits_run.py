"""A network's own exits from the command to the answers: trained, calibrated, exported, asked."""

from __future__ import annotations

from shlex import split
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("onnxscript")

from own_exit_networks import digits, trained_digits

import exeunt as ex
from cli.command import printed
from exeunt.runs.folder import RunFolder
from exeunt.torch.open_run import load_network

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "own_exit_networks:digits"


def call(*arguments: object) -> str:
    """Run a command in this process; return what it printed, or the message of its error."""
    try:
        return printed(*arguments)
    except ex.ExeuntError as error:
        return str(error)


def train(out: Path, *options: object, model: str = MODEL) -> str:
    given = split("--data sklearn:digits --exits own --augment none")
    return call("train", "--model", model, *given, "--out", out, *options)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_every_command_takes_them(tmp_path):
    out, answers, eager = tmp_path / "run", tmp_path / "onnx.parquet", tmp_path / "eager.parquet"
    joint = ("--mode", "joint", "--epochs", "2")
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
    plain = digits()
    kept = {name.removeprefix("backbone.network."): value for name, value in network.state_dict().items()}
    plain.load_state_dict(kept)
    x = torch.randn(4, 3, 8, 8)
    for mine, its in zip(network.cpu()(x), plain.eval()(x), strict=True):
        torch.testing.assert_close(mine, its)


def test_a_trained_network_is_recorded_as_it_is(tmp_path):
    out = tmp_path / "run"
    assert "nothing to train" in train(out, model="own_exit_networks:trained_digits")
    network = load_network(RunFolder.open(out), trusted="own_exit_networks:trained_digits")
    kept, given = network.state_dict(), trained_digits().state_dict()
    assert all(torch.equal(value, kept[f"backbone.network.{name}"]) for name, value in given.items())
    assert RunFolder.open(out).manifest["training"]["mode"] == "frozen"


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
