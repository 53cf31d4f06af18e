"""Run folders in PyTorch: old ones open, foreign code does not run, and what does not fit is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from exeunt.data import Preprocess
from exeunt.errors import ArtefactError, InputError
from exeunt.runs.folder import RunFolder
from exeunt.torch import attach, record
from exeunt.torch.models.preparation import save_preparation
from exeunt.torch.models.weights import save_weights
from exeunt.torch.open_run import load_network, open_eager
from exeunt.zoo import digits

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def made_run(folder: Path, spec: str, cost_factor: float = 1.0) -> tuple[RunFolder, list[torch.Tensor]]:
    """A run folder of an untrained network that the manifest says is made by `spec`, and its logits."""
    network = attach(digits(), IMAGES[:2], 3, verbose=False).eval()
    save_weights(network, folder / "weights.safetensors")
    trace = record(network, [(IMAGES, torch.zeros(30, dtype=torch.int64), torch.arange(30))])
    about = {
        "model": {"spec": spec, "n_classes": 10, "macs": 8.0},
        "network": network.config(),
        "inputs": save_preparation(Preprocess(size=(8, 8)), folder, IMAGES[:2]),
        "class_names": list("0123456789"),
        "data": {"name": "noise"}, "split": {}, "training": {}, "provenance": {},
    }  # fmt: skip
    parts = dict(zip(("fit", "calibrate", "test"), trace.split(), strict=True))
    cost = type(network.cost)(network.cost.cumulative * cost_factor)
    RunFolder.create(folder, cost=cost, traces=parts, about=about)
    with torch.no_grad():
        return RunFolder.open(folder), network(IMAGES)


def test_a_network_opens_with_its_weights(tmp_path):
    run, expected = made_run(tmp_path, "exeunt.zoo:digits")
    network = load_network(run).cpu()
    assert not network.training
    with torch.no_grad():
        for logits, before in zip(network(IMAGES), expected, strict=True):
            torch.testing.assert_close(logits, before)


def test_code_of_the_run_folders_choice_is_not_run_unless_it_is_trusted(tmp_path):
    run, _ = made_run(tmp_path, "no_such_module:network")
    with pytest.raises(InputError, match="if you trust it, say so with --model no_such_module:network"):
        load_network(run)
    with pytest.raises(InputError, match="no module 'no_such_module'"):
        load_network(run, trusted="no_such_module:network")


def test_a_network_that_is_built_differently_here_is_refused(tmp_path):
    run, _ = made_run(tmp_path, "exeunt.zoo:digits", cost_factor=2.0)
    with pytest.raises(ArtefactError, match="another version of its library"):
        load_network(run)


def test_segments_are_those_asked_for(tmp_path):
    run, _ = made_run(tmp_path, "exeunt.zoo:digits")
    assert open_eager(run).segments == ((0, 0), (1, 1), (2, 2), (3, 3))
    assert open_eager(run, segments=((0, 1), (2, 3))).segments == ((0, 1), (2, 3))
