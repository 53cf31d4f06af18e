"""A run folder without a network, for what the command line does with recorded outputs."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import exeunt as ex
from exeunt.runs.folder import RunFolder
from exeunt.runs.manifest import provenance

SPLIT = {"source": "mine", "fingerprint": "0", "seed": 0, "pretrained": True, "matched_by": "content"}
ABOUT = {
    "model": {"spec": "mine:net", "weights": None, "n_classes": 5, "macs": 8.0},
    "network": {"exits": ("a", "b"), "head": "grid"},
    "inputs": {"kind": "text"},
    "class_names": [],
    "data": {"name": "mine", "label": None, "fingerprint": "0"},
    "split": {**SPLIT, "dropped": 0, "parts": {}},
    "training": {"mode": "frozen"},
    "provenance": provenance([], command="test", seed=0),
}


@pytest.fixture(scope="session")
def _whole(tmp_path_factory):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 5000)
    logits = rng.normal(size=(5000, 3, 5))
    logits[np.arange(5000), :, y] += [2.0, 4.0, 4.2]
    trace = ex.ExitTrace.from_logits(logits, cost=ex.CostModel([1e6, 2e6, 4e6]), label=y)
    parts = dict(
        zip(("fit", "calibrate", "test"), trace.split(fit=0.2, calibrate=0.4, test=0.4), strict=True)
    )
    folder = tmp_path_factory.mktemp("whole")
    (folder / "weights.safetensors").write_bytes(b"weights")
    return RunFolder.create(folder, cost=trace.cost, traces=parts, about=ABOUT).path


@pytest.fixture
def run(_whole, tmp_path):
    """A run folder of 3 exits, the last of which is hardly better than the second."""
    return RunFolder.open(shutil.copytree(_whole, tmp_path, dirs_exist_ok=True))
